"""Nodes as Triton text: readable statements with the spec's own names.

An `Emission` is one place in a kernel where values are computed: it knows how leaves are loaded
there and which dimensions a tile has, and turns the nodes that are asked of it into lines. A node
with a name in the spec, or used more than once, gets a line; everything else stays inline.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.naming import described
from kvgen.algebra.padding import padded_with_zeros
from kvgen.functions.function import Function
from kvgen.functions.registry import FUNCTIONS

LINE = 88
ATOM, UNARY, POWER, PRODUCT, SUM = 5, 4, 3, 2, 1
OPERATORS = {"add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT)}


@dataclass(frozen=True)
class Text:
    """A printed value: its text, how tightly it binds, and the dimensions of its tile."""

    text: str
    binds: int
    dims: str

    def inside(self, level: int) -> str:
        return self.text if self.binds >= level else f"({self.text})"


@dataclass
class Namer:
    """Hands out identifiers that are still free."""

    taken: set[str] = field(default_factory=set)
    # how often a name was wanted, so that a much wanted one is found at once
    counts: dict[str, int] = field(default_factory=dict)

    def new(self, wanted: str) -> str:
        name, count = wanted, self.counts.get(wanted, 1)
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.counts[wanted] = count
        self.taken.add(name)
        return name


@dataclass
class Emission:
    """Statements of one scope. `dims` of a tile is a string such as '' (a scalar), 'K' or 'PK'.

    known: nodes that have a text here. load(node) prints a leaf or a recorded value, or gives
    None for what is computed. helpers collects the module-level functions the text calls. suffix is
    appended to new names. masks: the name of the mask of each channel that is padded. called: names
    for nodes that have none in the spec, where they get a line.
    """

    graph: Graph
    namer: Namer
    load: Callable[[Node], Text | None]
    helpers: set[str] = field(default_factory=set)
    suffix: str = ""
    masks: dict[str, str] = field(default_factory=dict)
    known: dict[Node, Text] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    zero: dict[Node, bool] = field(default_factory=dict)
    called: dict[Node, str] = field(default_factory=dict)

    def beside(self, load: Callable[[Node], Text | None], suffix: str) -> Emission:
        """Where the same values are computed of other tokens: no name is taken twice."""
        like = (self.namer, load, self.helpers, suffix)
        return Emission(self.graph, *like, masks=self.masks, called=self.called)

    def take(self) -> list[str]:
        """The lines emitted since the last call."""
        lines, self.lines = self.lines, []
        return lines

    def bind(self, node: Node, text: Text, wanted: str | None = None) -> Text:
        """Give the node's value a line of its own and a name."""
        name = self.namer.new((wanted or self.name_of(node)) + self.suffix)
        self.lines.append(f"{name} = {text.text}")
        self.known[node] = Text(name, ATOM, text.dims)
        return self.known[node]

    def name_of(self, node: Node, otherwise: str = "term") -> str:
        names = ChainMap(self.graph.names, self.called)
        return names.get(node) or described(node, names) or otherwise

    def emit(self, roots: Iterable[Node]) -> list[Text]:
        """Print the roots; what they need is printed before them, each value once."""
        roots = list(roots)
        users: dict[Node, int] = dict.fromkeys(roots, 2)
        order = reachable(roots, self.known, lambda node: () if self.load(node) else node.args)
        for node in order:
            for arg in set(node.args):
                users[arg] = users.get(arg, 0) + (2 if node.args.count(arg) > 1 else 1)
        for node in order:
            if node in self.known:
                continue
            loaded = self.load(node)
            text = loaded or self._print(node)
            simple = node.is_const or (node.op == "neg" and node.args[0] in self.known)
            alone = users.get(node, 0) < 2 and node not in self.graph.names and not loaded
            if simple or (alone and len(text.text) < LINE):
                self.known[node] = text
            else:
                self.bind(node, text)
        return [self.known[root] for root in roots]

    # -- padded channels

    def clean(self, node: Node) -> Text:
        """The value with zeros in the padding of its channel, where sums and products look."""
        text = self.known[node]
        channel = next((c for c in node.axes.channels if c in self.masks), None)
        if (
            channel is None
            or channel not in text.dims
            or padded_with_zeros(node, self.load, self.zero)
        ):
            return text
        mask = aligned(Text(self.masks[channel], ATOM, channel), text.dims).text
        return Text(f"tl.where({mask}, {text.text}, 0.0)", ATOM, text.dims)

    # -- one node

    def _print(self, node: Node) -> Text:
        if node.is_const:
            return _constant(node.const)
        args = [self.known[arg] for arg in node.args]
        dims = joined(args)
        if node.op in OPERATORS:
            sign, level = OPERATORS[node.op]
            left = aligned(args[0], dims).inside(level)
            right = aligned(args[1], dims).inside(level + 1)
            return Text(f"{left} {sign} {right}", level, dims)
        if node.op == "neg":
            return Text(f"-{args[0].inside(UNARY)}", SUM, dims)
        if node.op == "pow":
            return self._power(node, args, dims)
        return self._call(FUNCTIONS[node.op], node, dims)

    def _call(self, function: Function, node: Node, dims: str) -> Text:
        if function.reduces:
            inner, channel = self.clean(node.args[0]), str(node.value)
            axis = inner.dims.index(channel)
            return Text(f"tl.sum({inner.text}, {axis})", ATOM, inner.dims.replace(channel, ""))
        if function.triton_helpers:
            self.helpers.add(function.name)
        args = (aligned(self.known[arg], dims).text for arg in node.args)
        return Text(function.triton.format(*args), ATOM, dims)

    def _power(self, node: Node, args: list[Text], dims: str) -> Text:
        base, (raised, exponent) = args[0], node.args
        if raised.is_const:
            log = Text(repr(math.log(raised.const)), ATOM if raised.const >= 1 else UNARY, "")
            return Text(f"tl.exp({args[1].inside(PRODUCT)} * {log.text})", ATOM, dims)
        if not exponent.is_const:
            self.helpers.add("_power")
            parts = ", ".join(aligned(arg, dims).text for arg in args)
            return Text(f"_power({parts})", ATOM, dims)
        power = exponent.const
        if abs(power) == 0.5:
            root = f"tl.sqrt_rn({base.text})"
            return Text(root, ATOM, dims) if power > 0 else Text(f"1.0 / {root}", PRODUCT, dims)
        if power != int(power):
            return Text(f"tl.exp({power!r} * tl.log({base.text}))", ATOM, dims)
        if not base.text.isidentifier():
            base = self.bind(raised, base, "base")
        count = abs(int(power))
        if count == 0:
            return Text(f"tl.zeros_like({base.text}) + 1.0", SUM, dims)
        text = " * ".join([base.text] * count)
        if count > 8:
            odd = f"{base.text} * " if count % 2 else ""
            text = f"{odd}tl.exp({float(count - count % 2)!r} * tl.log(tl.abs({base.text})))"
        return Text(f"1.0 / ({text})" if power < 0 else text, PRODUCT, dims)


def joined(args: Iterable[Text]) -> str:
    """The dimensions of an elementwise result, in order."""
    return ordered("".join(arg.dims for arg in args))


def ordered(dims: str) -> str:
    """The dimensions once each: G (heads of a group), P (places), K, V."""
    return "".join(dim for dim in "GPKV" if dim in dims)


def aligned(text: Text, dims: str) -> Text:
    """The value with length-1 dimensions where it lacks one of `dims`; scalars need none."""
    if not text.dims or text.dims == dims:
        return text
    subscript = ", ".join(":" if dim in text.dims else "None" for dim in dims)
    return Text(f"{text.inside(ATOM)}[{subscript}]", ATOM, dims)


def _constant(value: float) -> Text:
    if math.isinf(value):
        text = 'float("inf")' if value > 0 else '-float("inf")'
        return Text(text, ATOM if value > 0 else UNARY, "")
    return Text(repr(value), ATOM if value >= 0 else UNARY, "")
