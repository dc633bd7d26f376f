"""The end of an output that sums over V: all of a head's values come together there."""

from __future__ import annotations

import heapq

from kvgen.algebra.graph import Node, reachable, users_of
from kvgen.functions.registry import reduces

# what only the programs of a row's state find
KEPT = ("carried", "previous", "past", "read")


def unfinished(output: Node) -> Node | None:
    """The one value over V, read from the state, from which the output follows by all its sums over
    V and by what the token brings; None where there is no such value, or no such sum."""
    below = reachable([output])
    after = users_of(below, (node for node in below if reduces(node) and node.value == "V"))
    brought: set[Node] = set()
    # what stands between the output and the state, the newest first
    between = [(-output.order, output)]
    met = {output}
    while after and between:
        _, node = heapq.heappop(between)
        if not between and node not in after:
            return node if node.axes.channels == "V" else None
        if node.op in KEPT:
            return None
        for arg in node.args:
            if not arg.reads:
                found = reachable([arg], brought)
                if any(each.op in KEPT for each in found):
                    return None
                brought.update(found)
            elif arg not in met:
                met.add(arg)
                heapq.heappush(between, (-arg.order, arg))
    return None
