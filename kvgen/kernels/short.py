"""A decode of a row that has no state yet, over the pages of its records."""

from __future__ import annotations

from typing import Any

from kvgen.algebra.form import Form
from kvgen.codegen.config import PAGE
from kvgen.codegen.cost import Cost
from kvgen.kernels.decode import DECODE
from kvgen.kernels.kernel import Kernel, Rows
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import LONG, Load, warps_for
from kvgen.kernels.rules import beside, divides, fills_threads, shallow, wide
from kvgen.kernels.size import PAGED, Need, Size


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
        return form.windows

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
        channels, busy = load.channels, load.busy(batch)
        if load.k >= LONG:
            # a page's keys fill the registers, and those of a page ahead all shared memory
            return {"TILE": load.tile(8192), "TILES": 1, "PAGES": 1, "STAGES": 1, "num_warps": 8}
        # few rows, or long keys: warps that share two pages
        long = load.k > 128
        pages = 2 if long or busy < (8 if channels else 4) else 1
        few = not (channels or long) and busy < 16
        width = load.tile(32768 if long else 4096 if few else 16384)
        # a page's scores serve the value heads of a group that stand side by side
        most = 0 if few or long else (256 if busy < 64 else 512) // width
        many = max(1, min(load.heads & -load.heads, most))
        # of a page's elements in a thread: records in 32 bits take registers of their own, beside
        # decays of their channels they are computed anyway
        each = 128 if channels else 192 if load.form.spec.storage.records.narrow else 96
        if load.columns > 2 or (few and pages > 1):
            each = 64
        return {
            "TILE": width,
            "TILES": many,
            "PAGES": pages,
            "STAGES": 2,
            # warps wait for each other at every page: one is best, where its registers suffice
            "num_warps": warps_for(pages * PAGE * (load.k * (1 + channels) + width * many), each),
        }


SHORT = Short()
