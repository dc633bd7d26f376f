"""What a step reads of the state: vectors that are contracted with it, and where they first are."""

from __future__ import annotations

from kvgen.algebra import matrix as mx
from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.matrix import Matrix
from kvgen.algebra.report import Report
from kvgen.diagnostics import Span
from kvgen.language.syntax import Bin

MOST_READS = 64


class Reading:
    """Reads of one step. readers: where each vector first reads the state."""

    def __init__(self, graph: Graph, report: Report) -> None:
        self.graph, self.report = graph, report
        self.readers: dict[Node, Span] = {}
        # all that has been looked at for reads
        self.searched: set[Node] = set()

    def contract(self, expr: Bin, left: Node | Matrix, right: Node | Matrix) -> Node:
        """A matrix contracted with a vector, on the side on which it stands."""
        matrix, vector = (left, right) if isinstance(left, Matrix) else (right, left)
        assert isinstance(matrix, Matrix) and isinstance(vector, Node)
        side, wanted = (expr.right, "V") if isinstance(left, Matrix) else (expr.left, "K")
        if vector.axes.channels != wanted:
            name = self.report.within(expr.left if isinstance(left, Matrix) else expr.right, "S")
            other = {"V": f"x @ {name}", "K": f"{name} @ y"}
            if vector.axes.channels in ("K", "V"):
                shown = self.report.within(side, "x")
                help = f"write {shown} @ {name}" if wanted == "V" else f"write {name} @ {shown}"
            else:
                help = f"{other['V']} reads with a vector over K, {other['K']} with one over V"
                if not vector.axes.channels:
                    help += (
                        f"; a factor multiplies with *: {self.report.within(side, 'a')} * {name}"
                    )
            raise self.report.error(
                "axis-mismatch",
                f"a value with axes {vector.axes} cannot be contracted with {name} over {wanted}",
                side.span,
                help,
            )
        return self.read(matrix, vector, wanted, side.span, expr.span)

    def read(self, matrix: Matrix, vector: Node, wanted: str, side: Span, whole: Span) -> Node:
        """The matrix contracted with a vector over the channel that it has."""
        scales = [node for node, _ in matrix.factors if node.axes.channels == wanted]
        late = next((node for node in (vector, *scales) if node.reads), None)
        if late is not None and matrix.state is not None:
            raise self.report.error(
                "read-of-read",
                "the vector that reads the state depends on another read of the same token"
                if late is vector
                else "this matrix has a decay that depends on another read of the same token",
                side if late is vector else whole,
                "a token passes over the stored state once, so every vector that reads it must be "
                "known before: compute it from inputs, parameters and carried states",
                self.first(late),
            )
        found = mx.read(self.graph, matrix, vector)
        if matrix.state is not None:
            for node in reachable([found], self.searched):
                self.searched.add(node)
                if node.op == "read" and node.args[0] not in self.readers:
                    self.readers[node.args[0]] = whole
            known = {diagnostic.code for diagnostic in self.report.diagnostics}
            if len(self.readers) > MOST_READS and "too-many-reads" not in known:
                raise self.report.error(
                    "too-many-reads",
                    f"more than {MOST_READS} vectors read the state",
                    whole,
                    "every one of them is a pass over the buffer: take fewer",
                )
        return found

    def first(self, value: Node) -> tuple[tuple[str, Span], ...]:
        """A note on where a value comes to depend on the state."""
        read = next((node for node in reachable([value]) if node.op == "read"), None)
        span = self.readers.get(read.args[0]) if read is not None else None
        return (("the state is read", span),) if span else ()
