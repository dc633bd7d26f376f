"""A tile of the state, keys by values, as a program finds it in its planes and leaves it there."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.codegen.kernels import MOST_32
from kvgen.formats.dtypes import FLOAT32
from kvgen.ir.values import Helper, Value
from kvgen.schedules.loads import Program


def load_state(lanes: Program, form: Form, whole: bool = True, raw: bool = False) -> Value:
    """A tile in float32. whole: all that is kept of it. raw: as it lies there."""
    build, state = lanes.build, form.spec.storage.state
    if whole and state.partial:
        at, mask = [lanes.plane(name) for name in form.planes], _mask(lanes)
        high = build.load(at[0], _offset(lanes, form), mask, "high")
        low = build.load(at[1], _offset(lanes, form), mask, "low", type="int")
        return build.helper(Helper(state.join), high, low, name="state")
    kept = state.planes[0].dtype == FLOAT32
    kind = "float" if kept else "stored"
    name = "state" if kept or raw else None
    at = lanes.plane(form.planes[0])
    found = build.load(at, _offset(lanes, form), _mask(lanes), name, type=kind)
    return found if raw else build.cast(found, "float", "state")


def _offset(lanes: Program, form: Form) -> Value:
    build, shapes = lanes.build, lanes.shapes
    key, value = lanes.channel("K"), lanes.channel("V")
    vk = form.spec.storage.layout == "vk"
    row, size = (value, shapes.k) if vk else (key, shapes.v)
    if shapes.k * shapes.v >= MOST_32:
        row = build.cast(row, "long")
    rows = build.mul(row, build.number(size))
    return build.add(key, rows) if vk else build.add(rows, value)


def _mask(lanes: Program) -> Value | None:
    masks = [*lanes.real("K"), *lanes.real("V")]
    return lanes.build.every(*masks) if masks else None
