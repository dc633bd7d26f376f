"""Sums and multiples of the state as a step writes them: a decayed copy, plus outer products."""

from __future__ import annotations

from collections.abc import Callable

from kvgen.algebra import matrix as mx
from kvgen.algebra.elementwise import Elementwise
from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.matrix import Matrix
from kvgen.algebra.report import Report, Reported
from kvgen.algebra.square import Square, Value
from kvgen.diagnostics import Span
from kvgen.language.syntax import Bin, Expr, Name

MOST_WRITES = 256

SEPARABLE = (
    "write exp(a) * exp(b), of one over K and one over V. Any other decay (Mamba-1, Longhorn) has "
    "a sum of logarithms for each of K * V places, and to sum it over the buffer costs what the "
    "buffer saves; 1 - d * k * k stands in Longhorn for S - outer(k, d * (k @ S)), which is served"
)


class Writing:
    """Matrices of one step. value: what an expression that holds no error comes to.

    beside: the vector over K beside which an outer product's other side stands.
    """

    def __init__(
        self,
        graph: Graph,
        report: Report,
        elementwise: Elementwise,
        value: Callable[[Expr], Value | None],
    ) -> None:
        self.graph, self.report, self.elementwise, self.value = graph, report, elementwise, value
        self.beside = "k"

    def binary(self, expr: Bin, left: Node | Matrix, right: Node | Matrix) -> Matrix:
        """A sum of matrices, or a matrix times or divided by a factor."""
        graph, op = self.graph, expr.op
        if isinstance(left, Matrix) and isinstance(right, Matrix):
            if op not in "+-":
                return self._by_outer(expr, left, right)
            if op == "-":
                right = mx.scaled(graph, right, [graph.const(-1.0)], expr.right.span)
            factors = left.factors + right.factors
            if left.state is not None and right.state is not None:
                factors = self._copies(expr, left, right)
            terms = mx.merged(graph, left.terms + right.terms)
            check_writes(self.report, len(terms), expr.span)
            return Matrix(left.state or right.state, factors, terms)
        matrix, factor = (left, right) if isinstance(left, Matrix) else (right, left)
        assert isinstance(matrix, Matrix) and isinstance(factor, Node)
        side = expr.right if isinstance(left, Matrix) else expr.left
        if op in "+-":
            raise self.report.error(
                "matrix-nonlinear",
                f"a matrix and a value with axes {factor.axes} cannot be added",
                side.span,
                self._how_to_add(expr, factor, side),
            )
        if op == "**" or (op == "/" and isinstance(right, Matrix)):
            raise self.nonlinear(expr.span, "a power" if op == "**" else "a divisor")
        if factor.axes.extra:
            raise self.report.needs_index(side.span, factor)
        factors = self._separated(factor, side.span)
        if isinstance(side, Bin) and side.op == "@" and not factor.bounds.nonnegative:
            squares = [isinstance(self.value(each), Square) for each in (side.left, side.right)]
            if matrix.state is not None and any(squares):
                message = f"the factor on {matrix.state} is not proved to be >= 0"
                help = scaled_first(self.report, side, squares[0])
                raise self.report.error("decay-sign", message, side.span, help)
        if op == "/":
            self.elementwise.nonzero(expr.right, factor)
            factors = [graph.div(graph.const(1.0), node) for node in factors]
        return mx.scaled(graph, matrix, factors, self._blamed(side).span)

    def _by_outer(self, expr: Bin, left: Matrix, right: Matrix) -> Matrix:
        """A matrix times or divided by an outer product, place by place: by its sides in turn."""
        sides = [(left, right, expr.right), (right, left, expr.left)]
        for matrix, other, side in sides if expr.op == "*" else sides[:1]:
            if other.state is None and len(other.terms) == 1 and expr.op != "**":
                factors = [other.terms[0].w, other.terms[0].d]
                if expr.op == "/":
                    factors = [self.graph.div(self.graph.const(1.0), each) for each in factors]
                return mx.scaled(self.graph, matrix, factors, side.span)
        raise self.nonlinear(expr.span, "a product of two matrices")

    def _copies(self, expr: Bin, left: Matrix, right: Matrix) -> mx.Factors:
        """The factors of the sum of two copies of the state."""
        factors = mx.summed(self.graph, left, right, expr.span)
        if factors is None:
            raise self.report.error(
                "decay-separable",
                "the factors on two copies of the state, over K and over V, have a sum that is "
                "not a product of a part over K and a part over V",
                expr.span,
                SEPARABLE,
            )
        if any(each.is_number(0.0) for each, _ in factors):
            raise self.report.error(
                "state-twice",
                "both sides hold a copy of the state, and nothing of it is left",
                expr.span,
                "a state is one decayed copy of itself plus outer products: "
                "write S = a * S + outer(k, v)",
            )
        return factors

    def nonlinear(self, span: Span, use: str) -> Reported:
        """The error of a matrix in what is not linear in it."""
        return self.report.error(
            "matrix-nonlinear",
            f"a matrix is used in {use}, which is not linear in it",
            span,
            "a buffer serves only what is linear in the state: decays, reads, outer products",
        )

    def as_read(self, expr: Expr) -> str:
        """How to read a matrix beside what stands in its place."""
        name = self.report.text(expr, "S") if isinstance(expr, Name) else "S"
        return f"{self.beside} @ {name}"

    def _how_to_add(self, expr: Bin, value: Node, side: Expr) -> str:
        other = expr.left if side is expr.right else expr.right
        matrix = self.value(other)
        if isinstance(matrix, Matrix) and matrix.state is None and value.axes.channels == "":
            return f"as a factor it is no product of a part over K and one over V: {SEPARABLE}"
        if isinstance(side, Bin) and side.op == "@" and value.reads:
            shown, name = self.report.text(side, "x @ S"), self.report.within(side.left, "w")
            if isinstance(self.value(side.left), Matrix):
                name = self.report.within(side.right, "w")
            return f"{shown} is a vector that was read; a decay multiplies with *: {name} * S"
        if value.axes.channels == "V":
            read, shown = self.as_read(other), self.report.within(side, "v")
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
                key, value = self.report.text(sides["K"], "k"), self.report.text(sides["V"], "v")
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
        raise self.report.error(
            "decay-separable",
            f"this factor, with axes {factor.axes}, is not a product of a part over K "
            "and a part over V",
            span,
            SEPARABLE,
        )


def scaled_first(report: Report, expr: Bin, before: bool) -> str:
    """Of `A @ w * S`, which is `(A @ w) * S`, what its author means."""
    left, right = report.within(expr.left, "A"), report.within(expr.right, "w")
    meant = f"{left} @ ({right} * S)" if before else f"({left} * S) @ {right}"
    return f"@ and * are taken from left to right, and a factor multiplies with *: write {meant}"


def check_writes(report: Report, count: int, span: Span) -> None:
    """Raise where a matrix is a sum of more outer products than a token may write."""
    if count > MOST_WRITES:
        raise report.error(
            "too-many-writes",
            f"this is a sum of more than {MOST_WRITES} outer products",
            span,
            "every outer product of a token is recorded and read back: take fewer",
        )
