"""Prompts in blocks of tokens that are prepared side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.device import best_of
from kvgen.runtime.launches import Given, Launching, batch_of, configured, launch_tokens, tiles_grid
from kvgen.runtime.numbers import parts_of

# bytes that are prepared at once, of as many rows as that is enough for
PREPARED = 1 << 30
# warps that prepare a block: its products have as many rows as four of them take
PREPARING = {"num_warps": 4}


def in_blocks(cache: Launching, rows: int, tokens: int) -> bool:
    """Whether a call takes its prompts so: there is more than one block, what a row comes to may
    hang on how long the others are, and nothing tuned is faster."""
    table = cache.table
    # whoever times the other kernel leaves this one no configuration
    known = table.names["CONFIGS"].get(cache.gpu, {}).get("sweep", True)
    if tokens <= table.block or not table.block or cache.invariant or not known:
        return False
    return best_of(table, cache.gpu, "sweep", "extend", batch_of(cache, rows)) == "sweep"


def run_blocks(
    cache: Launching, layer: int, slots: Tensor, pending: Tensor, lengths: Tensor, given: Given,
    out: Tensor,
) -> None:  # fmt: skip
    """Prepare all blocks, then go over them; as many rows at a time as there is room for."""
    numbers, elements = cache.table.prepared
    blocks = parts_of(out.shape[1], cache.table.block)
    each = blocks * cache.heads * (4 * numbers + 2 * elements)
    most = max(1, PREPARED // each)
    config = configured(cache, "sweep", slots.numel(), given)
    for first in range(0, slots.numel(), most):
        part = slice(first, first + most)
        rows = slots[part].numel()
        places = rows * cache.heads * blocks
        prepared = [
            torch.empty(places * numbers, dtype=torch.float32, device=cache.device),
            torch.empty(places * elements, dtype=torch.bfloat16, device=cache.device),
        ]
        own = {name: x[part] if name in cache.tokens else x for name, x in given.items()}
        shared: dict[str, Any] = {
            "books": [pending, lengths[part], *prepared],
            "before": [out.shape[1], blocks],
            "PLACES": cache.buffer,
            "TOKENS": cache.table.block,
        }
        launch_tokens(
            cache, "prepare", (places,), layer, slots[part], own, out[part], **shared,
            **PREPARING,
        )  # fmt: skip
        launch_tokens(
            cache, "sweep", tiles_grid(cache, rows, config), layer, slots[part], own, out[part],
            **shared, TILE=config["TILE"], STAGES=config["STAGES"], num_warps=config["num_warps"],
        )  # fmt: skip
