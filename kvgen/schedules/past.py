"""The past of inputs, as a token's program finds it in a row's rings, and where it leaves its own.

A row's `order` names the places of its rings one by one: of the tokens that it holds, oldest first,
then of those to come. A program writes places to come alone, and none reads these.
"""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node
from kvgen.codegen.names import local
from kvgen.codegen.shapes import HEADS, MOST_32
from kvgen.ir.values import Helper, Value
from kvgen.language.past import MOST
from kvgen.language.spec import MAX_WINDOW
from kvgen.schedules.loads import Program
from kvgen.values.axes import Axes

LEAST, LARGEST = Helper("tl.minimum"), Helper("tl.maximum")


def past_value(lanes: Program, form: Form, node: Node, name: str | None) -> Value:
    """What an input was some tokens ago."""
    build, (x,) = lanes.build, node.args
    assert isinstance(node.value, int)
    pointer, offset = past_at(lanes, form, x, form.most_past - node.value)
    real = lanes.real(x.axes.channels)
    value = build.load(pointer, offset, build.every(*real) if real else None)
    return build.cast(value, "float", name)


def past_at(lanes: Program, form: Form, x: Node, entry: int) -> tuple[Value, Value]:
    """Where an input lies, in [slots, layers, places, *axes], at an entry of the row's order."""
    build, axes = lanes.build, x.axes
    order = build.given("order_at", type="pointer")
    place = build.load(order, build.number(entry), None, type="int")
    last = build.binary("sub", build.given("ring"), build.number(1))
    place = build.helper(LARGEST, place, build.number(0), type="int")
    place = build.helper(LEAST, place, last, type="int", name=f"entry_{entry}")
    pointer = build.given(f"{local(form.past_of(x))}_at", type="pointer")
    return pointer, within_ring(lanes, axes, place)


def within_ring(lanes: Program, axes: Axes, place: Value) -> Value:
    """How far off an input is in its ring, whose places have these axes."""
    build, channel = lanes.build, axes.channels
    size = lanes.shapes.size(channel)
    heads = HEADS if axes.head else 1
    if (MOST + MAX_WINDOW) * heads * size >= MOST_32:
        place = build.cast(place, "long")
    width = build.number(size)
    if axes.head:
        place = build.mul(place, lanes.heads(axes.head))
    terms = [build.mul(place, width) if channel else place]
    if axes.head:
        index = lanes.head if axes.head == "HV" else lanes.group
        terms.append(build.mul(index, width) if channel else index)
    if channel:
        terms.append(lanes.channel(channel))
    return build.total(terms)
