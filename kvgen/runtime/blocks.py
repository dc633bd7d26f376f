"""Prompts in blocks of tokens that are prepared side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kvgen.runtime.device import best_of, shared_memory, timed
from kvgen.runtime.launches import Given, Launching, batch_of, configured, launch_tokens, tiles_grid
from kvgen.runtime.numbers import parts_of, power_of_two

# bytes that are prepared at once, of as many rows as that is enough for
PREPARED = 1 << 30
# programs for each multiprocessor from which on they may have several heads
EACH = 4
# what else is asked of the compiler for what prepares
PREPARING: dict[str, Any] = {}


class Blocks(NamedTuple):
    """What a module's table has where it takes prompts so.

    tokens: of a block. numbers, halves: what is prepared of it for a head, in float32 and in
    bfloat16. warps: of a program that prepares, and heads: how many it may have, one after the
    other. What a sweep takes of shared memory, in bytes: turn, turn_channel: for a block in flight,
    and for each value channel of that; beside, beside_channel: however many are.
    """

    tokens: int
    numbers: int
    halves: int
    warps: int
    heads: int
    turn: int
    turn_channel: int
    beside: int
    beside_channel: int

    def takes(self, cache: Launching, rows: int, tokens: int, packed: bool) -> bool:
        """Whether a call's prompts are taken so: where that has been timed on this GPU and what
        does without is not faster, of more than a block, and if a row's bits may hang on how long
        others are. tokens: of a row, or of all."""
        table = cache.table
        if packed:
            tokens //= rows
        if not timed(table, cache.gpu, "sweep") or tokens <= self.tokens or cache.invariant:
            return False
        return best_of(table, cache.gpu, "sweep", "extend", batch_of(cache, rows)) == "sweep"

    def in_flight(self, config: Mapping[str, int], inputs: Sequence[Tensor]) -> int:
        """As many blocks as are asked for and there is room for; of inputs in 32 bits one."""
        stages, width, device = config["STAGES"], config["TILE"], inputs[0].device
        if device.type == "cpu" or max(x.element_size() for x in inputs) > 2:
            return 1
        room = shared_memory(device) - self.beside - self.beside_channel * width
        return max(1, min(stages, room // (self.turn + self.turn_channel * width)))

    def run(
        self, cache: Launching, layer: int, slots: Tensor, pending: Tensor, lengths: Tensor,
        given: Given, out: Tensor, packed: bool,
    ) -> None:  # fmt: skip
        """Prepare all blocks, then go over them. Of prompts that are not packed as many rows at a
        time as there is room for."""
        rows, block = slots.numel(), self.tokens
        config = configured(cache, "sweep", rows, given)
        stages = self.in_flight(config, [given[name] for name in cache.tokens])
        # packed rows have so many blocks together at most
        blocks = out.shape[0] // block + rows if packed else parts_of(out.shape[1], block)
        each = blocks * cache.heads * (4 * self.numbers + 2 * self.halves)
        most = rows if packed else max(1, PREPARED // each)
        for start in range(0, rows, most):
            part = slice(start, start + most)
            held = slots[part].numel()
            places = cache.heads * (blocks if packed else held * blocks)
            # heads that have their keys in common, as long as there are programs for all of a GPU
            few = max(1, min(self.heads, places // (EACH * cache.processors)))
            heads = max(each for each in range(1, few + 1) if self.heads % each == 0)
            prepared = [
                torch.empty(places * count, dtype=dtype, device=cache.device)
                for count, dtype in ((self.numbers, torch.float32), (self.halves, torch.bfloat16))
            ]
            inputs, outputs, ends = given, out, lengths
            if held < rows:
                inputs = {name: x[part] if name in cache.tokens else x for name, x in given.items()}
                outputs, ends = out[part], lengths[part]
            shared: dict[str, Any] = {
                "books": [pending, ends, *prepared],
                "before": [out.shape[0 if packed else 1], rows if packed else blocks],
                "packed": packed,
                "PACKED": packed,
                "PLACES": cache.buffer,
                "TOKENS": block,
            }
            call = layer, slots[part], inputs, outputs
            launch_tokens(
                cache, "prepare", (places // heads,), *call, **shared, HEADS=heads,
                ROWS=power_of_two(rows) if packed else 1, num_warps=self.warps, **PREPARING,
            )  # fmt: skip
            launch_tokens(
                cache, "sweep", tiles_grid(cache, held, config), *call, **shared,
                TILE=config["TILE"], STAGES=stages, num_warps=config["num_warps"],
            )  # fmt: skip
