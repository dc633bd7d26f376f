"""Outputs whose end sums over V: kernels with a tile of values leave what comes before that, and a
kernel of its own makes outputs of it.

What is left is float32, so that no output is rounded twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.launches import Given, configured, launch
from kvgen.runtime.numbers import parts_of, power_of_two

# what a cache launches for a call
Run = Callable[..., None]
# values in a program
ELEMENTS = 512


def finished(run: Run) -> Run:
    """One token a row, or a window of them, then their outputs' end."""

    def call(cache: Any, layer: int, slots: Tensor, *rest: Any) -> None:
        # of a window its tree comes first
        *tree, given, out = rest
        left = room_for(out)
        run(cache, layer, slots, *tree, given, left)
        finish(cache, slots, given, left, out)

    return call


def finished_decode(run: Run) -> Run:
    """The same where a program with all of V finishes its head's output itself."""
    apart = finished(run)

    def call(cache: Any, layer: int, slots: Tensor, given: Given, out: Tensor) -> None:
        tile = configured(cache, "decode", slots.numel(), given)["TILE"]
        (run if tile >= cache.table.sizes["V"] else apart)(cache, layer, slots, given, out)

    return call


def finished_extend(run: Run) -> Run:
    """Prompts, then their outputs' end."""

    def call(
        cache: Any, layer: int, slots: Tensor, lengths: Tensor, given: Given, out: Tensor,
        packed: bool = False,
    ) -> None:  # fmt: skip
        left = room_for(out)
        run(cache, layer, slots, lengths, given, left, packed)
        finish(cache, slots, given, left, out, lengths, packed)

    return call


def room_for(out: Tensor) -> Tensor:
    """Where kernels leave what outputs are made of; outputs in float32 take its place."""
    if out.dtype == torch.float32:
        return out
    return torch.empty(out.shape, dtype=torch.float32, device=out.device)


def finish(
    cache: Any, slots: Tensor, given: Given, left: Tensor, out: Tensor,
    lengths: Tensor | None = None, packed: bool = False,
) -> None:  # fmt: skip
    """Make outputs of what is left of them: [B, HV, V], or [B, T, HV, V]; packed: [tokens, HV, V].

    lengths: of rows with tokens of their own count; packed: where each one's start, and the last
    one's end.
    """
    front, span = out.dim() - 2, power_of_two(out.shape[-1])
    needed = {name: given[name] for name in cache.table.kernels["finish"].arguments}
    strides = [*of_tokens(out, front), *of_tokens(left, front)]
    for name, x in needed.items():
        strides += of_tokens(x, front) if name in cache.tokens else x.stride()[:-1]
    heads, each = out.shape[:-1].numel(), max(1, ELEMENTS // span)
    options: dict[str, Any] = {
        "LENGTHS": lengths is not None, "PACKED": packed, "PDL": cache.overlaps, "ITEMS": each,
        "BITS": slots.numel().bit_length() if packed else 0,
        "num_warps": min(8, max(1, span // ELEMENTS)),
    }  # fmt: skip
    # it may begin early behind a kernel behind which the next one may
    step = cache.step and (cache.step[0], 0, cache.step[2])
    launch(
        cache, "finish", (parts_of(heads, each),), out, left, slots,
        slots if lengths is None else lengths, *needed.values(), heads, slots.numel(),
        1 if front < 2 else out.shape[1], cache.heads, *cache.rows, *strides, step=step, **options,
    )  # fmt: skip


def of_tokens(x: Tensor, front: int) -> tuple[int, ...]:
    """The strides of rows, of tokens, 0 where a row has but one, and of what comes before the last
    axis. front: axes in front of its own."""
    strides = x.stride()
    strides = strides[: max(front, len(strides) - 1)]
    return strides if front > 1 else (strides[0], 0, *strides[1:])
