"""What functions of two numbers share."""

from __future__ import annotations

from kvgen.functions.function import Log
from kvgen.values.node import Node

TORCH = """\
def _plain_{0}(x, y):
    like = x if isinstance(x, torch.Tensor) else _plain(y)
    x, y = (torch.as_tensor(z, dtype=z.dtype if isinstance(z, torch.Tensor) else like.dtype, device=like.device) for z in (x, y))
    return torch.{0}(x, y)"""  # noqa: E501


def torch_of_two(name: str) -> str:
    """torch's function of that name, of tensors and of plain numbers."""
    return TORCH.format(name)


def other(node: Node, x: Node) -> Node:
    """The argument beside x."""
    first, second = node.args
    return second if first is x else first


def logs(node: Node, log: Log) -> list[Node] | None:
    """The logarithms of both arguments, where they are proved to have them."""
    if not all(arg.bounds.nonnegative for arg in node.args):
        return None
    return [log(arg) for arg in node.args]
