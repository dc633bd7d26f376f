"""cos(x), of radians"""

from __future__ import annotations

import math

from kvgen.functions.function import Function
from kvgen.values.interval import Interval


def _bounds(x: Interval) -> Interval:
    # what is known of x is not known to the digits that would tell where between its turns it is
    return Interval(-1.0, 1.0)


COS = Function(
    name="cos",
    value=math.cos,
    bounds=_bounds,
    triton="tl.cos({0})",
    torch="cos",
)
