"""A window of any length, a chain or a tree, on the stored state, which is only read, and on the
buffer; every token leaves its records."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.levels import per_head
from kvgen.codegen.shapes import Shapes
from kvgen.ir.values import Kernel, Value
from kvgen.schedules.state import load_state
from kvgen.schedules.windows.frame import Frame
from kvgen.schedules.windows.stores import leave, store_output
from kvgen.schedules.windows.window import Window


def verify(form: Form, records: Records, shapes: Shapes) -> Kernel:
    frame = Frame(form, records, shapes, per_head(form, records))
    build, lanes = frame.build, frame.lanes
    lanes.pending(lanes.head if frame.single else lanes.group)
    with build.loop("step", "TILES", "STAGES") as step:
        begin_tile(frame, step)
        for name in form.planes if records.exact else form.planes[:1]:
            lanes.plane(name)
        for stored in records.stored:
            lanes.at(stored)
        frame.state = load_state(lanes, form, records.exact, raw=not records.exact)
        output = Window(frame).output()
        leave(frame)
        store_output(frame, output)
    return build.kernel()


def begin_tile(frame: Frame, step: Value) -> None:
    """A program's next tile, of so many that it has."""
    build, lanes = frame.build, frame.lanes
    first = build.mul(lanes.part, build.given("TILES"))
    lanes.begin(build.add(first, step, "tile"))
