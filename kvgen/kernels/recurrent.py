"""The plain kernel: the state read and written at every token."""

from __future__ import annotations

from typing import Any

from kvgen.algebra.form import Form
from kvgen.codegen.cost import Cost
from kvgen.kernels.choice import Choice, Tile, below, when
from kvgen.kernels.kernel import Kernel, Rows
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load, warps_for
from kvgen.kernels.rules import fills_threads, wide

# it reads and writes both planes of a split state: many rows of them are like 32 bits
WIDTH = Choice(
    when(16, filled=below(4)),
    when(32, filled=below(8)),
    when(32, narrow=True, partial=False),
    when(64),
)
# elements of a tile in a thread
EACH = Choice(
    when(64, filled=below(4)),
    when(128, k=below(128)),
    when(128, narrow=True, filled=below(8)),
    when(128, narrow=True, partial=False),
    when(64),
)


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
        facts = load.facts(batch)
        width = load.v
        if not load.form.whole_v:
            width = min(WIDTH(facts), load.tile(Tile(8192)))
        return {"TILE": width, "num_warps": warps_for(load.k * width, EACH(facts))}


RECURRENT = Recurrent()
