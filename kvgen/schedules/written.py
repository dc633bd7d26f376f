"""Schedules as templates take them: lines, and the functions of the module that these call."""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
from kvgen.kernels.sweep import PREPARE, SWEEP
from kvgen.printers.triton import printed
from kvgen.schedules.blocks import Prepared, blocks
from kvgen.schedules.chunk import chunk

PASSES = (without_dead, hoisted, computed_once)
# names that other kernels' templates use for what is a schedule's own here
OWN = """
since total kept weight ancestors path weights lead rest lasting
"""
# of these, such as stand in front of a sweep's lines
GIVEN = """
value real_value state
"""


@dataclass(frozen=True)
class Written:
    """A kernel's own lines. helpers: the module's functions that it calls. functions: those of the
    language. per_head: a program has one value head. prepared: what it leaves for another one, or
    finds."""

    lines: list[str]
    helpers: Collection[str]
    functions: Collection[str]
    per_head: bool = True
    prepared: Prepared | None = None


def written(form: Form, records: Records) -> dict[str, Written]:
    """The schedules that a form has, by what templates call them."""
    shapes = Shapes(form.spec.size("K"), form.spec.size("V"))
    own = (OWN + GIVEN).split()
    found: dict[str, Written] = {}
    if chunks(form):
        found[CHUNK.name] = _written(chunk(form, records, shapes), form, records, own)
    if not SWEEP.exists(form):
        return found
    prompt = blocks(form, records, shapes)
    return found | {
        PREPARE: _written(prompt.prepare, form, records, [*own, "head"], prompt.prepared),
        SWEEP.name: _written(prompt.sweep, form, records, OWN.split(), prompt.prepared),
    }


def _written(
    kernel: Kernel,
    form: Form,
    records: Records,
    own: Iterable[str],
    prepared: Prepared | None = None,
) -> Written:
    shapes = Shapes(form.spec.size("K"), form.spec.size("V"))
    kernel = passed(kernel)
    extents = {"V": "TILE", "P": "SPAN", "K": str(shapes.span("K")), "S": "TOKENS", "T": "TOKENS"}
    namer = namer_for(form, records)
    namer.taken -= set(own)
    lines = printed(kernel, extents, namer.new)
    called = helpers_of(kernel)
    functions = [name for name in called if name in FUNCTIONS or name == "_power"]
    others = [name for name in called if name not in functions]
    return Written(lines, others, functions, prepared=prepared)


def passed(kernel: Kernel) -> Kernel:
    """The kernel as it is printed."""
    verified(kernel)
    for each in PASSES:
        kernel = verified(each(kernel))
    return kernel
