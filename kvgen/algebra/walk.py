"""The symbolic walk of `step`: every name's value at the end of one token, as nodes of a graph.

Nothing here knows a variant by name. The state stands for its value before the token; decays,
reads and outer products are collected as the statements come, and what cannot be served from a
buffer is refused with the statement that asks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

from kvgen.algebra import matrix as mx
from kvgen.algebra import square as sq
from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.matrix import Matrix, Term
from kvgen.algebra.signs import how_to_prove
from kvgen.algebra.square import Square
from kvgen.diagnostics import Diagnostic, Span
from kvgen.functions.function import Function, Reach
from kvgen.functions.registry import FUNCTIONS
from kvgen.language.constants import LARGEST
from kvgen.language.spec import Spec
from kvgen.language.syntax import IDENTITY, Bad, Bin, Call, Expr, Index, Name, Neg, Num
from kvgen.values import axes as ax
from kvgen.values.axes import Axes
from kvgen.values.interval import Interval

ELEMENTWISE = {"+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow"}

# what a matrix over one channel twice is good for
SQUARES = (
    "(I - outer(k, b * k)) @ S is S - outer(k, b * (k @ S)), and S @ (I - outer(v, b * v)) is "
    "S - outer(S @ v, b * v)"
)

SEPARABLE = (
    "write exp(a) * exp(b), of one over K and one over V. Any other decay (Mamba-1, Longhorn) has "
    "a sum of logarithms for each of K * V places, and to sum it over the buffer costs what the "
    "buffer saves; 1 - d * k * k stands in Longhorn for S - outer(k, d * (k @ S)), which is served"
)
NORMS = (
    "the state after a token must be linear in the one before, and a norm or a sum of all of it "
    "(Lattice) would need it built for every token: take one of what is read, l2norm(q @ S), or "
    "carry one of what is written, as the state n = a * n + k"
)

MOST_WRITES, MOST_READS = 256, 64
# a kernel has a line for every pair of an outer product and a vector that reads
MOST_DOTS = 4096


class _Silent(Exception):
    """The expression holds an error that is already reported."""


Value = Node | Matrix | Square


@dataclass
class Walk:
    """The walk's result: the graph, each name's last value, and what was wrong."""

    spec: Spec
    graph: Graph = field(init=False)
    env: dict[str, Value | None] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    # where each vector first reads the state
    readers: dict[Node, Span] = field(default_factory=dict)
    # the vector over K beside which an outer product's other side stands
    beside: str = "k"
    # the statements, by their number, that assign to a name what it holds
    unchanged: set[int] = field(default_factory=set)
    # all that has been looked at for reads
    searched: set[Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.graph = Graph(dict(self.spec.sizes))

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

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        help: str | None = None,
        notes: tuple[tuple[str, Span], ...] = (),
    ) -> _Silent:
        # the turns of a loop repeat their errors in other words
        if all((known.code, known.span) != (code, span) for known in self.diagnostics):
            self.diagnostics.append(Diagnostic(code, message, span, help, notes))
        return _Silent()

    def text(self, expr: Expr, otherwise: str) -> str:
        """The expression as the spec has it, where it is short enough for a line of help."""
        span = expr.span
        found = self.spec.original.split("\n")[span.line - 1][span.column - 1 : span.end - 1]
        whole = 0 < len(found) <= 40 and found.count("(") == found.count(")")
        return found if whole else otherwise

    def _within(self, expr: Expr, otherwise: str) -> str:
        """The same as a part of a product or of a difference."""
        shown = self.text(expr, otherwise)
        return f"({shown})" if isinstance(expr, Bin) and shown != otherwise else shown

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
                if isinstance(value, Square):
                    return sq.times(self.graph, value, self.graph.const(-1.0))
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

    def _node(self, expr: Expr, use: str, of_state: bool = False) -> Node:
        value = self._value(expr)
        if isinstance(value, Square):
            raise self.error("matrix-nonlinear", f"{self._what(value)} cannot be used in {use}",
                             expr.span, SQUARES)  # fmt: skip
        if isinstance(value, Matrix):
            raise self.error(
                "matrix-nonlinear",
                f"a matrix cannot be used in {use}",
                expr.span,
                NORMS
                if of_state
                else f"{self._as_read(expr)} reads it with a vector, what was read may be used in "
                "anything; else a buffer serves decays, a * S, and writes, S + outer(k, v)",
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
        if isinstance(left, Square) or isinstance(right, Square):
            return self._square_binary(expr, left, right)
        if isinstance(left, Matrix) or isinstance(right, Matrix):
            return self._matrix_binary(expr, left, right)
        return self._elementwise(ELEMENTWISE[expr.op], expr, [left, right])

    def _elementwise(self, op: str | Function, expr: Bin | Call, args: list[Node]) -> Node:
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
            raise self._mixed(expr, args)
        if op == "div" and isinstance(expr, Bin):
            self._nonzero(expr.right, args[1])
        if op == "pow" and args[0].is_const and args[0].const <= 0 and not args[1].is_const:
            raise self.error(
                "bad-number", f"a power of {args[0].const:g} is no real number for most exponents",
                expr.span, "the base of a power is positive, or the exponent a number",
            )  # fmt: skip
        try:
            if isinstance(op, Function):
                node = self.graph.apply(op, *args)
            else:
                node = getattr(self.graph, op)(*args)
        except OverflowError:
            raise self._constant(expr.span, "is too large for float32") from None
        except (ValueError, ZeroDivisionError):
            raise self._constant(expr.span, "is not a real number") from None
        if node.is_const and not abs(node.const) <= LARGEST:
            raise self._constant(expr.span, "is too large for float32")
        return node

    def _constant(self, span: Span, what: str) -> _Silent:
        return self.error("bad-number", f"the constant {what}", span)

    def _nonzero(self, expr: Expr, divisor: Node) -> None:
        if divisor.is_const and divisor.const == 0:
            raise self.error("bad-number", "this divides by zero", expr.span)

    def _mixed(self, expr: Bin | Call, args: list[Node]) -> _Silent:
        return self.error(
            "axis-mismatch",
            "K and V never mix: " + " and ".join(str(arg.axes) for arg in args),
            expr.span,
            "outer(k, v) makes a matrix of a key-side and a value-side vector; "
            "x @ S reads the state with one",
        )

    # -- matrices over one channel twice

    def _what(self, square: Square) -> str:
        if not square.channel:
            return "I"
        return f"a matrix over {square.channel} and {square.channel}"

    def _square_binary(self, expr: Bin, left: Value, right: Value) -> Square:
        """Sums and multiples of squares."""
        graph, op = self.graph, expr.op
        if isinstance(left, Square) and isinstance(right, Square):
            self._same_channel(expr, left, right)
            if op in "+-":
                right = right if op == "+" else sq.times(graph, right, graph.const(-1.0))
                return self._few(expr, sq.plus(graph, left, right))
            raise self.error(
                "matrix-nonlinear", "matrices are multiplied with @", expr.span, SQUARES
            )
        square, other = (left, right) if isinstance(left, Square) else (right, left)
        assert isinstance(square, Square)
        side = expr.right if isinstance(left, Square) else expr.left
        if isinstance(other, Matrix):
            what = self._what(square)
            message = f"{what} and a matrix over K and V do not fit"
            help = SQUARES if op in "+-" else f"a matrix is multiplied with @: {SQUARES}"
            if square.factor is None and op in "+-":
                help = f"outer takes a vector over K, then one over V; {SQUARES}"
            raise self.error("axis-mismatch", message, expr.span, help)
        assert isinstance(other, Node)
        if op not in "*/" or (op == "/" and isinstance(right, Square)):
            message = f"{self._what(square)} and a value with axes {other.axes} do not fit"
            help = f"outer(k, k) is a matrix that fits: {SQUARES}"
            if op in "+-" and square.terms and other.axes.channels in ("", square.channel):
                shown = self._within(side, "w")
                diagonal = "I" if other.is_number(1.0) else f"{shown} * I"
                help = f"what stands on the diagonal is times I: write {diagonal} for {shown}"
            raise self.error("axis-mismatch", message, side.span, help)
        if other.axes.extra:
            raise self._needs_index(side.span, other)
        channel = other.axes.channels
        if channel and (square.terms or square.channel not in ("", channel)):
            message = f"which side of {self._what(square)} this value with axes {other.axes} scales"
            shown = self._within(side, "w")
            whole = self._within(expr.left if side is expr.right else expr.right, "A")
            near, far = f"{whole} @ S", f"{whole} @ ({shown} * S)"
            if square.channel == "V":
                near, far = f"S @ {whole}", f"({shown} * S) @ {whole}"
            help = f"write {shown} * ({near}), or {far}, which scales first"
            raise self.error("axis-mismatch", f"{message} is not said", side.span, help)
        if op == "/":
            self._nonzero(expr.right, other)
            other = graph.div(graph.const(1.0), other)
        return replace(sq.times(graph, square, other), channel=square.channel or channel)

    def _same_channel(self, expr: Bin, left: Square, right: Square) -> None:
        if left.channel and right.channel and left.channel != right.channel:
            message = f"{self._what(left)} and {self._what(right)} do not fit"
            raise self.error("axis-mismatch", message, expr.span, SQUARES)

    def _few(self, expr: Expr, square: Square) -> Square:
        if len(square.terms) > MOST_WRITES:
            raise self._too_many_writes(expr.span)
        return square

    def _square_product(self, expr: Bin, left: Value, right: Value) -> Value:
        """square @ square, and a square before or behind a vector or a matrix."""
        graph = self.graph
        if isinstance(left, Square) and isinstance(right, Square):
            self._same_channel(expr, left, right)
            if len(left.terms) * len(right.terms) > MOST_WRITES:
                raise self._too_many_writes(expr.span)
            return self._few(expr, sq.after(graph, left, right))
        before = isinstance(left, Square)
        square, other = (left, right) if before else (right, left)
        assert isinstance(square, Square)
        if isinstance(other, Node):
            channel = other.axes.channels
            if other.axes.extra:
                raise self._needs_index((expr.right if before else expr.left).span, other)
            if len(channel) != 1 or square.channel not in ("", channel):
                message = f"{self._what(square)} and a value with axes {other.axes} do not fit"
                help = SQUARES if channel else self._scaled_first(expr, before)
                raise self.error("axis-mismatch", message, expr.span, help)
            return sq.of_vector(graph, square, other, not before)
        assert isinstance(other, Matrix)
        wanted = "K" if before else "V"
        if square.channel not in ("", wanted):
            shown = [self._within(expr.left, "A"), self._within(expr.right, "B")]
            help = f"a state is [K, V]: write {shown[1]} @ {shown[0]}"
            message = f"{self._what(square)} stands on the side of {wanted}"
            raise self.error("axis-mismatch", message, expr.span, help)
        square = replace(square, channel=wanted)
        side = expr.left if before else expr.right
        found = [
            self._read(other, vector, wanted, side.span, expr.span) for vector in sq.vectors(square)
        ]
        scaled = None
        if square.factor is not None:
            span = self._scale_of(side).span
            scaled = other
            if not (square.factor.is_const and square.factor.const == 1):
                scaled = mx.scaled(graph, other, [square.factor], span)
        product = sq.of_matrix(graph, square, found, scaled)
        if len(product.terms) > MOST_WRITES:
            raise self._too_many_writes(expr.span)
        return product

    def _scaled_first(self, expr: Bin, before: bool) -> str:
        """Of `A @ w * S`, which is `(A @ w) * S`, what its author means."""
        left, right = self._within(expr.left, "A"), self._within(expr.right, "w")
        meant = f"{left} @ ({right} * S)" if before else f"({left} * S) @ {right}"
        return (
            f"@ and * are taken from left to right, and a factor multiplies with *: write {meant}"
        )

    def _scale_of(self, expr: Expr) -> Expr:
        """Of `a * I - outer(...)`, the `a`."""
        while isinstance(expr, Bin) and expr.op in "+-":
            expr = expr.left if self._holds_identity(expr.left) else expr.right
        if isinstance(expr, Bin) and expr.op in "*/":
            return expr.left if self._holds_identity(expr.right) else expr.right
        return expr

    def _holds_identity(self, expr: Expr) -> bool:
        value = self.value(expr)
        return isinstance(value, Square) and value.factor is not None

    # -- matrices

    def _too_many_writes(self, span: Span) -> _Silent:
        return self.error(
            "too-many-writes",
            f"this is a sum of more than {MOST_WRITES} outer products",
            span,
            "every outer product of a token is recorded and read back: take fewer",
        )

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
            terms = mx.merged(graph, left.terms + right.terms)
            if len(terms) > MOST_WRITES:
                raise self._too_many_writes(expr.span)
            return Matrix(left.state or right.state, left.factors + right.factors, terms)
        matrix, factor = (left, right) if isinstance(left, Matrix) else (right, left)
        assert isinstance(matrix, Matrix) and isinstance(factor, Node)
        side = expr.right if isinstance(left, Matrix) else expr.left
        if op in "+-":
            raise self.error(
                "matrix-nonlinear",
                f"a matrix and a value with axes {factor.axes} cannot be added",
                side.span,
                self._how_to_add(expr, factor, side),
            )
        if op == "**" or (op == "/" and isinstance(right, Matrix)):
            raise self._nonlinear(expr.span, "a power" if op == "**" else "a divisor")
        if factor.axes.extra:
            raise self._needs_index(side.span, factor)
        factors = self._separated(factor, side.span)
        if isinstance(side, Bin) and side.op == "@" and not factor.bounds.nonnegative:
            squares = [isinstance(self.value(each), Square) for each in (side.left, side.right)]
            if matrix.state is not None and any(squares):
                message = f"the factor on {matrix.state} is not proved to be >= 0"
                help = self._scaled_first(side, squares[0])
                raise self.error("decay-sign", message, side.span, help)
        if op == "/":
            self._nonzero(expr.right, factor)
            factors = [graph.div(graph.const(1.0), node) for node in factors]
        return mx.scaled(graph, matrix, factors, self._blamed(side).span)

    def _as_read(self, expr: Expr) -> str:
        """How to read a matrix beside what stands in its place."""
        name = self.text(expr, "S") if isinstance(expr, Name) else "S"
        return f"{self.beside} @ {name}"

    def _how_to_add(self, expr: Bin, value: Node, side: Expr) -> str:
        other = expr.left if side is expr.right else expr.right
        if isinstance(side, Bin) and side.op == "@" and value.reads:
            shown, name = self.text(side, "x @ S"), self.text(side.left, "w")
            if isinstance(self.value(side.left), Matrix):
                name = self.text(side.right, "w")
            return f"{shown} is a vector that was read; a decay multiplies with *: {name} * S"
        if value.axes.channels == "V":
            read, shown = self._as_read(other), self._within(side, "v")
            sides = (shown, read) if side is expr.left else (read, shown)
            return f"read the matrix first, with a vector over K: {f' {expr.op} '.join(sides)}"
        return f"what is added to a matrix is an outer product: {self._product(side)}"

    def _product(self, expr: Expr) -> str:
        """What the author of `S + expr` may have meant."""
        if isinstance(expr, Bin) and expr.op == "*":
            sides = {}
            for side in (expr.left, expr.right):
                value = self.value(side)
                if isinstance(value, Node):
                    sides[value.axes.channels] = side
            if sides.keys() == {"K", "V"}:
                key, value = self.text(sides["K"], "k"), self.text(sides["V"], "v")
                return f"outer({key}, {value})"
        return "outer(k, v)"

    def _blamed(self, expr: Expr) -> Expr:
        """Of a product, the one part that keeps it from being a decay."""

        def guilty(expr: Expr) -> bool:
            value = self.value(expr)
            return isinstance(value, Node) and (value.reads or not value.bounds.nonnegative)

        while isinstance(expr, Bin) and expr.op in "*/":
            found = [side for side in (expr.left, expr.right) if guilty(side)]
            if len(found) != 1 or (self._never_positive(expr) and not self._is_number(found[0])):
                break
            expr = found[0]
        return expr

    def _never_positive(self, expr: Expr) -> bool:
        value = self.value(expr)
        return isinstance(value, Node) and value.bounds.nonpositive

    def _is_number(self, expr: Expr) -> bool:
        value = self.value(expr)
        return isinstance(value, Node) and value.is_const

    def _nonlinear(self, span: Span, use: str) -> _Silent:
        return self.error(
            "matrix-nonlinear",
            f"a matrix is used in {use}, which is not linear in it",
            span,
            "a buffer serves only what is linear in the state: decays, reads, outer products",
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
        graph = self.graph
        # by channel, for every node below that is such a product
        parts: dict[Node, dict[str, Node]] = {}
        for node in reachable([factor]):
            if node.axes.channels != "KV":
                parts[node] = {node.axes.channels: node}
            elif node.op in ("mul", "div") and all(arg in parts for arg in node.args):
                found = dict(parts[node.args[0]])
                for channel, part in parts[node.args[1]].items():
                    before = found.get(channel, graph.const(1.0))
                    found[channel] = getattr(graph, node.op)(before, part)
                parts[node] = found
            elif node.op == "neg" and node.args[0] in parts:
                found = parts[node.args[0]]
                parts[node] = found | {"K": graph.neg(found["K"])}
        if factor in parts:
            return list(parts[factor].values())
        raise self.error(
            "decay-separable",
            f"this factor, with axes {factor.axes}, is not a product of a part over K "
            "and a part over V",
            span,
            SEPARABLE,
        )

    def _contract(self, expr: Bin) -> Value:
        left, right = self._pair(expr.left, expr.right)
        if isinstance(left, Square) or isinstance(right, Square):
            return self._square_product(expr, left, right)
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
            name = self.text(expr.left if isinstance(left, Matrix) else expr.right, "S")
            other = {"V": f"x @ {name}", "K": f"{name} @ y"}
            if vector.axes.channels in ("K", "V"):
                shown = self.text(side, "x")
                help = f"write {shown} @ {name}" if wanted == "V" else f"write {name} @ {shown}"
            else:
                help = f"{other['V']} reads with a vector over K, {other['K']} with one over V"
                if not vector.axes.channels:
                    help += f"; a factor multiplies with *: {self._within(side, 'a')} * {name}"
            raise self.error(
                "axis-mismatch",
                f"a value with axes {vector.axes} cannot be contracted with {name} over {wanted}",
                side.span,
                help,
            )
        return self._read(matrix, vector, wanted, side.span, expr.span)

    def _read(self, matrix: Matrix, vector: Node, wanted: str, side: Span, whole: Span) -> Node:
        """The matrix contracted with a vector over the channel that it has."""
        scales = [node for node, _ in matrix.factors if node.axes.channels == wanted]
        late = next((node for node in (vector, *scales) if node.reads), None)
        if late is not None and matrix.state is not None:
            raise self.error(
                "read-of-read",
                "the vector that reads the state depends on another read of the same token"
                if late is vector
                else "this matrix has a decay that depends on another read of the same token",
                side if late is vector else whole,
                "a token passes over the stored state once, so every vector that reads it must be "
                "known before: compute it from inputs, parameters and carried states",
                self._first_read(late),
            )
        found = mx.read(self.graph, matrix, vector)
        if matrix.state is not None:
            for node in reachable([found], self.searched):
                self.searched.add(node)
                if node.op == "read" and node.args[0] not in self.readers:
                    self.readers[node.args[0]] = whole
            known = {diagnostic.code for diagnostic in self.diagnostics}
            if len(self.readers) > MOST_READS and "too-many-reads" not in known:
                raise self.error(
                    "too-many-reads",
                    f"more than {MOST_READS} vectors read the state",
                    whole,
                    "every one of them is a pass over the buffer: take fewer",
                )
        return found

    def _first_read(self, value: Node) -> tuple[tuple[str, Span], ...]:
        """A note on where a value comes to depend on the state."""
        read = next((node for node in reachable([value]) if node.op == "read"), None)
        span = self.readers.get(read.args[0]) if read is not None else None
        return (("the state is read", span),) if span else ()

    def _dot(self, expr: Bin, left: Node, right: Node) -> Node:
        if len(left.axes.channels) != 1 or left.axes.channels != right.axes.channels:
            help = (
                "x @ y is the dot of two vectors over K or of two over V; * multiplies elementwise"
            )
            sides = {left.axes.channels: expr.left, right.axes.channels: expr.right}
            if sides.keys() == {"K", "V"}:
                shown = self.text(sides["K"], "k"), self.text(sides["V"], "v")
                help = f"a matrix of the two is outer({shown[0]}, {shown[1]})"
            raise self.error(
                "axis-mismatch",
                f"@ needs vectors over the same channel: {left.axes} and {right.axes}",
                expr.span,
                help,
            )
        return self.graph.sum(self._elementwise("mul", expr, [left, right]))

    # -- functions

    def _call(self, expr: Call) -> Value:
        function = FUNCTIONS[expr.func]
        if function.reach is Reach.SIDES:
            return self._outer(expr, function)
        args = [self._argument(arg, function) for arg in expr.args]
        if any(arg is None for arg in args):
            raise _Silent
        nodes = [arg for arg in args if arg is not None]
        if function.reach is Reach.ELEMENT:
            return self._elementwise(function, expr, nodes)
        if len(nodes[0].axes.channels) != 1:
            raise self.error(
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
        except _Silent:
            return None

    def _outer(self, expr: Call, function: Function) -> Matrix | Square:
        left = self._argument(expr.args[0], function)
        before, self.beside = self.beside, self._within(expr.args[0], "k")
        right = self._argument(expr.args[1], function)
        self.beside = before
        if left is None or right is None:
            raise _Silent
        for value, side in ((left, expr.args[0]), (right, expr.args[1])):
            if value.axes.extra:
                raise self._needs_index(side.span, value)
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
                shown = [self.text(side, name) for side, name in zip(expr.args, "xy", strict=True)]
                help = f"the key side comes first: outer({shown[1]}, {shown[0]})"
            raise self.error(
                "axis-mismatch",
                f"{expr.func} takes a vector over K, then one over V: {left.axes} and {right.axes}",
                wrong[0].span if len(wrong) == 1 else expr.span,
                help,
            )
        return Matrix(None, (), (Term(left, right),))

    # -- what stands at the end of the token

    def final_node(self, name: str, span: Span, axes: Axes, what: str) -> Node | None:
        """The name's last value, checked to fit the axes of what it is stored in."""
        value = self.env.get(name)
        if value is None:
            return None
        if isinstance(value, Square):
            message = f"{what} has axes {axes} and is assigned {self._what(value)}"
            self.error("axis-mismatch", message, span, SQUARES)
            return None
        if isinstance(value, Matrix):
            self.error(
                "axis-mismatch", f"{what} has axes {axes} and is assigned a matrix", span,
                "read it with a vector: x @ S gives one over V, S @ y one over K",
            )  # fmt: skip
            return None
        if value.axes.extra:
            self._needs_index(span, value)
            return None
        fits = set(value.axes.channels) <= set(axes.channels)
        if fits and (value.axes.head in (None, axes.head) or axes.head == "HV"):
            return value
        channels = value.axes.channels
        wide = value.axes if channels != "V" else replace(value.axes, head="HV")
        help = f"declare it as {name}: {wide}, or sum over what it lacks"
        if name == "o":
            help = "the output is over V: x @ S, with x over K, is such a value"
        elif fits:
            help = f"there is a value for every {value.axes.head}: declare it as {name}: {wide}"
        elif channels == "KV":
            help = "only a matrix state has both K and V"
        message = f"{what} has axes {axes} and is assigned a value with axes {value.axes}"
        self.error("axis-mismatch", message, span, help)
        return None

    def final_matrix(self, name: str, span: Span) -> Matrix | None:
        """The state's last value: one decayed copy of itself plus outer products."""
        value = self.env.get(name)
        if value is None:
            return None
        if isinstance(value, Square):
            message = f"the matrix state {name} is assigned {self._what(value)}"
            self.error("axis-mismatch", message, span, SQUARES)
            return None
        if not isinstance(value, Matrix):
            self.error(
                "axis-mismatch",
                f"the matrix state {name} is assigned a value with axes {value.axes}",
                span,
                f"a matrix is a decayed {name} plus outer products: a * {name} + outer(k, v)",
            )
            return None
        value = mx.signed(self.graph, value)
        for factor, place in value.factors:
            self._check_decay(name, factor, place)
        if not value.terms:
            self.error(
                "no-write",
                f"nothing is written to {name}",
                span,
                f"there is nothing to buffer without an outer product: a * {name} + outer(k, v)",
            )
        if value.state is None:
            value = replace(value, state=name, factors=((self.graph.const(0.0), span),))
        return value

    def _check_decay(self, name: str, factor: Node, span: Span) -> None:
        bounds = factor.bounds
        if factor.reads:
            self.error(
                "decay-read",
                f"the decay of {name} depends on a read of the same token",
                span,
                "a decay must be known before the pass over the stored state: compute it from "
                "inputs, parameters and carried states",
                self._first_read(factor),
            )
        elif factor.is_const and factor.const < 0:
            self.error(
                "decay-sign", f"the factor on {name} is {factor.const:g}, which is negative", span,
                "a state decays, grows or is forgotten; it does not change its sign",
            )  # fmt: skip
        elif bounds.nonpositive and not bounds.nonnegative:
            self.error(
                "decay-sign", f"the factor on {name} is never positive", span,
                "this looks like the logarithm of a decay: write exp(...) of it",
            )  # fmt: skip
        elif not bounds.nonnegative:
            message = f"the factor on {name} is not proved to be >= 0"
            if math.isfinite(bounds.lo):
                message += f", only to be >= {bounds.lo:g}"
            self.error("decay-sign", message, span, how_to_prove(self.spec, factor, span))


def _finite(number: Fraction) -> float:
    return float(number)
