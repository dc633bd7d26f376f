"""Bounds on what a spec computes from numbers alone, so that computing it exactly stays cheap."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

LARGEST = 3.4028234663852886e38
SMALLEST = 1e-45
MAX_EXPONENT = 64
MAX_BITS = 4096


class Unusable(Exception):
    """A constant that float32 cannot hold, or that is not a number."""


@dataclass(frozen=True)
class Constant:
    """About its value, and how many bits it takes to write it exactly."""

    value: float
    bits: int


def of(value: Fraction) -> Constant:
    return Constant(float(value), value.numerator.bit_length() + value.denominator.bit_length())


def literal(text: str) -> Fraction:
    """The exact value of a decimal number or an integer as Python writes it."""
    plain = text.replace("_", "")
    if re.fullmatch(r"0[xXoObB][0-9a-fA-F]+|[0-9]+", plain):
        if len(plain) > 64:
            raise Unusable("is too large for float32")
        return Fraction(_fits(int(plain, 0 if plain[1:2].isalpha() else 10)))
    value = _fits(float(plain))
    mantissa = re.split(r"[eE]", plain)[0]
    if not any(digit in "123456789" for digit in mantissa):
        return Fraction(0)
    if value < SMALLEST:
        raise Unusable("is too small for float32")
    # exact only now: Fraction would write out the zeros of any exponent
    return Fraction(plain)


def _fits(value: float) -> float:
    if value > LARGEST:
        raise Unusable("is too large for float32")
    return value


def combine(operator: str, left: Constant, right: Constant) -> Constant:
    """The bound of left operator right."""
    a, b, bits = left.value, right.value, left.bits + right.bits + 1
    try:
        match operator:
            case "+":
                value = a + b
            case "-":
                value = a - b
            case "*":
                value = a * b
            case "/":
                value = a / b
            case _:
                value, bits = _power(a, b), _power_bits(left, right)
    except ZeroDivisionError:
        raise Unusable("divides by zero") from None
    except OverflowError:
        raise Unusable("is too large for float32") from None
    if math.isnan(value) or abs(value) > LARGEST:
        raise Unusable("is too large for float32")
    if bits > MAX_BITS:
        raise Unusable("has too many digits")
    return Constant(value, bits)


def _power(base: float, exponent: float) -> float:
    value = base**exponent
    if isinstance(value, complex):
        raise Unusable("is not a real number")
    return value


def _power_bits(base: Constant, exponent: Constant) -> int:
    # a root is never written out
    whole = exponent.value == int(exponent.value)
    return int(base.bits * abs(exponent.value)) if whole else base.bits + exponent.bits
