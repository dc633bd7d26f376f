"""maximum(x, y)"""

from __future__ import annotations

from kvgen.functions.function import Builder, Function, Log
from kvgen.functions.minimum import MINIMUM
from kvgen.functions.pair import logs, other, torch_of_two
from kvgen.values.interval import Interval
from kvgen.values.node import Node


def _bounds(x: Interval, y: Interval) -> Interval:
    return Interval(max(x.lo, y.lo), max(x.hi, y.hi))


def _log(graph: Builder, node: Node, log: Log) -> Node | None:
    parts = logs(node, log)
    return graph.apply(MAXIMUM, *parts) if parts else None


def _difference(graph: Builder, x: Node, y: Node) -> Node | None:
    """x - maximum(x, z) <= 0, exactly, whatever x and z are"""
    if not MAXIMUM.made(y) or x not in y.args:
        return None
    return graph.apply(MINIMUM, graph.sub(x, other(y, x)), graph.const(0.0))


MAXIMUM = Function(
    name="maximum",
    arity=2,
    value=max,
    bounds=_bounds,
    at_least_each=True,
    log=_log,
    difference=_difference,
    triton="tl.maximum({0}, {1})",
    slow=False,
    keeps_zero=True,
    torch="maximum",
    torch_helpers=(torch_of_two("maximum"),),
)
