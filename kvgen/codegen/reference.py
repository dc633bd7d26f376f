"""The recurrence as written, statement by statement, as lines of plain torch.

This is the oracle of everything else, so it is printed from the spec's own statements and shares
nothing with the derivation: no graph, no decays, no records.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from kvgen.functions.function import Reach
from kvgen.functions.registry import FUNCTIONS
from kvgen.language.declarations import MATRIX
from kvgen.language.past import past_name
from kvgen.language.spec import Spec
from kvgen.language.syntax import IDENTITY, Bin, Call, Expr, Index, Name, Neg, Num

# K' and V': the second axis of a matrix over one channel twice
ORDER = ("B", "extra", "head", "K", "K'", "V", "V'")
HEADS = ("H", "HV")
LEVELS = {"+": 1, "-": 1, "*": 2, "/": 2, "@": 2, "**": 4}
ATOM = 5
# below which a float64 is every whole number
EXACT = 1 << 53


@dataclass(frozen=True)
class Value:
    """Printed torch: its text, how tightly it binds, and its dimensions as axis names.

    of_identity: it is what the identity is multiplied with, a number or a diagonal.
    """

    text: str
    binds: int
    dims: tuple[str, ...]
    of_identity: bool = False

    @property
    def square(self) -> bool:
        """Whether it is a matrix over one channel twice, in full."""
        return any(dim.endswith("'") for dim in self.dims)

    def inside(self, level: int) -> str:
        return self.text if self.binds >= level else f"({self.text})"


@dataclass
class TorchPrinter:
    """Prints the statements of one spec; `helpers` collects the functions they call."""

    spec: Spec
    helpers: set[str]
    env: dict[str, tuple[str, ...]]
    sizes_used: set[str]
    # names that stand for a multiple of the identity
    identities: set[str] = field(default_factory=set)

    def aligned(self, value: Value, dims: tuple[str, ...]) -> Value:
        """The value with its heads repeated for the value heads, and length-1 axes inserted."""
        if "HV" in dims and "H" in value.dims and self.spec.ratio > 1:
            self.helpers.add("heads")
            axis = value.dims.index("H") - len(value.dims)
            grouped = tuple("HV" if dim == "H" else dim for dim in value.dims)
            value = Value(f"_heads({value.text}, {axis})", ATOM, grouped)
        present = {_slot(dim) for dim in value.dims}
        marks = [":" if _slot(dim) in present else "None" for dim in dims]
        while marks and marks[0] == "None":
            marks.pop(0)
        if "None" not in marks:
            return value
        return Value(f"{value.inside(ATOM)}[{', '.join(marks)}]", ATOM, dims)

    def expr(self, expr: Expr) -> Value:
        match expr:
            case Num(value=number):
                return _number(number)
            case Name(id=name) if name in self.env:
                return Value(name, ATOM, self.env[name], name in self.identities)
            case Name(id=name) if name == IDENTITY:
                return Value("1.0", ATOM, (), of_identity=True)
            case Name(id=name):
                self.sizes_used.add(name)
                return Value(name, ATOM, ())
            case Neg(value=inner):
                value = self.expr(inner)
                return Value(f"-{value.inside(3)}", 3, value.dims, value.of_identity)
            case Index(base=Name(id=name), index=place) if place < 0:
                # behind those before it stands the token itself
                return Value(f"{past_name(name)}[:, {place - 1}]", ATOM, self.env[name])
            case Index(base=base, index=place):
                value = self.expr(base)
                at = next(i for i, dim in enumerate(value.dims) if _slot(dim) == "extra")
                marks = ", ".join([":"] * at + [str(place)])
                dims = value.dims[:at] + value.dims[at + 1 :]
                return Value(f"{value.inside(ATOM)}[{marks}]", ATOM, dims)
            case Bin(op="@"):
                return self.contraction(expr)
            case Bin(op=op):
                return self.binary(op, self.expr(expr.left), self.expr(expr.right))
            case Call():
                return self.call(expr)
        raise AssertionError(f"no such expression: {expr}")

    def binary(self, op: str, left: Value, right: Value) -> Value:
        identities = left.of_identity + right.of_identity
        if op in "+-" and identities == 1:
            left, right = self.in_full(left, right), self.in_full(right, left)
        elif identities:
            plain = [replace(each, of_identity=False) for each in (left, right)]
            return replace(self.binary(op, *plain), of_identity=True)
        dims = joined(left.dims, right.dims)
        level = LEVELS[op]
        first = self.aligned(left, dims).inside(level + (op == "**"))
        second = self.aligned(right, dims).inside(level + (op != "**"))
        sign = op if op == "**" else f" {op} "
        return Value(f"{first}{sign}{second}", level, dims)

    def in_full(self, value: Value, other: Value) -> Value:
        """A multiple of the identity as a matrix like the other."""
        if not value.of_identity:
            return value
        channel = next(dim for dim in other.dims if f"{dim}'" in other.dims)
        state = next(each.name for each in self.spec.states if each.axes == MATRIX)
        text = f"torch.eye({self.spec.size(channel)}).to({state})"
        identity = Value(text, ATOM, (channel, f"{channel}'"))
        return self.binary("*", replace(value, of_identity=False), identity)

    def product(self, left: Value, right: Value) -> Value:
        """A product with a matrix over one channel twice, or with a multiple of the identity."""
        if left.of_identity and right.square and right.dims[-2] in left.dims:
            left = self.in_full(left, right)
        if right.of_identity and left.square and left.dims[-2] in right.dims:
            right = self.in_full(right, left)
        if left.of_identity or right.of_identity:
            both = left.of_identity and right.of_identity
            plain = [replace(each, of_identity=False) for each in (left, right)]
            return replace(self.binary("*", *plain), of_identity=both)
        head = joined(left.dims, right.dims)
        head = tuple(dim for dim in head if dim in ("B", *HEADS))
        sides = [self.aligned(each, head + each.dims[-2:]) for each in (left, right) if _wide(each)]
        if len(sides) == 2:
            last = sides[0] if right.square else sides[1]
            dims = (*head, sides[0].dims[-2], last.dims[-1])
            return Value(f"{sides[0].inside(3)} @ {sides[1].inside(3)}", 2, dims)
        # a vector is a matrix of one row, or of one column
        if _wide(right):
            row = self.aligned(left, head + left.dims[-1:])
            text = f"({row.inside(ATOM)}[..., None, :] @ {sides[0].inside(3)})[..., 0, :]"
            return Value(text, ATOM, head + left.dims[-1:])
        column = self.aligned(right, head + right.dims[-1:])
        text = f"({sides[0].inside(3)} @ {column.inside(ATOM)}[..., None])[..., 0]"
        return Value(text, ATOM, head + right.dims[-1:])

    def contraction(self, expr: Bin) -> Value:
        left, right = self.expr(expr.left), self.expr(expr.right)
        if any(each.square or each.of_identity for each in (left, right)):
            return self.product(left, right)
        over = "V" if {"K", "V"} <= set(left.dims) else "K"
        if not {"K", "V"} <= set(left.dims + right.dims):
            over = "K" if "K" in left.dims else "V"
        product = self.binary("*", left, right)
        axis = product.dims.index(over) - len(product.dims)
        dims = tuple(dim for dim in product.dims if dim != over)
        return Value(f"({product.text}).sum({axis})", ATOM, dims)

    def call(self, expr: Call) -> Value:
        args = [self.expr(arg) for arg in expr.args]
        function = FUNCTIONS[expr.func]
        if function.reach is Reach.SIDES:
            left, right = args
            if left.dims[-1] == right.dims[-1]:
                second = (*right.dims[:-1], f"{right.dims[-1]}'")
                right = Value(right.text, right.binds, second)
            return self.binary("*", left, right)
        if function.reduces:
            return Value(f"{args[0].inside(ATOM)}.sum(-1)", ATOM, args[0].dims[:-1])
        dims = args[0].dims
        for arg in args[1:]:
            dims = joined(dims, arg.dims)
        inner = [self.aligned(arg, dims).text for arg in args]
        if not dims and len(inner) == 1:
            # torch's functions take no plain numbers
            inner = [f"_plain({inner[0]})"]
        if not function.torch_helpers:
            return Value(f"torch.{function.torch}({', '.join(inner)})", ATOM, dims)
        self.helpers.add(function.name)
        if function.eps is not None:
            inner.append(function.eps if expr.eps is None else repr(float(expr.eps)))
        return Value(f"_plain_{function.name}({', '.join(inner)})", ATOM, dims)


def reference_lines(spec: Spec) -> tuple[list[str], set[str]]:
    """The body of `reference` from inputs to the last statement, and the helpers it calls."""
    env: dict[str, tuple[str, ...]] = {}
    for tensor in spec.params:
        env[tensor.name] = tensor.axes
    for tensor in (*spec.inputs, *spec.states):
        env[tensor.name] = ("B", *tensor.axes)
    printer = TorchPrinter(spec, set(), env, set())
    lines = [
        f'{past.name} = torch.cat([state["{past.name}"], {past.tensor.name}[:, None]], 1)'
        for past in spec.pasts
    ]
    for statement in spec.steps:
        value = printer.expr(statement.value)
        lines.append(f"{statement.target} = {value.text}")
        env[statement.target] = value.dims
        printer.identities.discard(statement.target)
        if value.of_identity:
            printer.identities.add(statement.target)
    output = printer.aligned(Value("o", ATOM, env["o"]), ("B", "HV", "V"))
    lines.append(f"o = _spread({output.text}, (rows, heads, {spec.size('V')}))")
    printer.helpers.add("spread")
    for tensor in spec.states:
        dims = ("B", *tensor.axes)
        value = printer.aligned(Value(tensor.name, ATOM, env[tensor.name]), dims)
        extents = ["rows", *(_extent(axis, spec) for axis in tensor.axes)]
        shape = ", ".join(extents) + ("," if len(extents) == 1 else "")
        lines.append(f"{tensor.name} = _spread({value.text}, ({shape}))")
    lines += [f"{past.name} = {past.name}[:, 1:]" for past in spec.pasts]
    sizes = [f"{name} = {spec.size(name)}" for name in sorted(printer.sizes_used)]
    return sizes + lines, printer.helpers


def _extent(axis: str, spec: Spec) -> str:
    ratio = spec.ratio
    if axis == "HV" or (axis == "H" and ratio == 1):
        return "heads"
    return f"heads // {ratio}" if axis == "H" else str(spec.size(axis))


def joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    present = {_slot(dim): dim for dim in (*first, *second)}
    if "HV" in first + second:
        present["head"] = "HV"
    return tuple(present[slot] for slot in ORDER if slot in present)


def _slot(dim: str) -> str:
    if dim in HEADS:
        return "head"
    return dim if dim in ORDER else "extra"


def _wide(value: Value) -> bool:
    return value.square or {"K", "V"} <= set(value.dims)


def _number(number: Fraction) -> Value:
    # torch takes whole numbers of 64 bits at most
    whole = number.denominator == 1 and abs(number) < EXACT
    return Value(str(number) if whole else repr(float(number)), ATOM, ())
