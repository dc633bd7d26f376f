"""Schedules as templates take them: lines, and the functions of the module that these call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

from kvgen.algebra.chain import chains
from kvgen.algebra.chunk import chunks
from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.levels import per_head
from kvgen.codegen.names import cache_names, local, namer_for
from kvgen.codegen.shapes import Shapes
from kvgen.functions.registry import FUNCTIONS
from kvgen.ir.passes.dead import without_dead
from kvgen.ir.passes.helpers import helpers_of
from kvgen.ir.passes.invariant import hoisted
from kvgen.ir.passes.once import computed_once
from kvgen.ir.values import TOKEN, TURNED, Kernel
from kvgen.ir.verifier import verified
from kvgen.kernels.chain import CHAIN
from kvgen.kernels.chunk import CHUNK
from kvgen.kernels.decode import DECODE
from kvgen.kernels.extend import EXTEND
from kvgen.kernels.fold import FOLD
from kvgen.kernels.recurrent import RECURRENT
from kvgen.kernels.size import PAGED
from kvgen.kernels.sweep import PREPARE, SWEEP
from kvgen.kernels.verify import VERIFY
from kvgen.printers.triton import printed
from kvgen.schedules.blocks import Prepared, blocks
from kvgen.schedules.by_channel import chunk_by_channel
from kvgen.schedules.chain import chain
from kvgen.schedules.chunk import chunk
from kvgen.schedules.decode import decode
from kvgen.schedules.finish import finish
from kvgen.schedules.folding import fold, folded, load, read, recurrent
from kvgen.schedules.paged_decode import short_decode
from kvgen.schedules.windows.extend import extend
from kvgen.schedules.windows.paged import short_extend, short_verify
from kvgen.schedules.windows.verify import verify

Passes = Iterable[Callable[[Kernel], Kernel]]
PASSES = (without_dead, hoisted, computed_once)
# a token alone has few values, and what it loads stands where its registers last; so does what a
# window's rows need, once or in every tile
AS_BUILT = (without_dead,)
OF_BLOCKS = (without_dead, hoisted)
# names that other kernels' templates use for what is a schedule's own in all kernels, and in some
OWN = "since total kept weight value real_value state"
CHUNKS = """
leads ancestors path weights lead
since_key total_key kept_key log_key path_key
"""
BLOCKS = "ancestors path weights lead rest lasting log"
# of these what stands before the lines of kernels with one tile of a head
STANDING = "value real_value state"
FOLDS = "counts leads high low"
DECODES = """
tile value_tile wide leads high low
since_key since_value total_key total_value kept_key kept_value
"""
# what ends outputs, and the names that stand before its lines
FINISH, FINISHES = "finish", "value real_value"
# of all tokens of a window at once
WINDOWS = f"""
{CHUNKS} {DECODES} {BLOCKS} head value_tile depth turn ready index page word held
path_value log_value rest_key rest_value lasting_key lasting_value real_log
position long_position real_token last block spot fits spot_page within
"""
# of a token on pages
PAGES = f"""
{DECODES} count places blocks place held page within newer newer_page newer_within
oldest oldest_page row_key fits spot spot_page
"""
WITH_PAGES = {
    PAGED + DECODE.name: (short_decode, AS_BUILT, PAGES),
    PAGED + VERIFY.name: (short_verify, AS_BUILT, WINDOWS),
    PAGED + EXTEND.name: (short_extend, OF_BLOCKS, WINDOWS),
}
# what a recurrence has if it has windows
ROWS = {VERIFY.name: (verify, AS_BUILT, WINDOWS), EXTEND.name: (extend, OF_BLOCKS, WINDOWS)}
ROWS |= WITH_PAGES
# of one tile of a head; `folded` is what other kernels begin with
FOLDING = {FOLD.name: fold, RECURRENT.name: recurrent, "read": read, "load": load}
FOLDING |= {"folded": folded, "folded_staged": partial(folded, stages="STAGES")}


@dataclass(frozen=True)
class Written:
    """A kernel's own lines. helpers: the module's functions that it calls. functions: those of the
    language. per_head: a program has one value head. given: what stands before the lines. prepared:
    what it leaves for another one, or finds."""

    lines: list[str]
    helpers: Collection[str]
    functions: Collection[str]
    per_head: bool = True
    given: Collection[str] = ()
    prepared: Prepared | None = None


def written(form: Form, records: Records, without: Collection[str] = ()) -> dict[str, Written]:
    """The schedules that a form has, by what templates call them. without: kernels that are left
    out, by name."""
    shapes = Shapes(form.spec.size("K"), form.spec.size("V"))
    write = partial(_written, form, records, shapes)
    single = per_head(form, records)
    own = DECODES
    places = " ".join(f"{local(name)}_at" for name in cache_names(form, records))
    if not single:
        # what is another in every tile
        own += f"head {places}"
    found = {DECODE.name: write(decode(form, records, shapes), own, single)}
    if form.finish:
        found[FINISH] = write(finish(form, records, shapes), kept=FINISHES, passes=AS_BUILT)
    if chains(form):
        found[CHAIN.name] = write(chain(form, records, shapes), own, single)
    if chunks(form) and CHUNK.name not in without:
        schedule = chunk_by_channel if form.decay("K") else chunk
        found[CHUNK.name] = write(schedule(form, records, shapes), CHUNKS)
    if SWEEP.exists(form) and SWEEP.name not in without:
        prompt = blocks(form, records, shapes)
        prepare = write(prompt.prepare, f"{BLOCKS} head")
        sweep = write(prompt.sweep, BLOCKS, kept=STANDING)
        found[PREPARE] = replace(prepare, prepared=prompt.prepared)
        found[SWEEP.name] = replace(sweep, prepared=prompt.prepared)
    contexts = " ".join(f"{carry.tensor.name}_context" for carry in form.carries)
    if form.factored or not form.paged:
        without = {*without, *WITH_PAGES}
    for name, (each, passes, names) in ROWS.items() if form.windows else ():
        if name not in without:
            kernel = each(form, records, shapes)
            found[name] = write(kernel, f"{names} {places} {contexts}", single, passes=passes)
    for name, each in FOLDING.items():
        found[name] = write(each(form, records, shapes), FOLDS, kept=STANDING)
    return found


def _written(
    form: Form,
    records: Records,
    shapes: Shapes,
    kernel: Kernel,
    own: str = "",
    single: bool = True,
    kept: str = "",
    passes: Passes | None = None,
) -> Written:
    """own: names that are the schedule's. kept: of those of all, such as stand before its lines."""
    kernel = passed(kernel, passes or (AS_BUILT if kernel.axes in (TOKEN, TURNED) else PASSES))
    extents = {"V": "TILE", "P": "SPAN", "K": str(shapes.span("K")), "S": "TOKENS", "T": "TOKENS"}
    extents |= {"G": "TILES", "L": "ROWS"}
    namer = namer_for(form, records)
    namer.taken -= set(f"{OWN} {own}".split()) - {*kept.split(), *kernel.given}
    lines = printed(kernel, extents, namer.new)
    called = helpers_of(kernel)
    given = tuple(kernel.given)
    functions = [name for name in called if name in FUNCTIONS or name == "_power"]
    helpers = [name for name in called if name not in functions]
    return Written(lines, helpers, functions, single, given)


def passed(kernel: Kernel, passes: Passes = PASSES) -> Kernel:
    """The kernel as it is printed."""
    verified(kernel)
    for each in passes:
        kernel = verified(each(kernel))
    return kernel
