"""The plain kernel: the state read and written at every token."""

from __future__ import annotations

from typing import Any

from kvgen.algebra.form import Form
from kvgen.codegen.cost import Cost
from kvgen.kernels.kernel import Kernel, Rows
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load, warps_for
from kvgen.kernels.rules import fills_threads, wide


class Recurrent(Kernel):
    name = "recurrent"
    knobs = ("TILE", "num_warps")
    rules = (wide, fills_threads)
    function = "recurrent"
    words = "plain"
    in_steps = takes_steps = plain = True
    one_tile = True

    def moved(self, total: Cost, form: Form, buffer: int) -> float:
        return total.recurrent()

    def cursors(self, rows: Rows, form: Form) -> Any:
        return 0

    def rule(self, load: Load, batch: int) -> Config:
        filled = load.filled(batch)
        # it reads and writes both planes of a split state: many rows of them are like 32 bits
        thin = load.narrow and (filled < 8 or not load.form.spec.storage.state.partial)
        width = 16 if filled < 4 else 32 if filled < 8 or thin else 64
        width = load.v if load.form.whole_v else min(width, load.tile(8192))
        each = 128 if filled >= 4 and (thin or load.k < 128) else 64
        return {"TILE": width, "num_warps": warps_for(load.k * width, each)}


RECURRENT = Recurrent()
