"""Lanes of a padded channel: whether a value is 0 there for what it is made of is."""

from __future__ import annotations

from collections.abc import Callable

from kvgen.algebra.graph import Node, reachable
from kvgen.functions.registry import function_of


def padded_with_zeros(
    root: Node, loaded: Callable[[Node], object], known: dict[Node, bool]
) -> bool:
    """Whether zeros in the padding of what is loaded give zeros in the padding of the value.

    loaded: whether a node is, by its truth. known: what has been found so far, which this adds to.
    """
    for node in reachable([root], known):
        there = node.op == "read" or bool(loaded(node))
        if there or not node.axes.channels:
            # a scalar has no padding, and a sum with one has it everywhere
            known[node] = there and bool(node.axes.channels)
            continue
        args = [known[arg] for arg in node.args]
        plain = [not arg.axes.channels for arg in node.args]
        function = function_of(node)
        if function is not None:
            known[node] = function.keeps_zero and all(args)
        elif node.op in ("neg", "add", "sub"):
            known[node] = all(args)
        elif node.op == "mul":
            known[node] = (args[0] and (args[1] or plain[1])) or (args[1] and plain[0])
        else:
            known[node] = node.op == "div" and args[0] and plain[1]
    return known[root]
