"""logaddexp(x, y) = log(exp(x) + exp(y))"""

from __future__ import annotations

import math

from kvgen.functions.function import Builder, Function
from kvgen.functions.pair import other, torch_of_two
from kvgen.functions.softplus import LOG1P, SOFTPLUS, softplus
from kvgen.values.interval import Interval
from kvgen.values.node import Node


def logaddexp(x: float, y: float) -> float:
    above, below = max(x, y), min(x, y)
    return above if math.isinf(above) or math.isinf(below) else above + softplus(below - above)


def _bounds(x: Interval, y: Interval) -> Interval:
    """It grows with both."""
    return Interval(logaddexp(x.lo, y.lo), logaddexp(x.hi, y.hi))


def _difference(graph: Builder, x: Node, y: Node) -> Node | None:
    """x - logaddexp(x, z) = -softplus(z - x)"""
    if not LOGADDEXP.made(y) or x not in y.args:
        return None
    return graph.neg(graph.apply(SOFTPLUS, graph.sub(other(y, x), x)))


TRITON = """\
@triton.jit
def _logaddexp(x, y):
    # equal arguments may both be infinite, where their difference is not a number
    gap = tl.where(x == y, 0.0, tl.abs(x - y))
    return tl.maximum(x, y) + _log1p(tl.exp(-gap))"""

LOGADDEXP = Function(
    name="logaddexp",
    arity=2,
    value=logaddexp,
    bounds=_bounds,
    at_least_each=True,
    difference=_difference,
    triton="_logaddexp({0}, {1})",
    triton_helpers=(LOG1P, TRITON),
    torch="logaddexp",
    torch_helpers=(torch_of_two("logaddexp"),),
)
