"""A prompt whose blocks are prepared side by side, and then gone over."""

from __future__ import annotations

from kvgen.algebra.chunk import chunks
from kvgen.algebra.form import Form
from kvgen.codegen.operands import all_given, few_bits
from kvgen.kernels.choice import Choice, Tiling, below, of_channels, when
from kvgen.kernels.extend import Extend
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load, warps_for
from kvgen.kernels.rules import fills_threads, shallow, wide
from kvgen.kernels.size import Need, Size

# the kernel that prepares
PREPARE = "prepare"
# tokens of a block, as `codegen.render` has them
BLOCK = 64
# keys beyond this leave no room for a second block, nor for wide tiles
LONG_KEYS = 128

TILING = Choice(
    when(Tiling(of_channels(64), 64, stages=2), few=True, k=below(LONG_KEYS + 1)),
    when(Tiling(of_channels(64), 64), few=True),
    when(Tiling(of_channels(64), 32, stages=2), k=below(LONG_KEYS + 1)),
    when(Tiling(of_channels(16), 64)),
)


class Sweep(Extend):
    name = "sweep"
    knobs = ("TILE", "STAGES", "num_warps")
    rules = (wide, fills_threads, shallow)
    behind = ()

    def exists(self, form: Form) -> bool:
        # float32 vectors in shared memory, in two parts, are as many bytes as there are
        return chunks(form) and (all_given(form) or form.spec.size("K") <= LONG_KEYS)

    def need(self, size: Size, config: Config) -> Need:
        """What a turn loads is in shared memory as often as turns are in flight."""
        vectors = 2 * BLOCK * size.k * size.vectors
        matrices = 2 * BLOCK * BLOCK * len(size.columns) * (1 if few_bits(size.form) else 3)
        held = size.k * config["TILE"] + 3 * BLOCK * config["TILE"]
        shared = config["STAGES"] * (vectors + matrices)
        return size.held(self.name, BLOCK, held, config, shared)

    def rule(self, load: Load, batch: int) -> Config:
        tiling = TILING(load.facts(batch) | {"few": few_bits(load.form)})
        width = load.tile(tiling.tile)
        return {
            "TILE": width,
            "STAGES": tiling.stages,
            "num_warps": max(4, warps_for(load.k * width, tiling.each)),
        }


SWEEP = Sweep()
