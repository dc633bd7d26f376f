"""Keys recorded before their decay, where a proved lower bound of the decay allows it.

A decay over K makes the weight of a record a vector: exp of the decays since, at every place of the
buffer. With G the running sum of a request's log decays since the last fold,
exp(G_n - G_j) w_j = exp(G_n) (exp(-G_j) w_j): record the bracket, and a decode scales its column by
exp(G_n) once. That overflows unless every log decay is proved to be bounded below.
"""

from __future__ import annotations

import math
from dataclasses import replace

from kvgen.algebra.form import Factored, Form
from kvgen.language.spec import MAX_BUFFER

# exp(80) and its reciprocal leave float32 room for the values they multiply
LIMIT = 80.0
FEWEST = 8


def factored(form: Form) -> Form:
    """The form with its keys factored, or as it is where that is not proved to be safe."""
    decay = form.decay("K")
    # a replay needs each token's own decay, which a difference of running sums would lose
    if decay is None or decay.lower is None or not decay.nonpositive or form.replays:
        return form
    most = min(MAX_BUFFER, math.floor(LIMIT / max(-decay.lower, LIMIT / MAX_BUFFER)))
    if most < (form.spec.buffer or FEWEST):
        return form
    graph = form.graph
    before = graph.leaf("previous", "decay_sum", decay.log.axes, decay.log.bounds)
    after = graph.add(before, decay.log)
    graph.names[after] = "decay_sum"
    graph.names[before] = "decay_sum_before"
    raised = graph.exp(graph.neg(after))
    keys = tuple(graph.mul(raised, write.w) for write in form.writes)
    for key, write in zip(keys, form.writes, strict=True):
        graph.names.setdefault(key, f"{graph.names.get(write.w, 'write_key')}_raised")
    return replace(form, factored=Factored(before, after, keys, most))
