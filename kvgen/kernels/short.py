"""A decode of a row that has no state yet, over the pages of its records."""

from __future__ import annotations

from typing import Any

from kvgen.algebra.form import Form
from kvgen.codegen.config import PAGE
from kvgen.codegen.cost import Cost
from kvgen.kernels.choice import Choice, Tile, below, least, when
from kvgen.kernels.decode import DECODE
from kvgen.kernels.kernel import Kernel, Rows
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import LONG, Load, warps_for
from kvgen.kernels.rules import beside, divides, fills_threads, shallow, wide
from kvgen.kernels.size import PAGED, Need, Size

TILE = Choice(
    when(Tile(8192), k=least(LONG)),
    when(Tile(32768), k=least(129)),
    when(Tile(4096), channels=False, busy=below(16)),
    when(Tile(16384)),
)
# few rows, or long keys: warps that share two pages
PAGES = Choice(
    when(2, k=least(129)),
    when(2, busy=below(4)),
    when(2, channels=True, busy=below(8)),
    when(1),
)
# a page's scores serve the value heads of a group that stand side by side, up to so many channels
CHANNELS = Choice(
    when(0, k=least(129)),
    when(0, channels=False, busy=below(16)),
    when(256, busy=below(64)),
    when(512),
)
# of a page's elements in a thread: records in 32 bits take registers of their own, beside decays of
# their channels they are computed anyway
EACH = Choice(
    when(64, columns=least(3)),
    when(64, channels=False, k=below(129), busy=below(4)),
    when(128, channels=True),
    when(192, narrow_records=True),
    when(96),
)


class Short(Kernel):
    name = "short"
    knobs = ("TILE", "TILES", "PAGES", "STAGES", "num_warps")
    # its stages are those of the loop over pages
    rules = (wide, fills_threads, divides, beside, shallow)
    # extents of what its program holds
    powers = ("TILES",)
    function = "decode"
    context = 128
    held = 32

    def exists(self, form: Form) -> bool:
        return form.paged

    def moved(self, total: Cost, form: Form, buffer: int) -> float:
        return total.short(self.held)

    def need(self, size: Size, config: Config) -> None:
        return None

    def paged_need(self, size: Size, config: Config) -> Need:
        rows = PAGE * config["PAGES"]
        elements = size.k * (rows * size.keys // 4 + size.vectors)
        ahead = (config["STAGES"] - 1) * size.k * rows * size.bytes * size.kept
        return size.held(PAGED + DECODE.name, 1, elements, config, ahead)

    def cursors(self, rows: Rows, form: Form) -> Any:
        return self.held

    def rule(self, load: Load, batch: int) -> Config:
        facts = load.facts(batch)
        width = load.tile(TILE(facts))
        if load.k >= LONG:
            # a page's keys fill the registers, and those of a page ahead all shared memory
            return {"TILE": width, "TILES": 1, "PAGES": 1, "STAGES": 1, "num_warps": 8}
        pages = PAGES(facts)
        many = max(1, min(load.heads & -load.heads, CHANNELS(facts) // width))
        elements = pages * PAGE * (load.k * (1 + load.channels) + width * many)
        return {
            "TILE": width,
            "TILES": many,
            "PAGES": pages,
            "STAGES": 2,
            # warps wait for each other at every page: one is best, where its registers suffice
            "num_warps": warps_for(elements, EACH(facts)),
        }


SHORT = Short()
