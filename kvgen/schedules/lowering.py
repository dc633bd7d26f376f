"""Nodes of a recurrence's graph as values of a kernel: of a window's tokens, or of the buffer's
places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.naming import described
from kvgen.algebra.padding import padded_with_zeros
from kvgen.functions.abs import ABS
from kvgen.functions.exp import EXP
from kvgen.functions.log import LOG
from kvgen.functions.registry import FUNCTIONS, function_of, reduces
from kvgen.functions.sqrt import SQRT
from kvgen.ir.build import Builder
from kvgen.ir.values import Helper, Value, Wish

POWER = Helper("_power", elementwise=True)
# factors of a power that are multiplied one by one
FACTORS = 8


class Loads(Protocol):
    """What is there without being computed. tokens: the axis of vectors over K, and of others."""

    @property
    def tokens(self) -> tuple[str, str]: ...
    def has(self, node: Node) -> bool: ...

    def __call__(self, node: Node, name: str | None) -> Value: ...


@dataclass
class Lowering:
    """known: nodes that have a value. names: those of nodes. suffix: what theirs have behind them
    here. masks: which of a channel's lanes are real, where some are not. ahead: of nodes that are
    loaded before they are asked for if a constant is not 0, that constant and what is loaded then.
    """

    build: Builder
    graph: Graph
    loads: Loads
    names: Mapping[Node, str]
    masks: Mapping[str, Value]
    suffix: str = ""
    known: dict[Node, Value] = field(default_factory=dict)
    padded: dict[Node, bool] = field(default_factory=dict)
    ahead: dict[Node, tuple[str, Value]] = field(default_factory=dict)

    def beside(self, loads: Loads, suffix: str) -> Lowering:
        """The same values of other tokens."""
        return Lowering(self.build, self.graph, loads, self.names, self.masks, suffix)

    def again(self, suffix: str, known: Mapping[Node, Value]) -> Lowering:
        """The same values of the same tokens, where some nodes are something else."""
        copy = self.beside(self.loads, suffix)
        copy.known = {**self.known, **known}
        return copy

    def value(self, root: Node) -> Value:
        """The node's value, with what it needs before it."""
        has = self.loads.has
        for node in reachable([root], self.known, lambda x: () if has(x) else x.args):
            if node not in self.known:
                self.known[node] = self._made(node)
        return self.known[root]

    def found(self, roots: Sequence[Node]) -> list[Node]:
        """What they need that is there without being computed."""
        has = self.loads.has
        nodes = reachable(list(roots), self.known, lambda x: () if has(x) else x.args)
        return [node for node in nodes if node not in self.known and has(node)]

    def name(self, node: Node) -> str | None:
        name = described(node, self.names)
        if name is None:
            return None
        own = node in self.names and not isinstance(name, Wish)
        return name + self.suffix if own else Wish(name + self.suffix)

    def load(self, node: Node) -> Value:
        """What is there without being computed."""
        if node not in self.ahead:
            return self._loaded(node)
        constant, early = self.ahead[node]
        with self.build.when(constant, holds=False):
            late = self._loaded(node)
        return self.build.either(constant, early, late)

    def load_ahead(self, nodes: Sequence[Node], constant: str) -> None:
        """Load them in this block, which is there if the constant is not 0, and else where they are
        asked for: loads that stand among what is computed wait for memory one behind the other."""
        self.ahead |= {node: (constant, self._loaded(node)) for node in nodes}

    def _loaded(self, node: Node) -> Value:
        name = self.name(node)
        return self.loads(node, name and str(name))

    def clean(self, node: Node) -> Value:
        """With zeros where a channel has no lanes, for sums and products."""
        value, mask = self.value(node), self.masks.get(node.axes.channels)
        if mask is None or padded_with_zeros(node, self.loads.has, self.padded):
            return value
        return self.build.where(mask, value, 0.0)

    def _made(self, node: Node) -> Value:
        build = self.build
        if node.is_const:
            return build.number(node.const)
        if self.loads.has(node):
            return self.load(node)
        name = self.name(node)
        if reduces(node):
            return self._of(node, build.sum(self.clean(node.args[0]), str(node.value), name))
        args = tuple(self._of(node, self.known[arg]) for arg in node.args)
        function = function_of(node)
        if function is not None:
            return build.function(FUNCTIONS[node.op], *args, name=name)
        match node.op:
            case "neg":
                return build.let("neg", args, args[0].axes, args[0].type, None, name)
            case "pow":
                return self._power(node, args, name)
            case "add" | "sub" | "mul" | "div":
                return build.binary(node.op, *args, name=name)
            case _:
                raise AssertionError(f"no value of {node.op}")

    def _of(self, node: Node, value: Value) -> Value:
        """The value with the tokens of the node's own axes."""
        of_keys, of_others = self.loads.tokens
        tokens = of_keys if node.axes.channels == "K" else of_others
        return self.build.along(value, tokens) if of_keys != of_others else value

    def _power(self, node: Node, args: tuple[Value, ...], name: str | None) -> Value:
        build, (base, exponent) = self.build, args
        raised, power = node.args
        if raised.is_const:
            log = build.number(math.log(raised.const))
            return build.function(EXP, build.mul(exponent, log), name=name)
        if not power.is_const:
            return build.helper(POWER, base, exponent, name=name)
        number = power.const
        if abs(number) == 0.5:
            root = build.function(SQRT, base)
            return root if number > 0 else build.binary("div", build.number(1.0), root, name)
        if number != int(number):
            inner = build.mul(build.function(LOG, base), build.number(number))
            return build.function(EXP, inner, name=name)
        count = abs(int(number))
        if count == 0:
            return build.number(1.0)
        found = base
        if count <= FACTORS:
            for _ in range(count - 1):
                found = build.mul(found, base)
        else:
            even = build.number(float(count - count % 2))
            size = build.function(LOG, build.function(ABS, base))
            found = build.function(EXP, build.mul(size, even))
            found = build.mul(found, base) if count % 2 else found
        return found if number > 0 else build.binary("div", build.number(1.0), found, name)
