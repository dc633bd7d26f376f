"""rmsnorm(x, eps=1e-6) = x / sqrt(sum(x * x) / size + eps) over the one channel axis"""

from __future__ import annotations

from kvgen.functions import norm
from kvgen.functions.function import Builder, Function, Reach, Seen
from kvgen.values.node import Node


def _lower(graph: Builder, x: Node, eps: Node) -> Node:
    share = graph.const(1.0 / graph.sizes[x.axes.channels])
    return norm.divided(graph, x, graph.mul(norm.squares(graph, x), share), eps)


def _product(x: Node, y: Node) -> Seen | None:
    return norm.seen(x, y, mean=True)


TORCH = """\
def _plain_rmsnorm(x, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)"""

RMSNORM = Function(
    name="rmsnorm",
    reach=Reach.CHANNEL,
    eps=norm.EPS,
    of_state=True,
    lower=_lower,
    product=_product,
    torch_helpers=(TORCH,),
)
