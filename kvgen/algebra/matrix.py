"""The symbolic matrix state: a decayed copy of the state before this token, plus outer products."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kvgen.algebra.graph import Graph, Node
from kvgen.diagnostics import Span

# what multiplies a copy of the state, with its places in the spec
Factors = tuple[tuple[Node, Span], ...]


@dataclass(frozen=True)
class Term:
    """One outer product: `w` over K, `d` over V."""

    w: Node
    d: Node


@dataclass(frozen=True)
class Matrix:
    """(product of factors) ⊙ state + sum of terms.

    state: the name of the state it holds a copy of, or None (only outer products).
    factors: what multiplies that copy, each over no channel, over K or over V, with its place in
    the spec. terms: the outer products this token has added so far, decays already applied.
    """

    state: str | None
    factors: Factors = ()
    terms: tuple[Term, ...] = ()


def times(graph: Graph, factor: Node, side: Node) -> Node:
    """factor * side; what two signs make of a side is the side itself."""
    if factor.is_const and side.op == "mul" and side.args[0].is_const:
        return graph.mul(graph.mul(factor, side.args[0]), side.args[1])
    return graph.mul(factor, side)


def scaled(graph: Graph, matrix: Matrix, factors: list[Node], span: Span) -> Matrix:
    """The matrix times factors that have at most one channel axis each."""
    terms = matrix.terms
    for factor in factors:
        if factor.axes.channels == "K":
            terms = tuple(replace(t, w=times(graph, factor, t.w)) for t in terms)
        else:
            terms = tuple(replace(t, d=times(graph, factor, t.d)) for t in terms)
    if matrix.state is None:
        return replace(matrix, terms=terms)
    kept = matrix.factors
    for factor in factors:
        kept = _joined(graph, kept, factor, span)
    return replace(matrix, factors=kept, terms=terms)


def _joined(graph: Graph, factors: Factors, factor: Node, span: Span) -> Factors:
    """The factors with one more; numbers are one number, and 1 is none."""
    if factor.is_number(1.0):
        return factors
    known = next((each for each, _ in factors if each.is_const), None)
    if factor.is_const and known is not None:
        product = graph.mul(known, factor)
        if product.const == 1:
            return tuple(each for each in factors if each[0] is not known)
        return tuple((product, span) if each[0] is known else each for each in factors)
    return (*factors, (factor, span))


def summed(graph: Graph, left: Matrix, right: Matrix, span: Span) -> Factors | None:
    """The factors of the sum of two copies of the state; None where they are over K and over V."""
    shared: Factors = ()
    ones, others = list[Node](), [node for node, _ in right.factors]
    for node, place in left.factors:
        if node in others:
            others.remove(node)
            shared = (*shared, (node, place))
        else:
            ones.append(node)
    if len({node.axes.channels for node in (*ones, *others)} - {""}) > 1:
        return None
    (first, plus), (second, also) = _sized(graph, ones), _sized(graph, others)
    total = graph.add(first, second) if plus == also else graph.sub(first, second)
    return _joined(graph, shared, total if plus else graph.neg(total), span)


def _sized(graph: Graph, factors: list[Node]) -> tuple[Node, bool]:
    """Their product without the sign of a number among them, and whether that was a plus."""
    size, plus = graph.const(1.0), True
    for node in factors:
        if node.is_const and node.const < 0:
            node, plus = graph.neg(node), not plus
        size = graph.mul(size, node)
    return size, plus


def signed(graph: Graph, matrix: Matrix) -> Matrix:
    """The matrix with factors that are not negative, where two signs are none."""
    negative = [each for each, _ in matrix.factors if _negative(each)]
    if not negative or len(negative) % 2:
        return matrix
    factors = tuple(
        (graph.neg(each) if _negative(each) else each, span) for each, span in matrix.factors
    )
    one = (each for each in factors if not (each[0].is_const and each[0].const == 1))
    return replace(matrix, factors=tuple(one))


def _negative(factor: Node) -> bool:
    return factor.bounds.nonpositive and not factor.bounds.nonnegative


def product(graph: Graph, matrix: Matrix, channel: str) -> Node | None:
    """The product of the factors over one channel ('' for none), or None where there are none."""
    found = [node for node, _ in matrix.factors if node.axes.channels == channel]
    result = found[0] if found else None
    for node in found[1:]:
        assert result is not None
        result = graph.mul(node, result)
    return result


def read(graph: Graph, matrix: Matrix, vector: Node) -> Node:
    """The matrix contracted with a vector over K (giving V) or over V (giving K).

    One column of the pass over the stored state, and one dot with each of this token's own terms.
    A factor over the contracted channel joins the column; the others scale what comes back, so
    that a column stays shared by the value heads of a group.
    """
    near = vector.axes.channels
    far = "V" if near == "K" else "K"
    parts: list[Node] = []
    if matrix.state is not None:
        inner = product(graph, matrix, near)
        column = vector if inner is None else graph.mul(inner, vector)
        part = graph.read(matrix.state, column)
        for channel in ("", far):
            factor = product(graph, matrix, channel)
            part = part if factor is None else graph.mul(factor, part)
        parts.append(part)
    for term in matrix.terms:
        same, other = (term.w, term.d) if near == "K" else (term.d, term.w)
        parts.append(graph.mul(graph.sum(graph.mul(same, vector)), other))
    total = parts[0]
    for part in parts[1:]:
        total = graph.add(total, part)
    return total


def merged(graph: Graph, terms: tuple[Term, ...]) -> tuple[Term, ...]:
    """The same sum with fewer outer products: terms that share one side become one."""
    kept: list[Term] = []
    # where a side was last seen; a side that has been summed is another node
    by_w: dict[Node, int] = {}
    by_d: dict[Node, int] = {}
    for term in terms:
        place = by_w.get(term.w)
        if place is not None and kept[place].w is term.w:
            term = Term(term.w, graph.add(kept[place].d, term.d))
        else:
            place = by_d.get(term.d)
            if place is not None and kept[place].d is term.d:
                term = Term(graph.add(kept[place].w, term.w), term.d)
            else:
                place = len(kept)
                kept.append(term)
        kept[place] = term
        by_w[term.w] = by_d[term.d] = place
    return tuple(kept)
