"""l2norm(x, eps=1e-6) = x / sqrt(sum(x * x) + eps) over the one channel axis"""

from __future__ import annotations

from kvgen.functions import norm
from kvgen.functions.function import Builder, Function, Reach, Seen
from kvgen.values.node import Node


def _lower(graph: Builder, x: Node, eps: Node) -> Node:
    return norm.divided(graph, x, norm.squares(graph, x), eps)


def _product(x: Node, y: Node) -> Seen | None:
    return norm.seen(x, y, mean=False)


TORCH = """\
def _plain_l2norm(x, eps):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + eps)"""

L2NORM = Function(
    name="l2norm",
    reach=Reach.CHANNEL,
    eps=norm.EPS,
    of_state=True,
    lower=_lower,
    product=_product,
    torch_helpers=(TORCH,),
)
