"""sqrt(x)"""

from __future__ import annotations

import math

from kvgen.functions.function import Builder, Function, Log
from kvgen.values import interval as iv
from kvgen.values.node import Node


def _log(graph: Builder, node: Node, log: Log) -> Node | None:
    (x,) = node.args
    return graph.mul(graph.const(0.5), log(x)) if x.bounds.nonnegative else None


SQRT = Function(
    name="sqrt",
    of_state=True,
    value=math.sqrt,
    bounds=iv.increasing(lambda x: math.sqrt(max(x, 0.0))),
    power=0.5,
    log=_log,
    triton="tl.sqrt_rn({0})",
    keeps_zero=True,
    torch="sqrt",
)
