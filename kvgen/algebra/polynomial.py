"""Polynomials in values of a token, and what their range is proved to be.

Interval arithmetic takes both sides of a sum for independent: to it `r * x + (1 - r) * y` of three
numbers in [0, 1] reaches 2. As a polynomial in r, x and y it is bounded by its Bernstein
coefficients, which here are its values at the corners. All of it is exact, in fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise, product

from kvgen.values import interval as iv
from kvgen.values.interval import ANY, Interval
from kvgen.values.node import Node

Monomial = tuple[tuple[Node, int], ...]

# what a polynomial may at most be made of; anything larger is looked at as one unknown
MOST_TERMS, MOST_ATOMS, MOST_DEGREE, MOST_BITS = 24, 6, 4, 400
# Bernstein coefficients, over all halves of the box
MOST_COEFFICIENTS = 1024
# an end that is further away is none
FAR = 2.0**64


@dataclass(frozen=True)
class Polynomial:
    """A sum of monomials with their coefficients, in distinct nodes as unknowns."""

    terms: Mapping[Monomial, Fraction]

    @cached_property
    def atoms(self) -> tuple[Node, ...]:
        found = {atom for monomial in self.terms for atom, _ in monomial}
        return tuple(sorted(found, key=lambda atom: atom.order))

    @property
    def small(self) -> bool:
        return (
            len(self.terms) <= MOST_TERMS
            and len(self.atoms) <= MOST_ATOMS
            and all(power <= MOST_DEGREE for monomial in self.terms for _, power in monomial)
            and all(_bits(factor) <= MOST_BITS for factor in self.terms.values())
        )

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, factor in other.terms.items():
            terms[monomial] = terms.get(monomial, Fraction(0)) + factor
        return Polynomial({monomial: factor for monomial, factor in terms.items() if factor})

    def __neg__(self) -> Polynomial:
        return Polynomial({monomial: -factor for monomial, factor in self.terms.items()})

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, Fraction] = {}
        for first, a in self.terms.items():
            for second, b in other.terms.items():
                monomial = _times(first, second)
                terms[monomial] = terms.get(monomial, Fraction(0)) + a * b
        return Polynomial({monomial: factor for monomial, factor in terms.items() if factor})

    def slope(self, atom: Node) -> Polynomial | None:
        """What it grows by with an unknown, where that is the same whatever the unknown is."""
        terms: dict[Monomial, Fraction] = {}
        for monomial, factor in self.terms.items():
            powers = dict(monomial)
            power = powers.pop(atom, 0)
            if power > 1:
                return None
            if power:
                terms[tuple(powers.items())] = factor
        return Polynomial(terms)

    def bounds(self) -> Interval:
        """What is proved of its values, from those of its unknowns."""
        plain = iv.point(0.0)
        for monomial, factor in self.terms.items():
            part = iv.point(_float(factor))
            for atom, power in monomial:
                part = part * iv.power(atom.bounds, power)
            plain = plain + part
        return iv.both(plain, self._related())

    def _related(self) -> Interval:
        """The same from how the monomials hang together, where some unknown is in two of them."""
        times = [sum(atom in dict(each) for each in self.terms) for atom in self.atoms]
        if max(times, default=0) < 2:
            return ANY
        return _bounded(self.terms, self.atoms)


def number(value: float) -> Polynomial:
    return Polynomial({(): Fraction(value)} if value else {})


def unknown(node: Node) -> Polynomial:
    return Polynomial({((node, 1),): Fraction(1)})


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _times(first: Monomial, second: Monomial) -> Monomial:
    powers = dict(first)
    for atom, power in second:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda each: each[0].order))


def _ends(atom: Node) -> tuple[Fraction | None, Fraction | None]:
    lo, hi = atom.bounds.lo, atom.bounds.hi
    return (
        Fraction(lo) if abs(lo) < FAR else None,
        Fraction(hi) if abs(hi) < FAR else None,
    )


def _bounded(terms: Mapping[Monomial, Fraction], atoms: tuple[Node, ...]) -> Interval:
    """Unknowns without an end first: where all that they multiply has one sign, the other end
    counts; then the box of those that have both."""
    open_ended = next((atom for atom in atoms if None in _ends(atom)), None)
    if open_ended is None:
        return _in_box(terms, atoms)
    rest = tuple(atom for atom in atoms if atom is not open_ended)
    lo, hi = _ends(open_ended)
    degrees = [dict(monomial).get(open_ended, 0) for monomial in terms]
    # in powers of t >= 0, with the unknown being start ± t, or its square t
    if lo is None and hi is None:
        start, sign, unit = Fraction(0), 1, 2
        if any(degree % 2 for degree in degrees):
            return ANY
    else:
        start, sign, unit = (lo, 1, 1) if lo is not None else (hi, -1, 1)
    assert start is not None
    parts: dict[int, dict[Monomial, Fraction]] = {0: {}}
    for (monomial, factor), in_all in zip(terms.items(), degrees, strict=True):
        left = tuple(each for each in monomial if each[0] is not open_ended)
        degree = in_all // unit
        for power in range(degree + 1):
            part = parts.setdefault(power, {})
            share = math.comb(degree, power) * start ** (degree - power) * sign**power
            part[left] = part.get(left, Fraction(0)) + factor * share
    still = _bounded(parts.pop(0), rest)
    growing = [_bounded(part, rest) for part in parts.values()]
    return Interval(
        still.lo if all(each.nonnegative for each in growing) else -math.inf,
        still.hi if all(each.nonpositive for each in growing) else math.inf,
    )


def _in_box(terms: Mapping[Monomial, Fraction], atoms: tuple[Node, ...]) -> Interval:
    degrees = [max((dict(each).get(atom, 0) for each in terms), default=0) for atom in atoms]
    boxes: list[list[tuple[Fraction, Fraction]]] = []
    count = 1
    for atom, degree in zip(atoms, degrees, strict=True):
        lo, hi = _ends(atom)
        assert lo is not None and hi is not None
        # an even power turns at 0, and x * (1 - x) in the middle
        turns = {Fraction(0), (lo + hi) / 2} if degree > 1 else set()
        marks = sorted({lo, hi} | {turn for turn in turns if lo < turn < hi})
        boxes.append(list(pairwise(marks)) or [(lo, hi)])
        count *= len(boxes[-1]) * (degree + 1)
    if count > MOST_COEFFICIENTS:
        return ANY
    places = list(product(*(range(degree + 1) for degree in degrees)))
    dense = dict.fromkeys(places, Fraction(0))
    for monomial, factor in terms.items():
        powers = dict(monomial)
        dense[tuple(powers.get(atom, 0) for atom in atoms)] += factor
    found = [each for box in product(*boxes) for each in _bernstein(dense, degrees, box)]
    return Interval(_float(min(found)), _float(max(found)))


def _bernstein(
    dense: dict[tuple[int, ...], Fraction],
    degrees: list[int],
    box: tuple[tuple[Fraction, Fraction], ...],
) -> list[Fraction]:
    """The coefficients over a box: the values lie between the least and the largest of them."""
    for axis, (degree, (lo, hi)) in enumerate(zip(degrees, box, strict=True)):
        matrix = _to_bernstein(degree, lo, hi)
        dense = {
            place: sum(
                (
                    matrix[place[axis]][power] * dense[(*place[:axis], power, *place[axis + 1 :])]
                    for power in range(degree + 1)
                ),
                Fraction(0),
            )
            for place in dense
        }
    return list(dense.values())


def _to_bernstein(degree: int, lo: Fraction, hi: Fraction) -> list[list[Fraction]]:
    """From coefficients of powers of x to Bernstein coefficients over [lo, hi]."""
    width = hi - lo
    return [
        [
            sum(
                (
                    Fraction(math.comb(place, j), math.comb(degree, j))
                    * math.comb(power, j)
                    * lo ** (power - j)
                    * width**j
                    for j in range(min(place, power) + 1)
                ),
                Fraction(0),
            )
            for power in range(degree + 1)
        ]
        for place in range(degree + 1)
    ]
