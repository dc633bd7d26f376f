"""What stands at the end of the token: the output, the carried states, and the state as one decayed
copy of itself plus outer products.
"""

from __future__ import annotations

import math
from dataclasses import replace

from kvgen.algebra import matrix as mx
from kvgen.algebra.erasing import SQUARES, what_is
from kvgen.algebra.graph import Node
from kvgen.algebra.matrix import Matrix
from kvgen.algebra.signs import how_to_prove
from kvgen.algebra.square import Square
from kvgen.algebra.walk import Walk
from kvgen.diagnostics import Span
from kvgen.language.constants import LARGEST
from kvgen.values.axes import Axes


def final_node(walk: Walk, name: str, span: Span, axes: Axes, what: str) -> Node | None:
    """The name's last value, checked to fit the axes of what it is stored in."""
    report, value = walk.report, _last(walk, name, span, f"{what} has axes {axes} and")
    if value is None:
        return None
    if isinstance(value, Matrix):
        report.error(
            "axis-mismatch", f"{what} has axes {axes} and is assigned a matrix", span,
            "read it with a vector: x @ S gives one over V, S @ y one over K",
        )  # fmt: skip
        return None
    if value.axes.extra:
        report.needs_index(span, value)
        return None
    fits = set(value.axes.channels) <= set(axes.channels)
    if fits and (value.axes.head in (None, axes.head) or axes.head == "HV"):
        return value
    channels = value.axes.channels
    wide = value.axes if channels != "V" else replace(value.axes, head="HV")
    help = f"declare it as {name}: {wide}, or sum over what it lacks"
    if name == "o":
        help = "the output is over V: x @ S, with x over K, is such a value"
    elif fits:
        help = f"there is a value for every {value.axes.head}: declare it as {name}: {wide}"
    elif channels == "KV":
        help = "only a matrix state has both K and V"
    message = f"{what} has axes {axes} and is assigned a value with axes {value.axes}"
    report.error("axis-mismatch", message, span, help)
    return None


def final_matrix(walk: Walk, name: str, span: Span) -> Matrix | None:
    """The state's last value: one decayed copy of itself plus outer products."""
    report, value = walk.report, _last(walk, name, span, f"the matrix state {name}")
    if value is None:
        return None
    if not isinstance(value, Matrix):
        report.error(
            "axis-mismatch",
            f"the matrix state {name} is assigned a value with axes {value.axes}",
            span,
            f"a matrix is a decayed {name} plus outer products: a * {name} + outer(k, v)",
        )
        return None
    value = mx.signed(walk.graph, value)
    for factor, place in value.factors:
        _check_decay(walk, name, factor, place)
    if not value.terms:
        report.error(
            "no-write",
            f"nothing is written to {name}",
            span,
            f"there is nothing to buffer without an outer product: a * {name} + outer(k, v)",
        )
    if value.state is None:
        value = replace(value, state=name, factors=((walk.graph.const(0.0), span),))
    return value


def _last(walk: Walk, name: str, span: Span, what: str) -> Node | Matrix | None:
    """The name's last value; None where there is none to go on with. what: is assigned it."""
    value = walk.env.get(name)
    if isinstance(value, Square):
        message = f"{what} is assigned {what_is(value)}"
        walk.report.error("axis-mismatch", message, span, SQUARES)
        return None
    return value


def _check_decay(walk: Walk, name: str, factor: Node, span: Span) -> None:
    report, bounds = walk.report, factor.bounds
    if factor.reads:
        report.error(
            "decay-read",
            f"the decay of {name} depends on a read of the same token",
            span,
            "a decay must be known before the pass over the stored state: compute it from "
            "inputs, parameters and carried states",
            walk.reading.first(factor),
        )
    elif factor.is_const and factor.const > LARGEST:
        report.error("bad-number", f"the factor on {name} is too large for float32", span)
    elif factor.is_const and factor.const < 0:
        report.error(
            "decay-sign", f"the factor on {name} is {factor.const:g}, which is negative", span,
            "a state decays, grows or is forgotten; it does not change its sign",
        )  # fmt: skip
    elif bounds.nonpositive and not bounds.nonnegative:
        report.error(
            "decay-sign", f"the factor on {name} is never positive", span,
            "this looks like the logarithm of a decay: write exp(...) of it",
        )  # fmt: skip
    elif not bounds.nonnegative:
        message = f"the factor on {name} is not proved to be >= 0"
        if math.isfinite(bounds.lo):
            message += f", only to be >= {bounds.lo:g}"
        report.error("decay-sign", message, span, how_to_prove(walk.spec, factor, span))
