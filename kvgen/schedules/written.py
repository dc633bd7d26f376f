"""Schedules as templates take them: lines, and the functions of the module that these call."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kvgen.algebra.chunk import chunks
from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.kernels import Shapes, namer_for
from kvgen.functions.registry import FUNCTIONS
from kvgen.ir.passes.dead import without_dead
from kvgen.ir.passes.helpers import helpers_of
from kvgen.ir.passes.invariant import hoisted
from kvgen.ir.passes.once import computed_once
from kvgen.ir.values import Kernel
from kvgen.ir.verifier import verified
from kvgen.kernels.chunk import CHUNK
from kvgen.printers.triton import printed
from kvgen.schedules.by_channel import chunk_by_channel
from kvgen.schedules.chunk import chunk

PASSES = (without_dead, hoisted, computed_once)
# names that other kernels' templates use for what is a schedule's own here
OWN = """
since total kept weight value real_value ancestors path weights state lead
since_key total_key kept_key log_key path_key
"""


@dataclass(frozen=True)
class Written:
    """A kernel's own lines. helpers: the module's functions that it calls. functions: those of the
    language. per_head: a program has one value head."""

    lines: list[str]
    helpers: Collection[str]
    functions: Collection[str]
    per_head: bool = True


def written(form: Form, records: Records) -> dict[str, Written]:
    """The schedules that a form has, by what templates call them."""
    if not chunks(form):
        return {}
    shapes = Shapes(form.spec.size("K"), form.spec.size("V"))
    schedule = chunk_by_channel if form.decay("K") else chunk
    kernel = schedule(form, records, shapes)
    return {CHUNK.name: _written(kernel, form, records, shapes)}


def _written(kernel: Kernel, form: Form, records: Records, shapes: Shapes) -> Written:
    kernel = passed(kernel)
    extents = {"V": "TILE", "P": "SPAN", "K": str(shapes.span("K")), "S": "TOKENS", "T": "TOKENS"}
    namer = namer_for(form, records)
    namer.taken -= set(OWN.split())
    lines = printed(kernel, extents, namer.new)
    called = helpers_of(kernel)
    functions = [name for name in called if name in FUNCTIONS or name == "_power"]
    return Written(lines, [name for name in called if name not in functions], functions)


def passed(kernel: Kernel) -> Kernel:
    """The kernel as it is printed."""
    verified(kernel)
    for each in PASSES:
        kernel = verified(each(kernel))
    return kernel
