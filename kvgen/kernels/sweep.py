"""A prompt whose blocks are prepared side by side, and then gone over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
# tokens of a block
BLOCK = 64
# keys beyond this leave no room for a second block, nor for wide tiles
LONG_KEYS = 128

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


class Flight(NamedTuple):
    """What a sweep takes of shared memory, in bytes. turn, turn_channel: for a block in flight, and
    for each value channel of that. beside: for all that is small. beside_channel: for what changes
    from one layout to another, of each value channel."""

    turn: int
    turn_channel: int
    beside: int = 4 << 10
    beside_channel: int = 4 * BLOCK

    def shared(self, stages: int, width: int) -> int:
        turn = self.turn + self.turn_channel * width
        return stages * turn + self.beside + self.beside_channel * width


def flight(form: Form, keys: int, matrices: int) -> Flight:
    """keys: numbers over K that a turn loads of a token, of all vectors in all parts. matrices:
    tokens by tokens, in all parts."""
    # values that products take as they come are in flight, too
    values = 0 if form.writes_read else 2 * BLOCK
    return Flight(2 * BLOCK * (keys + BLOCK * matrices), values)


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

    def waits(self, form: Form) -> bool:
        return True

    def need(self, size: Size, config: Config) -> Need:
        """What a turn loads is in shared memory as often as turns are in flight."""
        form, few = size.form, few_bits(size.form)
        count, parts = size.vectors, 1
        if form.decay("K"):
            # of columns and keys, each scaled by itself
            count = len(size.columns) + len(form.keys)
            parts = 3 if not few else 2 if form.writes_read else 1
        width, stages = config["TILE"], config["STAGES"]
        taken = flight(form, size.k * count * parts, len(size.columns) * (1 if few else 3))
        shared = taken.shared(stages, width)
        if stages == 1:
            # one operand after the other, in the same place
            shared = taken.shared(0, width) + 2 * BLOCK * size.k * parts
        held = size.k * width + 3 * BLOCK * width
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
