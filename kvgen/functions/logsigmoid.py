"""logsigmoid(x) = log(sigmoid(x)) = -softplus(-x)"""

from __future__ import annotations

from kvgen.functions.function import Builder, Function
from kvgen.functions.softplus import SOFTPLUS
from kvgen.values.node import Node


def _lower(graph: Builder, x: Node) -> Node:
    return graph.neg(graph.apply(SOFTPLUS, graph.neg(x)))


TORCH = """\
def _plain_logsigmoid(x):
    return -_plain_softplus(-_plain(x))"""

LOGSIGMOID = Function(
    name="logsigmoid",
    lower=_lower,
    torch_helpers=(*SOFTPLUS.torch_helpers, TORCH),
)
