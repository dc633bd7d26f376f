"""A tile of the state, keys by values, as a program finds it in its planes and leaves it there."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.codegen.shapes import MOST_32
from kvgen.formats.dtypes import FLOAT32
from kvgen.ir.values import Helper, Value
from kvgen.schedules.loads import Program


def load_state(
    lanes: Program, form: Form, whole: bool = True, raw: bool = False, name: str | None = "state"
) -> Value:
    """A tile in float32. whole: all that is kept of it. raw: as it lies there."""
    build, state = lanes.build, form.spec.storage.state
    offset, mask = offset_in_state(lanes, form.spec.storage.layout), state_mask(lanes)
    at = [lanes.plane(plane) for plane in form.planes]
    if whole and state.partial:
        high = build.load(at[0], offset, mask, "high")
        low = build.load(at[1], offset, mask, "low", type="int")
        return build.helper(Helper(state.join), high, low, name=name)
    kept = state.planes[0].dtype == FLOAT32
    kind = "float" if kept else "stored"
    found = build.load(at[0], offset, mask, name if kept or raw else None, type=kind)
    return found if raw else build.cast(found, "float", name)


def store_state(lanes: Program, form: Form, state: Value, note: str | None = None) -> None:
    """note: what a reader should know of where it is stored."""
    build, kept = lanes.build, form.spec.storage.state
    offset, mask = offset_in_state(lanes, form.spec.storage.layout), state_mask(lanes)
    parts = [state]
    if kept.partial:
        whole = build.helper(Helper(kept.part), state)
        parts = build.parts(whole, state.axes, ["new_high", "new_low"])
    for plane, part in zip(form.planes, parts, strict=True):
        build.store(lanes.plane(plane), offset, part, mask, note)
        note = None


def offset_in_state(lanes: Program, layout: str = "kv") -> Value:
    build, shapes, vk = lanes.build, lanes.shapes, layout == "vk"
    key, value = lanes.channel("K"), lanes.channel("V")
    row, size = (value, shapes.k) if vk else (key, shapes.v)
    if shapes.k * shapes.v >= MOST_32:
        row = build.cast(row, "long")
    rows = build.mul(row, build.number(size))
    return build.add(key, rows) if vk else build.add(rows, value)


def state_mask(lanes: Program) -> Value | None:
    masks = [*lanes.real("K"), *lanes.real("V")]
    return lanes.build.every(*masks) if masks else None
