"""minimum(x, y)"""

from __future__ import annotations

from kvgen.functions.function import Builder, Function, Log
from kvgen.functions.pair import logs, other, torch_of_two
from kvgen.values.interval import Interval
from kvgen.values.node import Node


def _bounds(x: Interval, y: Interval) -> Interval:
    return Interval(min(x.lo, y.lo), min(x.hi, y.hi))


def _log(graph: Builder, node: Node, log: Log) -> Node | None:
    parts = logs(node, log)
    return graph.apply(MINIMUM, *parts) if parts else None


def _difference(graph: Builder, x: Node, y: Node) -> Node | None:
    """minimum(y, z) - y <= 0, exactly, whatever y and z are"""
    if not MINIMUM.made(x) or y not in x.args:
        return None
    return graph.apply(MINIMUM, graph.sub(other(x, y), y), graph.const(0.0))


MINIMUM = Function(
    name="minimum",
    arity=2,
    value=min,
    bounds=_bounds,
    at_most_each=True,
    log=_log,
    difference=_difference,
    triton="tl.minimum({0}, {1})",
    slow=False,
    keeps_zero=True,
    torch="minimum",
    torch_helpers=(torch_of_two("minimum"),),
)
