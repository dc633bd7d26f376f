"""silu(x) = x * sigmoid(x)"""

from __future__ import annotations

import math

from kvgen.functions.function import Builder, Function, Seen
from kvgen.functions.sigmoid import SIGMOID, sigmoid
from kvgen.values.interval import Interval
from kvgen.values.node import Node

# where it is least, and what it is there
TURNS, LEAST = -1.2784645427610738, -0.27846454276107385


def silu(x: float) -> float:
    return (0.0 if x < 0 else x) if math.isinf(x) else x * sigmoid(x)


def _bounds(x: Interval) -> Interval:
    """It falls up to its least value, then grows."""
    ends = [silu(x.lo), silu(x.hi)]
    return Interval(LEAST if x.lo <= TURNS <= x.hi else min(ends), max(ends))


def _lower(graph: Builder, x: Node) -> Node:
    return graph.mul(x, graph.apply(SIGMOID, x))


def _product(x: Node, y: Node) -> Seen | None:
    return Seen((x,), (y,)) if SIGMOID.made(y) and y.args[0] is x else None


TORCH = """\
def _plain_silu(x):
    return x * torch.sigmoid(_plain(x))"""

SILU = Function(
    name="silu",
    bounds=_bounds,
    lower=_lower,
    product=_product,
    torch_helpers=(TORCH,),
)
