"""Outputs as they follow from what other kernels have left of them, by sums over all of V.

A program has a few heads of some tokens, whichever these are: each brings its own inputs.
"""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import ITEMS, Kernel, Value
from kvgen.schedules.loads import GivenLoads, Program
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.token import names_of

AXIS = "T"


def finish(form: Form, records: Records, shapes: Shapes) -> Kernel:
    build = Builder(ITEMS)
    lanes = _Items(build, shapes, form.spec.ratio)
    names = names_of(form, records)
    token = Lowering(build, form.graph, _ItemLoads(build, lanes, names), names, lanes.masks)
    assert form.finish is not None
    name = token.name(form.output)
    token.known[form.output] = build.load(*lanes.outputs("left"), lanes.mask, name, type="float")
    value = token.value(form.finish)
    counts = build.given("counts", AXIS, "bool")
    pointer, offset = lanes.outputs("out")
    build.store(pointer, offset, build.where(counts, value, 0.0), lanes.mask)
    return build.kernel()


class _Items(Program):
    """mask: which elements there are."""

    def __init__(self, build: Builder, shapes: Shapes, ratio: int) -> None:
        super().__init__(build, shapes, ratio, items=AXIS)
        self.token = build.given("token", AXIS, "long")
        self.real_item = build.given("real_item", AXIS, "bool")
        self.value = build.given("value", "V")
        if shapes.masks_v:
            self.masks["V"] = build.given("real_value", "V", "bool")
        self.mask = build.every(self.real_item, *self.real("V"))

    def outputs(self, name: str) -> tuple[Value, Value]:
        """Where the items' outputs begin, finished or not, and how far off each value is."""
        build = self.build
        numbers = ("row", self.row), ("token", self.token), ("head", build.cast(self.head, "long"))
        terms = [build.mul(x, build.given(f"{name}_{of}", type="long")) for of, x in numbers]
        offset = build.total([*terms, self.channel("V")])
        return build.given(f"{name}_ptr", type="pointer"), offset


class _ItemLoads(GivenLoads):
    """The inputs of the items' tokens, and parameters."""

    def _of_token(self, called: str, channel: str) -> tuple[list[Value], list[Value]]:
        lanes = self.lanes
        assert isinstance(lanes, _Items)
        stride = self.build.given(f"{called}_token", type="long")
        return [self.build.mul(lanes.token, stride)], [lanes.real_item]
