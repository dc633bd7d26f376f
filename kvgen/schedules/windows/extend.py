"""A prompt, block by block, on a tile of the state, which each brings up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.shapes import Shapes
from kvgen.ir.values import Kernel, Value
from kvgen.schedules.past import LARGEST, LEAST
from kvgen.schedules.windows.frame import Frame
from kvgen.schedules.windows.window import Window


def extend(form: Form, records: Records, shapes: Shapes) -> Kernel:
    frame = Frame(form, records, shapes, True, prompt=True, recorded=False)
    with blocks(frame):
        pass
    return frame.build.kernel()


@contextmanager
def blocks(frame: Frame, begin: Callable[[Value], None] | None = None) -> Iterator[None]:
    """The blocks of a prompt one after the other; what is built within stands behind a block's
    outputs. begin: what more there is to know of its tokens, by their positions."""
    build, lanes = frame.build, frame.lanes
    lanes.begun()
    with build.loop("start", "0, length, TOKENS", "STAGES") as start:
        position = build.add(start, lanes.token, "position")
        lanes.long_token = build.cast(position, "long", "long_position")
        length = build.given("length")
        lanes.real_token = build.binary("lt", position, length, "real_token")
        left = build.binary("sub", length, start)
        one, tokens = build.number(1), build.given("TOKENS")
        final = build.binary("sub", build.helper(LEAST, left, tokens, type="int"), one)
        lanes.last = build.binary("eq", lanes.token, final, "last")
        _past(frame, position)
        if begin:
            begin(position)
        with build.section():
            window = Window(frame)
            block = build.where(lanes.real_token, window.output(), 0.0, "block")
            token = build.mul(lanes.long_token, build.given("out_token", type="long"))
            at = build.add(build.given("out", "TV", "pointer"), token)
            wanted = build.binary("lt", position, build.given("limit"))
            build.store(at, build.number(0), block, build.every(wanted, *lanes.real("V")))
            yield
            window.end()


def _past(frame: Frame, position: Value) -> None:
    """Which tokens stand before each, and, where that is before the prompt, the place of a row's
    rings that holds them."""
    build, form = frame.build, frame.form
    last = build.binary("sub", build.given("ring"), build.number(1))
    for age in range(1, form.most_past + 1):
        ago, entry = build.number(age), build.number(form.most_past - age)
        back = build.binary("sub", position, ago, f"back_{age}")
        older = build.binary("lt", back, build.number(0))
        order = build.given("order_at", type="pointer")
        place = build.load(order, build.add(position, entry), older, type="int")
        place = build.helper(LARGEST, place, build.number(0), type="int")
        place = build.helper(LEAST, place, last, type="int", name=f"place_{age}")
        frame.lanes.backs[age] = back, place
