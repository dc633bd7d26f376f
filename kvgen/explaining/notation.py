"""Values of a form in the spec's own notation: one line for each named or shared value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.codegen.names import Namer
from kvgen.functions.function import Function, Seen
from kvgen.functions.registry import FUNCTIONS, reduces
from kvgen.values.axes import Axes

WIDE = 60
# a dot binds looser than a product here, so that it stands in parentheses there
ATOM, POWER, UNARY, PRODUCT, DOT, SUM = 6, 5, 4, 3, 2, 1
SIGNS = {"add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT)}
LEAVES = ("input", "param", "carried")
PRODUCTS = [each for each in FUNCTIONS.values() if each.product]


@dataclass(frozen=True)
class Line:
    """name = text, with the value's axes."""

    name: str
    text: str
    axes: Axes


@dataclass(frozen=True)
class Term:
    """A value's text, and how tightly it binds."""

    text: str
    binds: int = ATOM

    def inside(self, level: int) -> str:
        return self.text if self.binds >= level else f"({self.text})"


@dataclass
class Notation:
    """Writes values down as lines. Each shared value is written once, so texts stay linear.

    state: what the matrix state before the token is called. names: the names that certain values
    must have; they get a line of their own. known: what needs no further line. suffix: what is
    added to the name of each line.
    """

    graph: Graph
    state: str
    names: Mapping[Node, str] = field(default_factory=dict)
    known: dict[Node, Term] = field(default_factory=dict)
    suffix: str = ""
    namer: Namer = field(default_factory=Namer)
    lines: list[Line] = field(default_factory=list)
    users: dict[Node, int] = field(default_factory=dict)
    counted: set[Node] = field(default_factory=set)
    patterns: dict[Node, tuple[str, tuple[Node, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        leaves = [node for node in self.graph.nodes.values() if node.op in LEAVES]
        kept = [node for node in leaves if self.graph.names[node] == node.value]
        for node in dict.fromkeys((*kept, *leaves)):
            self.known.setdefault(node, Term(self.namer.new(self.graph.names[node])))
        for node in [node for node in self.graph.nodes.values() if node.op == "past"]:
            self.known.setdefault(node, Term(f"{self.known[node.args[0]].text}[-{node.value}]"))
        wanted = {node: name for node, name in self.names.items() if node not in self.known}
        self.names = {node: self.namer.new(name) for node, name in wanted.items()}

    def take(self) -> list[Line]:
        """The lines written since the last call."""
        lines, self.lines = self.lines, []
        return lines

    def count(self, roots: Iterable[Node]) -> None:
        """Count uses below these roots: what they share gets a line when it is first met."""
        for node in self._order(roots):
            if node not in self.counted:
                self.counted.add(node)
                for part in self._parts(node)[1]:
                    self.users[part] = self.users.get(part, 0) + 1

    def write(self, roots: Iterable[Node]) -> list[str]:
        """The roots' texts; what they need and has a name or several uses gets a line first."""
        roots = list(roots)
        self.count(roots)
        for node in self._order(roots):
            if node in self.known:
                continue
            term = self._term(node)
            named = node in self.names or node in self.graph.names or node.op == "read"
            shared = self.users.get(node, 0) > 1 and len(term.text) > 8
            if not node.is_const and node.op != "index" and (
                named or shared or (len(term.text) > WIDE and node in self.users)
            ):  # fmt: skip
                term = self._line(node, term)
            self.known[node] = term
        return [self.known[root].text for root in roots]

    def _line(self, node: Node, term: Term) -> Term:
        name = self.names.get(node)
        if name is None:
            name = self.graph.names.get(node) or ("read" if node.op == "read" else "y")
            name = self.namer.new(name)
        name += self.suffix
        self.lines.append(Line(name, term.text, node.axes))
        return Term(name)

    def _order(self, roots: Iterable[Node]) -> list[Node]:
        """Parts before their users, nothing below a value that is known."""
        return reachable(roots, self.known, lambda node: self._parts(node)[1])

    # -- patterns

    def _parts(self, node: Node) -> tuple[str, tuple[Node, ...]]:
        """The operation as a reader would name it, and what it acts on; the same at every call."""
        if node not in self.patterns:
            self.patterns[node] = self._pattern(node)
        return self.patterns[node]

    def _pattern(self, node: Node) -> tuple[str, tuple[Node, ...]]:
        if node.op == "mul":
            for function in PRODUCTS:
                seen = function.product and function.product(*node.args)
                if seen and all(self._plain(each) for each in seen.hidden):
                    return _named(function, seen), seen.args
        if reduces(node) and node.args[0].op == "mul" and self._plain(node.args[0]):
            x, y = node.args[0].args
            if x.axes.channels == y.axes.channels:
                return "dot", (x, y)
        return node.op, node.args

    def _plain(self, node: Node) -> bool:
        """Whether the value has no name of its own that a pattern would hide."""
        return not (node in self.known or node in self.names or node in self.graph.names)

    # -- texts

    def _term(self, node: Node) -> Term:
        if node.is_const:
            text = number(node.const)
            return Term(text, UNARY if text.startswith("-") else POWER if "**" in text else ATOM)
        op, parts = self._parts(node)
        terms = [self.known[part] for part in parts]
        if op in SIGNS:
            return _infix(op, terms, parts)
        match op:
            case "neg":
                return Term(f"-{terms[0].inside(POWER)}", UNARY)
            case "pow":
                return Term(f"{terms[0].inside(ATOM)}**{terms[1].inside(ATOM)}", POWER)
            case "dot":
                return Term(f"{terms[0].inside(ATOM)} @ {terms[1].inside(ATOM)}", DOT)
            case "index":
                return Term(f"{terms[0].text}[{node.value}]")
            case "read":
                left = parts[0].axes.channels == "K"
                column = terms[0].inside(ATOM)
                return Term(f"{column} @ {self.state}" if left else f"{self.state} @ {column}", DOT)
        function, _, eps = op.partition(":")
        inner = ", ".join(term.text for term in terms)
        return Term(f"{function}({inner}, eps={eps})" if eps else f"{function}({inner})")


def _named(function: Function, seen: Seen) -> str:
    """The function's name, and its keyword where that is not as it is without one."""
    if function.eps is None or seen.eps is None or seen.eps == float(function.eps):
        return function.name
    return f"{function.name}:{number(seen.eps)}"


def _infix(op: str, terms: list[Term], parts: tuple[Node, ...]) -> Term:
    sign, level = SIGNS[op]
    left, right = terms
    first = left.inside(level)
    if op in ("add", "sub") and parts[1].is_const and right.text.startswith("-"):
        return Term(f"{first} {'-' if op == 'add' else '+'} {right.text[1:]}", level)
    second = right.inside(level if op in ("add", "mul") else level + 1)
    if second.startswith("-"):
        second = f"({second})"
    return Term(f"{first} {sign} {second}", level)


def number(value: float) -> str:
    """A constant as a reader would write it; roots of integers as such."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value < 0:
        return f"-{number(-value)}"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    text = repr(value).replace("e-0", "e-")
    if len(text) > 12 and 1e-4 < value < 1e4:
        base = round(value**-2 if value < 1 else value**2)
        power = -0.5 if value < 1 else 0.5
        if 1 < base < 1 << 20 and math.isclose(base**power, value, rel_tol=1e-15):
            return f"{base}**{power}"
    return text if len(text) <= 12 else f"{value:.9g}".replace("e-0", "e-")
