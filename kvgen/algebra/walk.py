"""The symbolic walk of `step`: every name's value at the end of one token, as nodes of a graph.

Nothing here knows a variant by name. The state stands for its value before the token; decays,
reads and outer products are collected as the statements come, and what cannot be served from a
buffer is refused with the statement that asks for it.
"""

from __future__ import annotations

from kvgen.algebra import matrix as mx
from kvgen.algebra import square as sq
from kvgen.algebra.elementwise import OPERATIONS, Elementwise
from kvgen.algebra.erasing import SQUARES, Erasing, what_is
from kvgen.algebra.graph import Graph, Node
from kvgen.algebra.matrix import Matrix, Term
from kvgen.algebra.reading import Reading
from kvgen.algebra.report import Report, Reported
from kvgen.algebra.square import Square, Value
from kvgen.algebra.writing import Writing
from kvgen.functions.function import Function, Reach
from kvgen.functions.registry import FUNCTIONS
from kvgen.language.spec import Spec
from kvgen.language.syntax import IDENTITY, Bad, Bin, Call, Expr, Index, Name, Neg, Num
from kvgen.values import axes as ax
from kvgen.values.interval import Interval

NORMS = (
    "the state after a token must be linear in the one before, and a norm or a sum of all of it "
    "(Lattice) would need it built for every token: take one of what is read, l2norm(q @ S), or "
    "carry one of what is written, as the state n = a * n + k"
)


class Walk:
    """The walk's result: the graph, each name's last value, and what was wrong."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.graph = Graph(dict(spec.sizes))
        self.env: dict[str, Value | None] = {}
        # the statements, by their number, that assign to a name what it holds
        self.unchanged: set[int] = set()
        self.report = Report(spec)
        self.elementwise = Elementwise(self.graph, self.report)
        self.reading = Reading(self.graph, self.report)
        parts = self.graph, self.report, self.elementwise
        self.writing = Writing(*parts, self.value)
        self.erasing = Erasing(*parts, self.reading, self.value)

    # -- statements

    def run(self) -> None:
        for tensor in (*self.spec.inputs, *self.spec.params):
            bounds = Interval(*tensor.range) if tensor.range else Interval()
            kind = tensor.kind
            self.env[tensor.name] = self.graph.leaf(kind, tensor.name, ax.of(tensor.axes), bounds)
        for tensor in self.spec.states:
            axes = ax.of(tensor.axes)
            if axes.channels == "KV":
                self.env[tensor.name] = Matrix(tensor.name)
            else:
                leaf = self.graph.leaf("carried", tensor.name, axes, Interval())
                self.env[tensor.name] = leaf
        self.env[IDENTITY] = Square("", self.graph.const(1.0))
        for name, size in self.spec.sizes:
            self.env[name] = self.graph.const(size)
        for number, statement in enumerate(self.spec.steps):
            value = self.value(statement.value)
            if value is not None and value == self.env.get(statement.target):
                self.unchanged.add(number)
            if isinstance(value, Node) and not value.is_const:
                self.graph.names.setdefault(value, statement.target)
                self._rename_leaf(statement.target, value)
            self.env[statement.target] = value

    def _rename_leaf(self, target: str, value: Node) -> None:
        """A tensor whose name is assigned anew is the raw one from here on."""
        before = self.env.get(target)
        is_leaf = isinstance(before, Node) and before.op in ("input", "param", "carried")
        if isinstance(before, Node) and is_leaf and before is not value:
            prefix = "old" if before.op == "carried" else "raw"
            self.graph.names[before] = f"{prefix}_{target}"

    # -- expressions

    def value(self, expr: Expr) -> Value | None:
        """The expression's value; None where it holds an error already reported."""
        try:
            return self._value(expr)
        except Reported:
            return None

    def _value(self, expr: Expr) -> Value:
        match expr:
            case Num(value=number):
                return self.graph.const(float(number))
            case Name(id=name):
                value = self.env.get(name)
                if value is None:
                    raise Reported
                return value
            case Neg(value=inner):
                value = self._value(inner)
                if isinstance(value, Matrix):
                    return mx.scaled(self.graph, value, [self.graph.const(-1.0)], expr.span)
                if isinstance(value, Square):
                    return sq.times(self.graph, value, self.graph.const(-1.0))
                return self.graph.neg(value)
            case Index(base=base, index=place) if place < 0:
                return self.graph.past(self._node(base, "an index"), -place)
            case Index(base=base):
                return self.elementwise.index(expr, self._node(base, "an index"))
            case Bin(op="@"):
                return self._contract(expr)
            case Bin():
                return self._binary(expr)
            case Call():
                return self._call(expr)
            case Bad():
                raise Reported
        raise AssertionError(f"no such expression: {expr}")

    def _pair(self, left: Expr, right: Expr) -> tuple[Value, Value]:
        """Both values; both sides report their own errors first."""
        first, second = self.value(left), self.value(right)
        if first is None or second is None:
            raise Reported
        return first, second

    def _node(self, expr: Expr, use: str, of_state: bool = False) -> Node:
        value = self._value(expr)
        if isinstance(value, Square):
            raise self.report.error(
                "matrix-nonlinear", f"{what_is(value)} cannot be used in {use}", expr.span, SQUARES
            )
        if isinstance(value, Matrix):
            raise self.report.error(
                "matrix-nonlinear",
                f"a matrix cannot be used in {use}",
                expr.span,
                (self._read_as_sum(expr) if use == "sum()" else None) or NORMS
                if of_state
                else f"{self.writing.as_read(expr)} reads it with a vector, what was read may be "
                "used in anything; else a buffer serves decays, a * S, and writes, S + outer(k, v)",
            )
        return value

    def _read_as_sum(self, expr: Expr) -> str | None:
        """The help for sum(q * S), which is q @ S."""
        if not isinstance(expr, Bin) or expr.op != "*":
            return None
        for vector, matrix in ((expr.left, expr.right), (expr.right, expr.left)):
            value = self.value(vector)
            channels = value.axes.channels if isinstance(value, Node) else ""
            shown, name = self.report.within(vector, "x"), self.report.within(matrix, "S")
            if channels in ("K", "V"):
                return f"write {f'{shown} @ {name}' if channels == 'K' else f'{name} @ {shown}'}"
        return None

    def _binary(self, expr: Bin) -> Value:
        left, right = self._pair(expr.left, expr.right)
        if isinstance(left, Square) or isinstance(right, Square):
            return self.erasing.binary(expr, left, right)
        if isinstance(left, Matrix) or isinstance(right, Matrix):
            return self.writing.binary(expr, left, right)
        return self.elementwise.apply(OPERATIONS[expr.op], expr, [left, right])

    def _contract(self, expr: Bin) -> Value:
        left, right = self._pair(expr.left, expr.right)
        if isinstance(left, Square) or isinstance(right, Square):
            return self.erasing.product(expr, left, right)
        if isinstance(left, Matrix) and isinstance(right, Matrix):
            raise self.writing.nonlinear(expr.span, "a product of two matrices")
        for value, side in ((left, expr.left), (right, expr.right)):
            if isinstance(value, Node) and value.axes.extra:
                raise self.report.needs_index(side.span, value)
        if isinstance(left, Node) and isinstance(right, Node):
            return self._dot(expr, left, right)
        return self.reading.contract(expr, left, right)

    def _dot(self, expr: Bin, left: Node, right: Node) -> Node:
        if len(left.axes.channels) != 1 or left.axes.channels != right.axes.channels:
            help = (
                "x @ y is the dot of two vectors over K or of two over V; * multiplies elementwise"
            )
            sides = {left.axes.channels: expr.left, right.axes.channels: expr.right}
            if sides.keys() == {"K", "V"}:
                shown = self.report.text(sides["K"], "k"), self.report.text(sides["V"], "v")
                help = f"a matrix of the two is outer({shown[0]}, {shown[1]})"
            raise self.report.error(
                "axis-mismatch",
                f"@ needs vectors over the same channel: {left.axes} and {right.axes}",
                expr.span,
                help,
            )
        return self.graph.sum(self.elementwise.apply("mul", expr, [left, right]))

    # -- functions

    def _call(self, expr: Call) -> Value:
        function = FUNCTIONS[expr.func]
        if function.reach is Reach.SIDES:
            return self._outer(expr, function)
        args = [self._argument(arg, function) for arg in expr.args]
        if any(arg is None for arg in args):
            raise Reported
        nodes = [arg for arg in args if arg is not None]
        if function.reach is Reach.ELEMENT:
            return self.elementwise.apply(function, expr, nodes)
        if len(nodes[0].axes.channels) != 1:
            raise self.report.error(
                "axis-mismatch",
                f"{expr.func} acts over one channel axis; its argument has axes {nodes[0].axes}",
                expr.args[0].span,
                "give it a vector over K or over V",
            )
        if function.eps is not None:
            eps = function.eps if expr.eps is None else expr.eps
            nodes.append(self.graph.const(float(eps)))
        return self.graph.apply(function, *nodes)

    def _argument(self, expr: Expr, function: Function) -> Node | None:
        try:
            return self._node(expr, f"{function.name}()", function.of_state)
        except Reported:
            return None

    def _outer(self, expr: Call, function: Function) -> Matrix | Square:
        left = self._argument(expr.args[0], function)
        before, self.writing.beside = self.writing.beside, self.report.within(expr.args[0], "k")
        right = self._argument(expr.args[1], function)
        self.writing.beside = before
        if left is None or right is None:
            raise Reported
        for value, side in ((left, expr.args[0]), (right, expr.args[1])):
            if value.axes.extra:
                raise self.report.needs_index(side.span, value)
        if left.axes.channels == right.axes.channels and left.axes.channels in ("K", "V"):
            return sq.outer(left, right)
        wrong = [
            side
            for side, value, wanted in ((expr.args[0], left, "K"), (expr.args[1], right, "V"))
            if value.axes.channels != wanted
        ]
        if wrong:
            help = "the key side comes first, then the value side"
            if left.axes.channels == "V" and right.axes.channels == "K":
                sides = zip(expr.args, "xy", strict=True)
                shown = [self.report.text(side, name) for side, name in sides]
                help = f"the key side comes first: outer({shown[1]}, {shown[0]})"
            raise self.report.error(
                "axis-mismatch",
                f"{expr.func} takes a vector over K, then one over V: {left.axes} and {right.axes}",
                wrong[0].span if len(wrong) == 1 else expr.span,
                help,
            )
        return Matrix(None, (), (Term(left, right),))
