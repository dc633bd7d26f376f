"""What is proved of values by how they hang together, beyond the ranges of their parts.

Squares and other polynomials, means (`polynomial.py`), functions beside what they are functions of,
vectors divided by their own length and their dots, parts of a sum. All hold in real arithmetic,
whatever the inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from kvgen.algebra import polynomial as poly
from kvgen.algebra.polynomial import Polynomial
from kvgen.functions.function import Function
from kvgen.functions.registry import FUNCTIONS, function_of, reduces
from kvgen.values import interval as iv
from kvgen.values.interval import ANY, Interval
from kvgen.values.node import Node

MOST_SEEN = 32
GATES = [each.gate for each in FUNCTIONS.values() if each.gate]
# functions whose values are products, with ranges of their own
PRODUCTS = [
    (each.product, each.bounds) for each in FUNCTIONS.values() if each.product and each.bounds
]


class Proofs:
    """Remembers what has been found of the values of one graph. sizes: of the channels."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self._polynomials: dict[Node, Polynomial] = {}
        # vectors of which a largest length is known
        self._lengths: dict[Node, float] = {}
        # a gate, and what it is taken of -> the first value that is it, and whether of the negative
        self._gates: dict[object, tuple[Node, bool]] = {}

    # -- polynomials

    def polynomial(self, node: Node) -> Polynomial:
        return self._polynomials.get(node) or poly.unknown(node)

    def combined(self, op: str, args: tuple[Node, ...]) -> Polynomial | None:
        """The operation's polynomial, where it has one that is small."""
        if op == "pow":
            exponent = args[1].const if args[1].is_const else 0.0
            if exponent not in (2.0, 3.0, 4.0):
                return None
            found = base = self.polynomial(args[0])
            for _ in range(int(exponent) - 1):
                found = found * base
                if not found.small:
                    return None
            return found
        parts = [self.polynomial(arg) for arg in args]
        match op:
            case "neg":
                found = -parts[0]
            case "add":
                found = parts[0] + parts[1]
            case "sub":
                found = parts[0] - parts[1]
            case "mul":
                found = parts[0] * parts[1]
            case "div" if args[1].is_const and args[1].const:
                found = parts[0] * Polynomial({(): 1 / Fraction(args[1].const)})
            case _:
                return None
        return found if found.small else None

    def bounds(self, of: Polynomial, steps: int = 2) -> Interval:
        """What is proved of its values: by its terms, and with something in a function's place that
        the function is never below, or never above. steps: how many of those one after another."""
        found = of.bounds()
        for atom in of.atoms if steps else ():
            slope, function = of.slope(atom), function_of(atom)
            if slope is None or function is None:
                continue
            for side, other in self._beside(function, atom.args):
                instead = of + slope * (other - poly.unknown(atom))
                grows = slope.bounds() if side > 0 else -slope.bounds()
                if instead.small and (grows.nonnegative or grows.nonpositive):
                    ends = self.bounds(instead, steps - 1)
                    least = ends.lo if grows.nonnegative else -math.inf
                    most = ends.hi if grows.nonpositive else math.inf
                    found = iv.both(found, Interval(least, most))
        return found

    def of_two(self, function: Function, args: tuple[Node, ...]) -> Interval:
        """What is proved of a function that is never below its two arguments, or never above."""
        found = ANY
        for side, other in self._beside(function, args) if len(args) == 2 else ():
            ends = self.bounds(other)
            found = iv.both(found, Interval(lo=ends.lo) if side > 0 else Interval(hi=ends.hi))
        return found

    def _beside(
        self, function: Function, args: tuple[Node, ...]
    ) -> Iterator[tuple[int, Polynomial]]:
        """What a function of these arguments is never below, 1, or never above, -1."""
        each = [self.polynomial(arg) for arg in args]
        if len(each) == 2:
            # it lies beyond what is between them, too
            each.append((each[0] + each[1]) * Polynomial({(): Fraction(1, 2)}))
        if function.at_least_each:
            yield from ((1, other) for other in each)
        if function.at_most_each:
            yield from ((-1, other) for other in each)
        if function.at_least_size:
            yield 1, -each[0]

    def keep(self, node: Node, found: Polynomial | None) -> None:
        """Remember a new node's polynomial: that of its operation, of a number, or a mirrored
        gate's."""
        if node.is_const and math.isfinite(node.const):
            self._polynomials[node] = poly.number(node.const)
        elif found is not None:
            self._polynomials[node] = found
        elif (gate := self._gate(node)) is not None:
            of, mirrored = gate
            first, was = self._gates.setdefault(of, (node, mirrored))
            same = poly.unknown(first)
            self._polynomials[node] = same if was == mirrored else poly.number(1.0) - same

    def _gate(self, node: Node) -> tuple[object, bool] | None:
        """What the node is a gate of: values at x and at -x add up to 1."""
        for gate in GATES:
            found = gate(node)
            if found:
                of, mirrored = self._normal(*found)
                return (gate, of), mirrored
        return None

    def _normal(self, of: Node, mirrored: bool) -> tuple[object, bool]:
        """The same of x and of -x, as a polynomial's terms."""
        terms = sorted(
            self.polynomial(of).terms.items(),
            key=lambda term: [(atom.order, power) for atom, power in term[0]],
        )
        if terms and terms[0][1] < 0:
            mirrored = not mirrored
            terms = [(monomial, -factor) for monomial, factor in terms]
        return tuple(terms), mirrored

    # -- lengths of vectors, and shares of sums

    def product(self, x: Node, y: Node) -> tuple[Interval, float | None]:
        """What is proved of x * y, and a largest length of it."""
        for value, other in ((x, y), (y, x)):
            for product, bounds in PRODUCTS:
                seen = product(value, other)
                if seen:
                    return bounds(*(arg.bounds for arg in seen.args)), None
            if other.op == "div" and other.args[0].is_number(1.0):
                bounds, length = self.quotient(value, other.args[1])
                if bounds != ANY:
                    return bounds, length
            if other.op == "pow" and other.args[1].is_number(-1.0):
                bounds, length = self.quotient(value, other.args[0])
                if bounds != ANY:
                    return bounds, length
            if other.op == "pow" and other.args[1].is_number(-0.5):
                energy = Search(value).energy(other.args[0])
                if energy is not None:
                    return _within(value, math.sqrt(energy))
        return self._fraction(x, y), None

    def quotient(self, x: Node, y: Node) -> tuple[Interval, float | None]:
        """What is proved of x / y, and a largest length of it."""
        search = Search(x)
        scale = search.root(y)
        if scale is not None:
            return _within(x, math.sqrt(scale))
        share = search.share(y)
        if share is not None:
            return _within(x, share)[0], None
        return self._part(self.polynomial(x), y, x.bounds), None

    def _fraction(self, x: Node, y: Node) -> Interval:
        """What is proved of x * y, one monomial, one of whose unknowns is a quotient."""
        first, second = self.polynomial(x), self.polynomial(y)
        if len(first.terms) != 1 or len(second.terms) != 1:
            return ANY
        ((monomial, factor),) = (first * second).terms.items()
        for atom, power in monomial:
            if atom.op == "div" and power == 1:
                others = tuple(each for each in monomial if each[0] is not atom)
                rest = Polynomial({others: factor})
                bounds = self._part(rest * self.polynomial(atom.args[0]), atom.args[1])
                if bounds != ANY:
                    return bounds
        return ANY

    def _part(self, x: Polynomial, y: Node, known: Interval = ANY) -> Interval:
        """What is proved of x / y where y is the larger of them. known: what is known of x."""
        if not y.bounds.nonnegative or not x.small:
            return ANY
        if not known.nonnegative and not x.bounds().nonnegative:
            return ANY
        whole = self.polynomial(y)
        for least in (whole, self._of_one(whole)):
            rest = least - x
            if rest.small and self.bounds(rest).nonnegative:
                return Interval(0.0, 1.0)
        return ANY

    def _of_one(self, whole: Polynomial) -> Polynomial:
        """What a polynomial is at least at each place of the channel: of its sums of what is not
        negative only the part at that place, and of squared roots what they are roots of."""
        least = Polynomial({})
        for monomial, factor in whole.terms.items():
            part = Polynomial({(): factor})
            others = [iv.power(atom.bounds, power) for atom, power in monomial]
            fixed = factor > 0 and all(each.nonnegative for each in others)
            for atom, power in monomial:
                inner, times = atom, power
                function = function_of(inner)
                if power == 2 and function is not None and function.power == 0.5:
                    inner, times = inner.args[0], 1
                base = self.polynomial(inner)
                if fixed and times == 1 and reduces(inner) and inner.args[0].bounds.nonnegative:
                    base = self.polynomial(inner.args[0])
                for _ in range(times):
                    part = part * base
                if not part.small:
                    return whole
            least = least + part
        return least

    def measure(self, node: Node, length: float | None) -> None:
        """Remember a largest length of a vector, which is then one unknown."""
        if length is not None and node.axes.channels:
            self._lengths[node] = length
            self._polynomials.pop(node, None)

    def sum(self, x: Node) -> Interval:
        """What is proved of the sum over the channel of x."""
        size = self.sizes.get(x.axes.channels)
        count = Interval(1.0) if size is None else iv.point(float(size))
        plain = count * x.bounds
        total = iv.point(0.0)
        for monomial, factor in self.polynomial(x).terms.items():
            total = total + iv.point(float(factor)) * self._summed(monomial, count)
        return iv.both(plain, total)

    def _summed(self, monomial: poly.Monomial, count: Interval) -> Interval:
        """By Cauchy and Schwarz where two of its vectors have lengths."""
        each = iv.point(1.0)
        vectors: list[Node] = []
        for atom, power in monomial:
            each = each * iv.power(atom.bounds, power)
            vectors += [atom] * power if atom in self._lengths else []
        found = each * count
        if len(vectors) < 2:
            return found
        vectors.sort(key=lambda node: self._lengths[node])
        rest = iv.point(1.0)
        left = {first: vectors[:2].count(first) for first in vectors[:2]}
        for atom, power in monomial:
            rest = rest * iv.power(atom.bounds, power - left.get(atom, 0))
        most = self._lengths[vectors[0]] * self._lengths[vectors[1]]
        dot = Interval(0.0 if vectors[0] is vectors[1] else -most, most)
        if vectors[0] is vectors[1]:
            return iv.both(found, dot * rest)
        largest = max(abs(rest.lo), abs(rest.hi))
        return iv.both(found, dot * iv.point(largest))


@dataclass
class Search:
    """Looks into a divisor for what makes it at least as large as what it divides.

    seen: what has been looked into, and what was found; no more than MOST_SEEN, for a divisor may
    be all of a long step.
    """

    x: Node
    seen: dict[tuple[str, Node], float | None] = field(default_factory=dict)

    def root(self, y: Node) -> float | None:
        """c with sum(x * x) <= c * y * y, and y >= 0."""
        function = function_of(y)
        power = function and function.power
        if power == 0.5 or (y.op == "pow" and y.args[1].is_number(0.5)):
            return self.energy(y.args[0])
        return self._in_parts("root", y, 2)

    def energy(self, y: Node) -> float | None:
        """c with sum(x * x) <= c * y."""
        if reduces(y):
            match y.args[0]:
                case Node(op="mul", args=(a, b)) if a is b is self.x:
                    return 1.0
                case Node(op="pow", args=(a, power)) if a is self.x and power.is_number(2.0):
                    return 1.0
                case _:
                    pass
        return self._in_parts("energy", y, 1)

    def share(self, y: Node) -> float | None:
        """c with |x| <= c * y."""
        if y is self.x and y.bounds.nonnegative:
            return 1.0
        function = function_of(y)
        if function is not None and function.at_least_size and y.args[0] is self.x:
            return 1.0
        if reduces(y) and y.args[0].bounds.nonnegative:
            return self.share(y.args[0])
        return self._in_parts("share", y, 1)

    def _in_parts(self, kind: str, y: Node, power: int) -> float | None:
        """The same of what is at least one of its parts, or a multiple of it."""
        if (kind, y) in self.seen:
            return self.seen[kind, y]
        self.seen[kind, y] = None
        if len(self.seen) > MOST_SEEN:
            return None
        function = function_of(y)
        match y.op, y.args:
            case _ if function is not None:
                parts = [(1.0, arg) for arg in y.args] if function.at_least_each else []
            case "add", (a, b):
                parts = [(1.0, a)] if b.bounds.nonnegative else []
                parts += [(1.0, b)] if a.bounds.nonnegative else []
            case "mul", (a, b):
                parts = [(a.const, b)] if a.is_const and a.const > 0 else []
                parts += [(b.const, a)] if b.is_const and b.const > 0 else []
            case "div", (a, b) if b.is_const and b.const > 0:
                parts = [(1 / b.const, a)]
            case _:
                parts = []
        look = getattr(self, kind)
        found = [(look(part), times) for times, part in parts]
        known = [each / times**power for each, times in found if each is not None]
        self.seen[kind, y] = min(known, default=None)
        return self.seen[kind, y]


def _within(x: Node, length: float) -> tuple[Interval, float]:
    """Of a vector of that length: no part of it is longer."""
    return Interval(
        0.0 if x.bounds.nonnegative else -length, 0.0 if x.bounds.nonpositive else length
    ), length
