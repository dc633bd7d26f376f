"""A factor on the state whose sign is not known, and what could be done about it."""

from __future__ import annotations

import re
from dataclasses import replace

from kvgen.algebra.graph import Graph, Node, computed, leaf_of, reachable
from kvgen.diagnostics import Span
from kvgen.language.spec import Spec
from kvgen.values.interval import Interval

# tensors of which a range is tried, to see whether it would prove a decay
MOST_TRIED = 8


def how_to_prove(spec: Spec, factor: Node, span: Span) -> str:
    """What could be done about a factor whose sign is not known."""
    if -1 <= factor.bounds.lo < 0 < factor.bounds.hi <= 1:
        return _how_to_carry(spec, factor, span)
    help = "write it with exp, sigmoid or squares"
    for tensor in _unproved(factor):
        axes = ", ".join(tensor.axes.names)
        for low, high in ((0, 1), (0, "inf")):
            bounds = Interval(float(low), float(high))
            if _ranged(spec, factor, tensor, bounds).bounds.nonnegative:
                declared = f"{{axes: [{axes}], range: [{low}, {high}]}}"
                return f"{help}, or declare a range: {tensor.value}: {declared}"
    return f"{help}, or keep it above 0: maximum(x, 0), relu(x), abs(x)"


def _ranged(spec: Spec, factor: Node, leaf: Node, bounds: Interval) -> Node:
    """The factor, were a range of one of its tensors declared."""
    graph = Graph(dict(spec.sizes))
    found: dict[Node, Node] = {}
    for node in reachable([factor]):
        if node.is_const:
            found[node] = graph.const(node.const)
        elif computed(node):
            found[node] = graph.rebuild(node, tuple(found[arg] for arg in node.args))
        else:
            known = bounds if leaf_of(node) is leaf else node.bounds
            found[node] = graph.leaf("input", str(node.order), node.axes, known)
    return found[factor]


def _how_to_carry(spec: Spec, factor: Node, span: Span) -> str:
    """How a decay of either sign is written: its size as the decay, the running sign beside."""
    row = spec.original.split("\n")[span.line - 1]
    shown = row[span.column - 1 : span.end - 1]
    whole = len(shown) <= 40 and shown.count("(") == shown.count(")")
    # of a sum of copies of the state there is no text that is its factor
    states = {tensor.name for tensor in spec.states}
    shown = shown if whole and states.isdisjoint(re.findall(r"\w+", shown)) else "..."
    axes = factor.axes if factor.axes.channels != "V" else replace(factor.axes, head="HV")
    write, read = "outer(k, s * v)", "s * (q @ S)"
    if axes.channels == "K":
        write, read = "outer(s * k, v)", "(s * q) @ S"
    return (
        f"where it may be negative, carry its sign: a = {shown} + 1e-30, s = s * a / abs(a), "
        f"S = abs(a) * S + {write}, read as {read}, with s: {{axes: {axes}, init: 1}} in state"
    )


def _unproved(factor: Node) -> list[Node]:
    """The inputs and parameters below what is not known to be >= 0, at most a few."""
    proved = [node for node in reachable([factor]) if node.bounds.nonnegative]
    leaves = (leaf_of(node) for node in reachable([factor], set(proved)))
    found = dict.fromkeys(leaf for leaf in leaves if leaf.op in ("input", "param"))
    below = dict.fromkeys(leaf_of(node) for node in reachable([factor]))
    found |= {leaf: None for leaf in below if leaf.op in ("input", "param")}
    return list(found)[:MOST_TRIED]
