"""Operations of a step on values with axes, element by element: what may meet, and what may not."""

from __future__ import annotations

from kvgen.algebra.graph import Graph, Node
from kvgen.algebra.report import Report, Reported
from kvgen.diagnostics import Span
from kvgen.functions.function import Function
from kvgen.language.constants import LARGEST
from kvgen.language.syntax import Bin, Call, Expr, Index
from kvgen.values import axes as ax

OPERATIONS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow"}


class Elementwise:
    """Appends such operations to the graph; errors are reported, and raised."""

    def __init__(self, graph: Graph, report: Report) -> None:
        self.graph, self.report = graph, report

    def index(self, expr: Index, value: Node) -> Node:
        """One place of a value's extra axis."""
        place, extra = expr.index, value.axes.extra
        if extra is None:
            raise self.report.error(
                "axis-index",
                f"only an extra axis can be indexed; this has axes {value.axes}",
                expr.span,
                "heads and channels are implicit: drop the index",
            )
        size = dict(self.report.spec.sizes)[extra]
        if not 0 <= place < size:
            raise self.report.error(
                "axis-index", f"index {place} is outside {extra} = {size}", expr.span,
                f"indices of {extra} run from 0 to {size - 1}",
            )  # fmt: skip
        return self.graph.index(value, place)

    def apply(self, op: str | Function, expr: Bin | Call, args: list[Node]) -> Node:
        """The operation, a method of the graph or a function of the language, on values whose axes
        meet."""
        try:
            joined = args[0].axes
            for arg in args[1:]:
                joined = ax.join(joined, arg.axes)
        except ax.AxisClash as clash:
            first, second = clash.args
            raise self.report.error(
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
            self.nonzero(expr.right, args[1])
        if op == "pow" and args[0].is_const and args[0].const <= 0 and not args[1].is_const:
            raise self.report.error(
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

    def nonzero(self, expr: Expr, divisor: Node) -> None:
        """Raise where a divisor is the number 0."""
        if divisor.is_const and divisor.const == 0:
            raise self.report.error("bad-number", "this divides by zero", expr.span)

    def _constant(self, span: Span, what: str) -> Reported:
        return self.report.error("bad-number", f"the constant {what}", span)

    def _mixed(self, expr: Bin | Call, args: list[Node]) -> Reported:
        return self.report.error(
            "axis-mismatch",
            "K and V never mix: " + " and ".join(str(arg.axes) for arg in args),
            expr.span,
            "outer(k, v) makes a matrix of a key-side and a value-side vector; "
            "x @ S reads the state with one",
        )
