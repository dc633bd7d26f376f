"""exp(x)"""

from __future__ import annotations

from kvgen.functions.function import Builder, Function, Log
from kvgen.values import interval as iv
from kvgen.values.node import Node


def _log(graph: Builder, node: Node, log: Log) -> Node:
    return node.args[0]


EXP = Function(
    name="exp",
    value=iv.exp,
    bounds=iv.increasing(iv.exp),
    at_least_each=True,
    log=_log,
    triton="tl.exp({0})",
    torch="exp",
)
