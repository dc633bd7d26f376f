"""Matrices over one channel twice, as papers print delta rules: I - outer(k, b * k).

They are never held as such. Multiplied with the state, or with a vector, such a matrix is a factor
and reads: (a I - b p qᵀ) S = a S - p (b (q S)).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from kvgen.algebra import matrix as mx
from kvgen.algebra.graph import Graph, Node
from kvgen.algebra.matrix import Matrix, Term


@dataclass(frozen=True)
class Rank1:
    """left rightᵀ, times numbers for each head, the first of them first."""

    left: Node
    right: Node
    numbers: tuple[Node, ...] = ()

    def times(self, graph: Graph, value: Node) -> Node:
        return reduce(lambda product, number: mx.times(graph, number, product), self.numbers, value)


@dataclass(frozen=True)
class Square:
    """(factor) I + sum of terms, over the channel K or V, or '' for a number times I.

    factor: over no channel, or over this one, a diagonal matrix; None for no part of I.
    """

    channel: str
    factor: Node | None
    terms: tuple[Rank1, ...] = ()


# what an expression of a step may come to
Value = Node | Matrix | Square


def outer(left: Node, right: Node) -> Square:
    """The outer product of two vectors over one channel. Numbers stand apart, so that a vector on
    both sides is one, and vectors that read the state stay shared by the value heads of a group."""
    lefts, rights = _stages(left), _stages(right)
    known = {vector for vector, _ in rights}
    shared = next((vector for vector, _ in lefts if vector in known), None)
    (left, of_left), (right, of_right) = (
        next(each for each in stages if each[0] is shared) if shared else _of_group(stages)
        for stages in (lefts, rights)
    )
    return Square(left.axes.channels, None, (Rank1(left, right, of_left + of_right),))


Stage = tuple[Node, tuple[Node, ...]]


def _stages(vector: Node) -> list[Stage]:
    """The vector, and what it is without the numbers that it is times, one after the other."""
    found: list[Stage] = [(vector, ())]
    while vector.op == "mul":
        number, inner = vector.args
        if not inner.axes.channels:
            number, inner = inner, number
        if number.axes.channels:
            break
        vector = inner
        found.append((vector, (number, *found[-1][1])))
    return found


def _of_group(stages: list[Stage]) -> Stage:
    """Without the numbers of single value heads, where those of a group share the rest."""
    wanted = min(stage[0].axes.head == "HV" for stage in stages)
    return next(stage for stage in stages if (stage[0].axes.head == "HV") == wanted)


def times(graph: Graph, square: Square, factor: Node) -> Square:
    """The square times a number for each head; of I alone, a diagonal matrix."""
    scaled = None if square.factor is None else graph.mul(factor, square.factor)
    terms = tuple(replace(each, numbers=(*each.numbers, factor)) for each in square.terms)
    return replace(square, factor=scaled, terms=terms)


def plus(graph: Graph, x: Square, y: Square) -> Square:
    """Their sum, over the same channel."""
    parts = [each.factor for each in (x, y) if each.factor is not None]
    factor = parts[0] if parts else None
    if len(parts) == 2:
        factor = graph.add(*parts)
    return Square(x.channel or y.channel, factor, x.terms + y.terms)


def after(graph: Graph, x: Square, y: Square) -> Square:
    """The product x y, over the same channel."""
    factor, terms = None, []
    if x.factor is not None and y.factor is not None:
        factor = graph.mul(x.factor, y.factor)
    if y.factor is not None:
        terms += [_scaled(graph, each, y.factor, "right") for each in x.terms]
    if x.factor is not None:
        terms += [_scaled(graph, each, x.factor, "left") for each in y.terms]
    for first in x.terms:
        for second in y.terms:
            dot = graph.sum(graph.mul(first.right, second.left))
            numbers = (dot, *first.numbers, *second.numbers)
            terms.append(Rank1(first.left, second.right, numbers))
    return Square(x.channel or y.channel, factor, tuple(terms))


def _scaled(graph: Graph, term: Rank1, factor: Node, side: str) -> Rank1:
    if factor.is_const and factor.const == 1:
        return term
    if not factor.axes.channels:
        return replace(term, numbers=(*term.numbers, factor))
    return replace(term, **{side: graph.mul(factor, getattr(term, side))})


def of_vector(graph: Graph, square: Square, vector: Node, before: bool) -> Node:
    """square @ vector, or vector @ square where `before`."""
    parts = [] if square.factor is None else [graph.mul(square.factor, vector)]
    for term in square.terms:
        near, far = (term.left, term.right) if before else (term.right, term.left)
        dot = graph.sum(graph.mul(near, vector))
        parts.append(graph.mul(term.times(graph, dot), far))
    return reduce(graph.add, parts)


def vectors(square: Square) -> tuple[Node, ...]:
    """What reads a matrix that the square is multiplied with."""
    before = square.channel == "K"
    return tuple(term.right if before else term.left for term in square.terms)


def of_matrix(graph: Graph, square: Square, found: list[Node], scaled: Matrix | None) -> Matrix:
    """square @ matrix over K, matrix @ square over V. found: what `vectors` have read of the
    matrix. scaled: the matrix times the square's factor, if it has one."""
    terms: list[Term] = []
    for term, read in zip(square.terms, found, strict=True):
        if square.channel == "K":
            terms.append(Term(term.left, term.times(graph, read)))
        else:
            terms.append(Term(read, term.times(graph, term.right)))
    if scaled is None:
        return Matrix(None, (), mx.merged(graph, tuple(terms)))
    return replace(scaled, terms=mx.merged(graph, scaled.terms + tuple(terms)))
