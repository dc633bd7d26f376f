"""The fold of full buffers into their states, at the end of a step."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

from kvgen.algebra.form import Form
from kvgen.codegen.cost import Cost
from kvgen.codegen.operands import multiplies
from kvgen.kernels.choice import Choice, Tile, Tiling, when
from kvgen.kernels.kernel import Kernel, Rows
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load, warps_for
from kvgen.kernels.rules import at_once, crowded, fills_threads, wide

TILING = Choice(
    when(Tiling(Tile(4096), 128, stages=4), turned=True),
    when(Tiling(Tile(4096), 64, stages=3)),
)


class Fold(Kernel):
    name = "fold"
    knobs = ("TILE", "num_warps", "STAGES", "programs", "DOT", "maxnreg")
    newer: ClassVar[Config] = {"DOT": 0, "maxnreg": 0}
    rules = (wide, fills_threads, at_once, crowded)
    # what is folded was left by decodes
    function = "decode"
    in_steps = folds = True
    one_tile = True
    alike = True

    def dots(self, form: Form) -> bool:
        return multiplies(form)

    def moved(self, total: Cost, form: Form, buffer: int) -> float:
        return total.fold(buffer) / buffer

    def launch(
        self, module: ModuleType, cache: Any, layer: int, slots: Any, given: Mapping[str, Any]
    ) -> None:
        """In all layers, for the rows that are full."""
        module.advance(cache, slots)

    def cursors(self, rows: Rows, form: Form) -> Any:
        return rows.staggered()

    def cycle(self, rows: Rows) -> int:
        return rows.cycle

    def rule(self, load: Load, batch: int) -> Config:
        tiling = TILING(load.facts(batch))
        width = load.tile(tiling.tile)
        return {
            "TILE": width,
            "num_warps": warps_for(load.k * width, tiling.each),
            "STAGES": tiling.stages,
            "programs": 8,
            "DOT": 0,
            "maxnreg": 0,
        }


FOLD = Fold()
