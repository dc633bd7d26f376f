"""A prompt whose blocks are prepared side by side, and then gone over."""

from __future__ import annotations

from collections.abc import Sequence

from kvgen.algebra.chunk import swept
from kvgen.algebra.form import Form
from kvgen.codegen.operands import all_given, few_bits
from kvgen.kernels.choice import Choice, Tiling, below, least, of_channels, when
from kvgen.kernels.extend import PROMPT_ROWS, Extend
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load, warps_for
from kvgen.kernels.rules import fills_threads, shallow, wide
from kvgen.kernels.size import LARGEST, Need, Size

# the kernel that prepares
PREPARE = "prepare"
# tokens of a block, as `codegen.render` has them
BLOCK = 64
# keys beyond this leave no room for a second block, nor for wide tiles
LONG_KEYS = 128
# bytes of shared memory for all that is small
BESIDE = 4 << 10

# few rows want programs, and blocks in flight; many have other programs to wait with
FEW_BITS = Choice(
    when(Tiling(of_channels(64), 64), k=least(LONG_KEYS + 1)),
    when(Tiling(of_channels(32), 32, stages=3), filled=below(1.5)),
    when(Tiling(of_channels(64), 64, stages=3), filled=below(4)),
    when(Tiling(of_channels(64), 64, stages=2)),
)
# products in parts take registers, so that a warp has as few rows as tensor cores take
IN_PARTS = Choice(
    when(Tiling(of_channels(16), 64), k=least(LONG_KEYS + 1)),
    when(Tiling(of_channels(32), 32, stages=3), filled=below(1.5)),
    when(Tiling(of_channels(128), 64, stages=3)),
)


class Sweep(Extend):
    name = "sweep"
    knobs = ("TILE", "STAGES", "num_warps")
    rules = (wide, fills_threads, shallow)
    alike = False

    def exists(self, form: Form) -> bool:
        # vectors in three parts are as many bytes as there are
        few = all_given(form) or few_bits(form)
        return swept(form) and (few or form.spec.size("K") <= LONG_KEYS)

    def batches(self, asked: Sequence[int]) -> Sequence[int]:
        """One long prompt has a configuration of its own."""
        return (1, PROMPT_ROWS)

    def asked(self, config: Config) -> dict[str, float]:
        """It runs only where it has been timed."""
        return {**config, "us": 0.0}

    def need(self, size: Size, config: Config) -> Need:
        """What a turn loads is in shared memory as often as turns are in flight."""
        form, few = size.form, few_bits(size.form)
        count, parts = size.vectors, 1
        if form.decay("K"):
            # of columns and keys, each scaled by itself
            count = len(size.columns) + len(form.keys)
            parts = 3 if not few else 2 if form.writes_read else 1
        vectors = 2 * BLOCK * size.k * count * parts
        matrices = 2 * BLOCK * BLOCK * len(size.columns) * (1 if few else 3)
        held = size.k * config["TILE"] + 3 * BLOCK * config["TILE"]
        # values that products take as they come are in flight, too
        values = 0 if form.writes_read else 2 * BLOCK * config["TILE"]
        shared = config["STAGES"] * (vectors + matrices + values)
        if config["STAGES"] == 1:
            # one operand after the other, in the same place
            shared = 2 * BLOCK * size.k * parts
        # and what changes from one layout to another passes through
        shared += 4 * BLOCK * config["TILE"] + BESIDE
        return size.held(self.name, BLOCK, held, config, shared)

    def rule(self, load: Load, batch: int) -> Config:
        tiling = (FEW_BITS if few_bits(load.form) else IN_PARTS)(load.facts(batch))
        width = load.tile(tiling.tile)
        config = {"TILE": width, "STAGES": tiling.stages, "num_warps": 4}
        config["num_warps"] = max(4, warps_for(load.k * width, tiling.each))
        size = Size(load.form, load.records)
        while config["STAGES"] > 1 and self.need(size, config).shared > LARGEST:
            config["STAGES"] -= 1
        return config


SWEEP = Sweep()
