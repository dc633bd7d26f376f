"""sum(x) over the one channel axis"""

from __future__ import annotations

import math

from kvgen.functions.function import Function, Reach
from kvgen.values.interval import Interval


def _bounds(x: Interval) -> Interval:
    """Of however many, all that is known is their common sign."""
    return Interval(0.0 if x.nonnegative else -math.inf, 0.0 if x.nonpositive else math.inf)


SUM = Function(
    name="sum",
    reach=Reach.CHANNEL,
    usage="sum(x) acts over the one channel axis",
    of_state=True,
    bounds=_bounds,
)
