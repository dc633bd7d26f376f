"""What a window's tokens leave in memory: records, carried states after each, what their inputs
were, and outputs."""

from __future__ import annotations

from kvgen.algebra.form import Carry
from kvgen.algebra.graph import Node
from kvgen.algebra.records import Stored
from kvgen.codegen.names import local
from kvgen.ir.values import Value
from kvgen.schedules.past import within_ring
from kvgen.schedules.token import carried_at, same_head
from kvgen.schedules.windows.frame import Frame

Place = tuple[Value, Value]


def leave(frame: Frame) -> None:
    """Store every token's records, carried states and inputs that are remembered: what is computed
    once, and what a tile adds."""
    form, unit = frame.form, frame.unit
    for once in (True, False):
        with frame.at(once):
            for stored in frame.records.stored:
                if (stored.node in unit) == once:
                    record(frame, stored, once)
            for carry in form.carries:
                if (carry.after in unit and same_head(carry.axes.head, frame.single)) == once:
                    _store(frame, carry.after, _carried(frame, carry), once)
            for x in form.remembered:
                if (x in unit and same_head(x.axes.head, frame.single)) == once:
                    _store(frame, x, _remembered(frame, x), once)


def record(frame: Frame, stored: Stored, once: bool) -> None:
    _store(frame, stored.node, frame.lanes.record(stored, frame.lanes.spot), once)


def _carried(frame: Frame, carry: Carry) -> Place:
    build, lanes = frame.build, frame.lanes
    behind = build.add(lanes.spot, build.number(1), "spot_after")
    return carried_at(lanes, frame.form, carry, lanes.after(behind))


def _remembered(frame: Frame, x: Node) -> Place:
    build = frame.build
    ring = build.given(f"{local(frame.form.past_of(x))}_at", type="pointer")
    to_come = build.cast(build.given("to_come", "T"), "long")
    return ring, within_ring(frame.lanes, x.axes, to_come)


def _store(frame: Frame, node: Node, place: Place, once: bool) -> None:
    build, lanes, axes = frame.build, frame.lanes, node.axes
    value = frame.spread(frame.token.value(node), "T" + axes.channels)
    guards = lanes.once(axes, once)
    build.store(*place, value, build.every(*guards, lanes.fits))


def store_output(frame: Frame, output: Value) -> None:
    build, lanes = frame.build, frame.lanes
    head = build.cast(lanes.head, "long")
    terms = [
        build.mul(index, build.given(f"out_{axis}", type="long"))
        for axis, index in (("row", lanes.row), ("token", lanes.long_token), ("head", head))
    ]
    offset = build.total([*terms, lanes.channel("V")])
    guard = build.every(lanes.real_token, *lanes.real("V"))
    build.store(build.given("out_ptr", type="pointer"), offset, output, guard)
