"""The symbolic walk of `step`: every name's value at the end of one token, as nodes of a graph.

Nothing here knows a variant by name. The state stands for its value before the token; decays,
reads and outer products are collected as the statements come, and what cannot be served from a
buffer is refused with the statement that asks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

from kvgen import axes as ax
from kvgen import matrix as mx
from kvgen.axes import Axes
from kvgen.diagnostics import Diagnostic, Span
from kvgen.graph import Graph, Node
from kvgen.interval import Interval
from kvgen.matrix import Matrix, Term
from kvgen.spec import Spec
from kvgen.syntax import Bad, Bin, Call, Expr, Index, Name, Neg, Num

ELEMENTWISE = {"+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow"}
PLAIN_CALLS = (
    "exp", "log", "sigmoid", "softplus", "logaddexp", "tanh", "relu", "abs", "sqrt",
    "minimum", "maximum",
)  # fmt: skip


class _Silent(Exception):
    """The expression holds an error that is already reported."""


Value = Node | Matrix


@dataclass
class Walk:
    """The walk's result: the graph, each name's last value, and what was wrong."""

    spec: Spec
    graph: Graph = field(default_factory=Graph)
    env: dict[str, Value | None] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)

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
        for name, size in self.spec.sizes:
            self.env[name] = self.graph.const(size)
        for statement in self.spec.steps:
            value = self.value(statement.value)
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

    def error(self, code: str, message: str, span: Span, help: str | None = None) -> _Silent:
        diagnostic = Diagnostic(code, message, span, help)
        if diagnostic not in self.diagnostics:
            self.diagnostics.append(diagnostic)
        return _Silent()

    # -- expressions

    def value(self, expr: Expr) -> Value | None:
        """The expression's value; None where it holds an error already reported."""
        try:
            return self._value(expr)
        except _Silent:
            return None

    def _value(self, expr: Expr) -> Value:
        match expr:
            case Num(value=number):
                return self.graph.const(_finite(number))
            case Name(id=name):
                value = self.env.get(name)
                if value is None:
                    raise _Silent
                return value
            case Neg(value=inner):
                value = self._value(inner)
                if isinstance(value, Matrix):
                    return mx.scaled(self.graph, value, [self.graph.const(-1.0)], expr.span)
                return self.graph.neg(value)
            case Index(base=base, index=place):
                return self._index(expr, base, place)
            case Bin(op="@"):
                return self._contract(expr)
            case Bin():
                return self._binary(expr)
            case Call():
                return self._call(expr)
            case Bad():
                raise _Silent
        raise AssertionError(f"no such expression: {expr}")

    def _pair(self, left: Expr, right: Expr) -> tuple[Value, Value]:
        """Both values; both sides report their own errors first."""
        first, second = self.value(left), self.value(right)
        if first is None or second is None:
            raise _Silent
        return first, second

    def _node(self, expr: Expr, use: str) -> Node:
        value = self._value(expr)
        if isinstance(value, Matrix):
            raise self.error(
                "matrix-nonlinear",
                f"a matrix state cannot be used in {use}",
                expr.span,
                "between folds only reads (x @ S, S @ y), decays (a * S) and outer products "
                "(S + outer(k, v)) of a matrix state can be served from a buffer",
            )
        return value

    def _index(self, expr: Index, base: Expr, place: int) -> Node:
        value = self._node(base, "an index")
        extra = value.axes.extra
        if extra is None:
            raise self.error(
                "axis-index",
                f"only an extra axis can be indexed; this has axes {value.axes}",
                expr.span,
                "heads and channels are implicit: drop the index",
            )
        size = dict(self.spec.sizes)[extra]
        if not 0 <= place < size:
            raise self.error(
                "axis-index", f"index {place} is outside {extra} = {size}", expr.span,
                f"indices of {extra} run from 0 to {size - 1}",
            )  # fmt: skip
        return self.graph.index(value, place)

    def _binary(self, expr: Bin) -> Value:
        left, right = self._pair(expr.left, expr.right)
        if isinstance(left, Matrix) or isinstance(right, Matrix):
            return self._matrix_binary(expr, left, right)
        return self._elementwise(ELEMENTWISE[expr.op], expr, [left, right])

    def _elementwise(self, op: str, expr: Bin | Call, args: list[Node]) -> Node:
        try:
            joined = args[0].axes
            for arg in args[1:]:
                joined = ax.join(joined, arg.axes)
        except ax.AxisClash as clash:
            first, second = clash.args
            raise self.error(
                "axis-mismatch",
                f"axes {first} and {second} meet in one operation: "
                + " and ".join(str(arg.axes) for arg in args),
                expr.span,
                f"index one of them, for example x[i] inside `for i in range({first}):`",
            ) from None
        mixed = joined.channels == "KV" and all(arg.axes.channels != "KV" for arg in args)
        if mixed and op not in ("mul", "div"):
            raise self._mixed(expr.span, args)
        try:
            node = getattr(self.graph, op)(*args)
        except (OverflowError, ValueError, ZeroDivisionError):
            node = None
        if node is None or (node.is_const and not math.isfinite(node.const)):
            raise self.error("bad-number", "this constant is not a finite number", expr.span)
        return node

    def _mixed(self, span: Span, args: list[Node]) -> _Silent:
        return self.error(
            "axis-mismatch",
            "K and V never mix: " + " and ".join(str(arg.axes) for arg in args),
            span,
            "outer(k, v) makes a matrix of a key-side and a value-side vector; "
            "x @ S reads the state with one",
        )

    # -- matrices

    def _matrix_binary(self, expr: Bin, left: Value, right: Value) -> Matrix:
        graph, op = self.graph, expr.op
        if isinstance(left, Matrix) and isinstance(right, Matrix):
            if op not in "+-":
                raise self._nonlinear(expr.span, "a product of two matrices")
            if left.state is not None and right.state is not None:
                raise self.error(
                    "state-twice",
                    "both sides hold a copy of the state",
                    expr.span,
                    "a state is one decayed copy of itself plus outer products: "
                    "write S = a * S + outer(k, v)",
                )
            if op == "-":
                right = mx.scaled(graph, right, [graph.const(-1.0)], expr.right.span)
            return Matrix(
                left.state or right.state, left.factors + right.factors, left.terms + right.terms
            )
        matrix, factor = (left, right) if isinstance(left, Matrix) else (right, left)
        assert isinstance(matrix, Matrix) and isinstance(factor, Node)
        side = expr.right if isinstance(left, Matrix) else expr.left
        if op in "+-":
            raise self.error(
                "matrix-nonlinear",
                f"a matrix and a value with axes {factor.axes} cannot be added",
                expr.span,
                "what is added to a matrix state is an outer product: S + outer(k, v)",
            )
        if op == "**" or (op == "/" and isinstance(right, Matrix)):
            raise self._nonlinear(expr.span, "a power or a divisor")
        if factor.axes.extra:
            raise self._needs_index(side.span, factor)
        factors = self._separated(factor, side.span)
        if op == "/":
            factors = [graph.div(graph.const(1.0), node) for node in factors]
        return mx.scaled(graph, matrix, factors, side.span)

    def _nonlinear(self, span: Span, use: str) -> _Silent:
        return self.error(
            "matrix-nonlinear",
            f"a matrix state is used in {use}, which is not linear in it",
            span,
            "a buffer can only serve what is linear in the state: decays, reads, outer products",
        )

    def _needs_index(self, span: Span, value: Node) -> _Silent:
        return self.error(
            "axis-extra",
            f"axis {value.axes.extra} is left over: this has axes {value.axes}",
            span,
            f"index it, for example inside `for i in range({value.axes.extra}):`",
        )

    def _separated(self, factor: Node, span: Span) -> list[Node]:
        """A factor over K times V as factors over at most one channel each."""
        if factor.axes.channels != "KV":
            return [factor]
        if factor.op in ("mul", "div"):
            first = self._separated(factor.args[0], span)
            second = self._separated(factor.args[1], span)
            if factor.op == "div":
                second = [self.graph.div(self.graph.const(1.0), node) for node in second]
            return first + second
        raise self.error(
            "decay-separable",
            f"this factor, with axes {factor.axes}, is not a product of a part over K "
            "and a part over V",
            span,
            "a decay of K times V is served as a product: exp(a) * exp(b), a over K and b over V",
        )

    def _contract(self, expr: Bin) -> Node:
        left, right = self._pair(expr.left, expr.right)
        if isinstance(left, Matrix) and isinstance(right, Matrix):
            raise self._nonlinear(expr.span, "a product of two matrices")
        for value, side in ((left, expr.left), (right, expr.right)):
            if isinstance(value, Node) and value.axes.extra:
                raise self._needs_index(side.span, value)
        if isinstance(left, Node) and isinstance(right, Node):
            return self._dot(expr, left, right)
        matrix, vector = (left, right) if isinstance(left, Matrix) else (right, left)
        assert isinstance(matrix, Matrix) and isinstance(vector, Node)
        side, wanted = (expr.right, "V") if isinstance(left, Matrix) else (expr.left, "K")
        if vector.axes.channels != wanted:
            written = "S @ y reads with a vector over V" if wanted == "V" else (
                "x @ S reads with a vector over K"
            )  # fmt: skip
            raise self.error(
                "axis-mismatch",
                f"a vector with axes {vector.axes} cannot be contracted over {wanted}",
                side.span,
                f"{written}; {'x @ S' if wanted == 'V' else 'S @ y'} is the other side",
            )
        if vector.reads and matrix.state is not None:
            raise self.error(
                "read-of-read",
                "the vector that reads the state depends on another read of the same token",
                side.span,
                "a token passes over the stored state once, so every vector that reads it must be "
                "known before: compute it from inputs, parameters and carried states",
            )
        return mx.read(self.graph, matrix, vector)

    def _dot(self, expr: Bin, left: Node, right: Node) -> Node:
        if len(left.axes.channels) != 1 or left.axes.channels != right.axes.channels:
            raise self.error(
                "axis-mismatch",
                f"@ needs one channel axis on both sides: {left.axes} and {right.axes}",
                expr.span,
                "x @ y is the dot of two vectors over the same axis; * multiplies elementwise",
            )
        return self.graph.sum(self._elementwise("mul", expr, [left, right]))

    # -- functions

    def _call(self, expr: Call) -> Value:
        if expr.func == "outer":
            return self._outer(expr)
        args = [self._argument(arg, expr.func) for arg in expr.args]
        if any(arg is None for arg in args):
            raise _Silent
        nodes = [arg for arg in args if arg is not None]
        graph = self.graph
        if expr.func in PLAIN_CALLS:
            return self._elementwise(expr.func, expr, nodes)
        x = nodes[0]
        if expr.func == "silu":
            return graph.mul(x, graph.sigmoid(x))
        if expr.func == "logsigmoid":
            return graph.neg(graph.softplus(graph.neg(x)))
        if len(x.axes.channels) != 1:
            raise self.error(
                "axis-mismatch",
                f"{expr.func} acts over one channel axis; its argument has axes {x.axes}",
                expr.args[0].span,
                "give it a vector over K or over V",
            )
        if expr.func == "sum":
            return graph.sum(x)
        eps = graph.const(_finite(expr.eps) if expr.eps is not None else 1e-6)
        squares = graph.sum(graph.mul(x, x))
        if expr.func == "rmsnorm":
            size = dict(self.spec.sizes)[x.axes.channels]
            squares = graph.mul(squares, graph.const(1.0 / size))
        norm = graph.sqrt(graph.add(squares, eps))
        return graph.mul(x, graph.div(graph.const(1.0), norm))

    def _argument(self, expr: Expr, func: str) -> Node | None:
        try:
            return self._node(expr, f"{func}()")
        except _Silent:
            return None

    def _outer(self, expr: Call) -> Matrix:
        left, right = self._argument(expr.args[0], "outer"), self._argument(expr.args[1], "outer")
        if left is None or right is None:
            raise _Silent
        for value, side in ((left, expr.args[0]), (right, expr.args[1])):
            if value.axes.extra:
                raise self._needs_index(side.span, value)
        if left.axes.channels != "K" or right.axes.channels != "V":
            swapped = left.axes.channels == "V" and right.axes.channels == "K"
            raise self.error(
                "axis-mismatch",
                f"outer takes a vector over K, then one over V: {left.axes} and {right.axes}",
                expr.span,
                "swap the two: the key side comes first" if swapped else None,
            )
        return Matrix(None, (), (Term(left, right),))

    # -- what stands at the end of the token

    def final_node(self, name: str, span: Span, axes: Axes) -> Node | None:
        """The name's last value, checked to fit the axes of what it is stored in."""
        value = self.env.get(name)
        if value is None:
            return None
        if isinstance(value, Matrix):
            self.error(
                "axis-mismatch", f"{name} is a matrix; it must have axes {axes}", span,
                f"read the state with a vector first: {name} = q @ S",
            )  # fmt: skip
            return None
        fits = set(value.axes.channels) <= set(axes.channels) and value.axes.extra is None
        heads_fit = value.axes.head in (None, axes.head) or axes.head == "HV"
        if not (fits and heads_fit):
            self.error("axis-mismatch", f"{name} has axes {value.axes}, not {axes}", span)
            return None
        return value

    def final_matrix(self, name: str, span: Span) -> Matrix | None:
        """The state's last value: one decayed copy of itself plus outer products."""
        value = self.env.get(name)
        if value is None:
            return None
        if not isinstance(value, Matrix):
            self.error(
                "axis-mismatch",
                f"the matrix state {name} is assigned a value with axes {value.axes}",
                span,
                f"a matrix is a decayed {name} plus outer products: a * {name} + outer(k, v)",
            )
            return None
        for factor, place in value.factors:
            self._check_decay(name, factor, place)
        if value.state is None:
            value = replace(value, state=name, factors=((self.graph.const(0.0), span),))
        return value

    def _check_decay(self, name: str, factor: Node, span: Span) -> None:
        if factor.reads:
            self.error(
                "decay-read",
                f"the decay of {name} depends on a read of the same token",
                span,
                "a decay must be known before the pass over the stored state: compute it from "
                "inputs, parameters and carried states",
            )
        elif not factor.bounds.nonnegative:
            self.error(
                "decay-sign",
                f"the factor on {name} is not proved to be >= 0 "
                f"(its range is [{factor.bounds.lo:g}, {factor.bounds.hi:g}])",
                span,
                "write it with exp, sigmoid or squares, or declare the range of an input: "
                "g: {axes: [HV], range: [0, 1]}",
            )


def _finite(number: Fraction) -> float:
    return float(number)
