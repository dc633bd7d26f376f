"""Whole numbers, those of tensors on the host, and values that nothing is known of yet."""

from __future__ import annotations

import operator
from typing import Any

# a tensor's numbers as lists, for which a host waits
listed = operator.methodcaller("tolist")


def unknown(value: Any) -> Any:
    """A value that came from outside, whatever it is."""
    return value


def parts_of(size: int, most: int) -> int:
    """How many parts of so much at most there are."""
    return -(-size // most)


def power_of_two(number: int) -> int:
    """The least that is no less."""
    return 1 << max(0, number - 1).bit_length()
