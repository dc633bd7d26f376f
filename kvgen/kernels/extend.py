"""A prompt, taken in block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvgen.algebra.form import Form
from kvgen.codegen.cost import Cost
from kvgen.kernels.choice import Choice, Tile, Tiling, when
from kvgen.kernels.kernel import Kernel, Rows
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import LONG, Load, warps_for
from kvgen.kernels.rules import fills_threads, leaves_room, wide
from kvgen.kernels.size import Need, Size

# rows of a prompt: the one batch at which it is tuned
PROMPT_ROWS = 8

TILING = Choice(
    # scaling what decays by channel is worth sharing by many values, if a state in parts of 16 bits
    # leaves other GPUs than a server's the shared memory for that
    when(Tiling(Tile(16384), 64, stages=2), scaled=True, narrow=True, partial=False),
    when(Tiling(Tile(8192), 64, stages=3)),
)


class Extend(Kernel):
    name = "extend"
    knobs = ("TILE", "TOKENS", "STAGES", "num_warps")
    rules = (wide, fills_threads, leaves_room)
    function = "extend"
    several = True
    prompt = 1024
    most_tokens = 1 << 20
    one_tile = True
    alike = True
    spills = 1024

    def exists(self, form: Form) -> bool:
        return form.windows

    def tokens(self, form: Form) -> int:
        return self.prompt

    def batches(self, asked: Sequence[int]) -> Sequence[int]:
        return (PROMPT_ROWS,)

    def moved(self, total: Cost, form: Form, buffer: int) -> float:
        return total.extend(self.prompt)

    def need(self, size: Size, config: Config) -> Need:
        return size.window(self.name, config, config["TOKENS"], prompt=True)

    def comparable(self, form: Form, same: bool, cut: bool) -> bool:
        """Prompts find nothing in a buffer, however long."""
        return not cut

    def cursors(self, rows: Rows, form: Form) -> Any:
        """A row that takes in a prompt holds nothing."""
        return 0

    def rule(self, load: Load, batch: int) -> Config:
        tiling = TILING(load.facts(batch))
        width = load.tile(tiling.tile)
        # factored keys have room for so many tokens
        most = load.form.factored.most if load.form.factored else 16
        tokens = min(16, 1 << (most.bit_length() - 1))
        warps = warps_for(load.k * width, tiling.each)
        if load.form.remembered:
            # a block's tokens bring those before them along, vectors that fill the registers
            width = load.tile(Tile(4096))
            return {"TILE": width, "TOKENS": min(tokens, 8), "STAGES": 1, "num_warps": 8}
        if load.k >= LONG:
            # a block's vectors in flight would fill all shared memory
            tokens = min(tokens, max(1, 8192 // load.k))
            return {"TILE": width, "TOKENS": tokens, "STAGES": 1, "num_warps": 8}
        return {
            "TILE": width,
            "TOKENS": tokens,
            "STAGES": tiling.stages,
            # larger tensor core instructions take four warps
            "num_warps": max(4, warps) if load.k >= 64 else warps,
        }


EXTEND = Extend()
