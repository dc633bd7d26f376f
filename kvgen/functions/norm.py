"""A vector divided by its length, or by the root of its mean square."""

from __future__ import annotations

from kvgen.functions.function import Builder, Seen
from kvgen.functions.sqrt import SQRT
from kvgen.functions.sum import SUM
from kvgen.values.node import Node

EPS = "1e-6"


def divided(graph: Builder, x: Node, squares: Node, eps: Node) -> Node:
    """x / sqrt(squares + eps), the root taken of what all its elements share."""
    root = graph.apply(SQRT, graph.add(squares, eps))
    return graph.mul(x, graph.div(graph.const(1.0), root))


def squares(graph: Builder, x: Node) -> Node:
    return graph.apply(SUM, graph.mul(x, x))


def root_below(node: Node) -> Node | None:
    """The root by which a node divides."""
    return node.args[1] if node.op == "div" and SQRT.made(node.args[1]) else None


def vector_in(root: Node) -> Node | None:
    """The vector of which this is the root of the sum of squares, scaled and with an eps."""
    node = root.args[0]
    while node.op in ("add", "mul"):
        node = next((arg for arg in node.args if not arg.is_const), node.args[0])
    return node.args[0].args[0] if SUM.made(node) and node.args[0].op == "mul" else None


def seen(x: Node, scale: Node, mean: bool) -> Seen | None:
    """x * scale, where scale is 1 / sqrt(the sum, or the mean, of x's squares + eps)."""
    root = root_below(scale)
    if root is None or not scale.args[0].is_number(1.0):
        return None
    (inner,) = root.args
    if inner.op != "add" or not inner.args[1].is_const:
        return None
    total, eps = inner.args
    hidden = [scale, root, inner, total]
    if mean != (total.op == "mul" and total.args[1].is_const):
        return None
    if mean:
        total = total.args[0]
        hidden.append(total)
    if not SUM.made(total) or total.args[0].op != "mul" or total.args[0].args != (x, x):
        return None
    return Seen((x,), (*hidden, total.args[0]), eps.const)
