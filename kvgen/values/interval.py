"""Closed intervals over the extended reals: what is proved of a value's range."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Every value lies in [lo, hi]; the ends may be infinite."""

    lo: float = -math.inf
    hi: float = math.inf

    @property
    def nonnegative(self) -> bool:
        return self.lo >= 0

    @property
    def nonpositive(self) -> bool:
        return self.hi <= 0

    def __neg__(self) -> Interval:
        return Interval(-self.hi, -self.lo)

    def __add__(self, other: Interval) -> Interval:
        return _ordered(_plus(self.lo, other.lo, -math.inf), _plus(self.hi, other.hi, math.inf))

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        ends = [_times(x, y) for x in (self.lo, self.hi) for y in (other.lo, other.hi)]
        return _ordered(min(ends), max(ends))

    def __truediv__(self, other: Interval) -> Interval:
        if other.lo <= 0 <= other.hi and not (self.nonnegative and other.lo == 0 < other.hi):
            return ANY
        high = math.inf if other.lo == 0 else 1 / other.lo
        low = 0.0 if math.isinf(other.hi) else 1 / other.hi
        return self * _ordered(low, high)


ANY = Interval()


def both(x: Interval, y: Interval) -> Interval:
    """What two proofs say of one value together."""
    lo, hi = max(x.lo, y.lo), min(x.hi, y.hi)
    # ends that rounding has let pass each other
    return Interval(lo, hi) if lo <= hi else x


def settled(x: Interval) -> Interval:
    """Without what rounding has made of an end that is 0."""
    small = 1e-14 * min(max(abs(x.lo), abs(x.hi)), 1e6)
    return Interval(*(0.0 if abs(end) <= small else end for end in (x.lo, x.hi)))


def point(value: float) -> Interval:
    return Interval(value, value)


def absolute(x: Interval) -> Interval:
    if x.lo >= 0:
        return x
    if x.hi <= 0:
        return -x
    return Interval(0.0, max(-x.lo, x.hi))


def square(x: Interval) -> Interval:
    size = absolute(x)
    return Interval(_times(size.lo, size.lo), _times(size.hi, size.hi))


def power(x: Interval, exponent: float) -> Interval:
    """x ** exponent for a constant exponent; real powers need x >= 0."""
    if exponent == 0:
        return point(1.0)
    if exponent < 0:
        return point(1.0) / power(x, -exponent)
    if x.nonnegative:
        return Interval(_raise(x.lo, exponent), _raise(x.hi, exponent))
    if exponent == int(exponent) and int(exponent) % 2 == 0:
        return power(absolute(x), exponent)
    if exponent == int(exponent):
        return Interval(-_raise(-x.lo, exponent), _raise(x.hi, exponent) if x.hi > 0 else 0.0)
    return ANY


def powers(x: Interval, exponent: Interval) -> Interval:
    """x ** exponent for x >= 0 and any exponent."""
    logs = Interval(log(x.lo), log(x.hi)) * exponent
    return Interval(exp(logs.lo), exp(logs.hi))


def increasing(image: Callable[[float], float]) -> Callable[[Interval], Interval]:
    """The range of an increasing function, which is given at both ends (infinite ones too)."""
    return lambda x: _ordered(image(x.lo), image(x.hi))


def exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def log(value: float) -> float:
    return -math.inf if value <= 0 else math.log(value)


def _ordered(lo: float, hi: float) -> Interval:
    return ANY if math.isnan(lo) or math.isnan(hi) else Interval(lo, hi)


def _plus(x: float, y: float, undefined: float) -> float:
    total = x + y
    return undefined if math.isnan(total) else total


def _times(x: float, y: float) -> float:
    # a bound of 0 times an unbounded factor is 0: infinity stands for "no bound", not for a value
    return 0.0 if x == 0 or y == 0 else x * y


def _raise(x: float, exponent: float) -> float:
    try:
        return x**exponent
    except OverflowError:
        return math.inf
