"""sigmoid(x) = 1 / (1 + exp(-x))"""

from __future__ import annotations

from kvgen.functions.exp import EXP
from kvgen.functions.function import Builder, Function, Log
from kvgen.functions.softplus import SOFTPLUS
from kvgen.values import interval as iv
from kvgen.values.node import Node


def sigmoid(x: float) -> float:
    return 1 / (1 + iv.exp(-x))


def _log(graph: Builder, node: Node, log: Log) -> Node:
    return graph.neg(graph.apply(SOFTPLUS, graph.neg(node.args[0])))


def _log_of_rest(graph: Builder, node: Node) -> Node:
    return graph.neg(graph.apply(SOFTPLUS, node.args[0]))


def _gate(node: Node) -> tuple[Node, bool] | None:
    """sigmoid(x), exp(-softplus(x)), which is that of -x, and 1 / (1 + exp(x))."""
    if SIGMOID.made(node):
        return node.args[0], False
    if EXP.made(node):
        (inner,) = node.args
        found = inner.op == "neg" and SOFTPLUS.made(inner.args[0])
        return (inner.args[0].args[0], True) if found else None
    if node.op != "div" or node.args[1].op != "add" or not node.args[0].is_number(1.0):
        return None
    parts = node.args[1].args
    powers = [part for part in parts if EXP.made(part)]
    if len(powers) != 1 or not any(part.is_number(1.0) for part in parts):
        return None
    return powers[0].args[0], True


SIGMOID = Function(
    name="sigmoid",
    value=sigmoid,
    bounds=iv.increasing(sigmoid),
    gate=_gate,
    log=_log,
    log_of_rest=_log_of_rest,
    triton="tl.sigmoid({0})",
    torch="sigmoid",
)
