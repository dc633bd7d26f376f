"""Matrices over one channel twice as a step multiplies them: I - outer(k, b * k) on one side of the
state, of a vector, or of another such matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kvgen.algebra import matrix as mx
from kvgen.algebra import square as sq
from kvgen.algebra.elementwise import Elementwise
from kvgen.algebra.graph import Graph, Node
from kvgen.algebra.matrix import Matrix
from kvgen.algebra.reading import Reading
from kvgen.algebra.report import Report
from kvgen.algebra.square import Square, Value
from kvgen.algebra.writing import check_writes, scaled_first
from kvgen.language.syntax import Bin, Expr

# what such a matrix is good for
SQUARES = (
    "(I - outer(k, b * k)) @ S is S - outer(k, b * (k @ S)), and S @ (I - outer(v, b * v)) is "
    "S - outer(S @ v, b * v)"
)


class Erasing:
    """Such matrices of one step. value: what an expression that holds no error comes to."""

    def __init__(
        self,
        graph: Graph,
        report: Report,
        elementwise: Elementwise,
        reading: Reading,
        value: Callable[[Expr], Value | None],
    ) -> None:
        self.graph, self.report, self.elementwise = graph, report, elementwise
        self.reading, self.value = reading, value

    def binary(self, expr: Bin, left: Value, right: Value) -> Square:
        """Sums and multiples of squares."""
        graph, op = self.graph, expr.op
        if isinstance(left, Square) and isinstance(right, Square):
            self._same_channel(expr, left, right)
            if op in "+-":
                right = right if op == "+" else sq.times(graph, right, graph.const(-1.0))
                return self._few(expr, sq.plus(graph, left, right))
            raise self.report.error(
                "matrix-nonlinear", "matrices are multiplied with @", expr.span, SQUARES
            )
        square, other = (left, right) if isinstance(left, Square) else (right, left)
        assert isinstance(square, Square)
        side = expr.right if isinstance(left, Square) else expr.left
        if isinstance(other, Matrix):
            message = f"{what_is(square)} and a matrix over K and V do not fit"
            help = SQUARES if op in "+-" else f"a matrix is multiplied with @: {SQUARES}"
            if square.factor is None and op in "+-":
                help = f"outer takes a vector over K, then one over V; {SQUARES}"
            raise self.report.error("axis-mismatch", message, expr.span, help)
        assert isinstance(other, Node)
        if op not in "*/" or (op == "/" and isinstance(right, Square)):
            message = f"{what_is(square)} and a value with axes {other.axes} do not fit"
            help = f"outer(k, k) is a matrix that fits: {SQUARES}"
            if op in "+-" and square.terms and other.axes.channels in ("", square.channel):
                shown = self.report.within(side, "w")
                diagonal = "I" if other.is_number(1.0) else f"{shown} * I"
                help = f"what stands on the diagonal is times I: write {diagonal} for {shown}"
            raise self.report.error("axis-mismatch", message, side.span, help)
        if other.axes.extra:
            raise self.report.needs_index(side.span, other)
        channel = other.axes.channels
        if channel and (square.terms or square.channel not in ("", channel)):
            message = f"which side of {what_is(square)} this value with axes {other.axes} scales"
            shown = self.report.within(side, "w")
            whole = self.report.within(expr.left if side is expr.right else expr.right, "A")
            near, far = f"{whole} @ S", f"{whole} @ ({shown} * S)"
            if square.channel == "V":
                near, far = f"S @ {whole}", f"({shown} * S) @ {whole}"
            help = f"write {shown} * ({near}), or {far}, which scales first"
            raise self.report.error("axis-mismatch", f"{message} is not said", side.span, help)
        if op == "/":
            self.elementwise.nonzero(expr.right, other)
            other = graph.div(graph.const(1.0), other)
        return replace(sq.times(graph, square, other), channel=square.channel or channel)

    def product(self, expr: Bin, left: Value, right: Value) -> Value:
        """square @ square, and a square before or behind a vector or a matrix."""
        graph = self.graph
        if isinstance(left, Square) and isinstance(right, Square):
            self._same_channel(expr, left, right)
            check_writes(self.report, len(left.terms) * len(right.terms), expr.span)
            return self._few(expr, sq.after(graph, left, right))
        before = isinstance(left, Square)
        square, other = (left, right) if before else (right, left)
        assert isinstance(square, Square)
        if isinstance(other, Node):
            channel = other.axes.channels
            if other.axes.extra:
                raise self.report.needs_index((expr.right if before else expr.left).span, other)
            if len(channel) != 1 or square.channel not in ("", channel):
                message = f"{what_is(square)} and a value with axes {other.axes} do not fit"
                help = SQUARES if channel else scaled_first(self.report, expr, before)
                raise self.report.error("axis-mismatch", message, expr.span, help)
            return sq.of_vector(graph, square, other, not before)
        assert isinstance(other, Matrix)
        return self._of_matrix(expr, square, other, before)

    def _of_matrix(self, expr: Bin, square: Square, matrix: Matrix, before: bool) -> Matrix:
        """square @ matrix, or matrix @ square where not `before`."""
        graph, wanted = self.graph, "K" if before else "V"
        if square.channel not in ("", wanted):
            shown = [self.report.within(expr.left, "A"), self.report.within(expr.right, "B")]
            help = f"a state is [K, V]: write {shown[1]} @ {shown[0]}"
            message = f"{what_is(square)} stands on the side of {wanted}"
            raise self.report.error("axis-mismatch", message, expr.span, help)
        square = replace(square, channel=wanted)
        side = expr.left if before else expr.right
        found = [
            self.reading.read(matrix, vector, wanted, side.span, expr.span)
            for vector in sq.vectors(square)
        ]
        scaled = None
        if square.factor is not None:
            span = self._scale_of(side).span
            scaled = matrix
            if not (square.factor.is_const and square.factor.const == 1):
                scaled = mx.scaled(graph, matrix, [square.factor], span)
        product = sq.of_matrix(graph, square, found, scaled)
        check_writes(self.report, len(product.terms), expr.span)
        return product

    def _same_channel(self, expr: Bin, left: Square, right: Square) -> None:
        if left.channel and right.channel and left.channel != right.channel:
            message = f"{what_is(left)} and {what_is(right)} do not fit"
            raise self.report.error("axis-mismatch", message, expr.span, SQUARES)

    def _few(self, expr: Expr, square: Square) -> Square:
        check_writes(self.report, len(square.terms), expr.span)
        return square

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


def what_is(square: Square) -> str:
    """What a message calls the matrix."""
    if not square.channel:
        return "I"
    return f"a matrix over {square.channel} and {square.channel}"
