"""Calls that take prompts, or chunks of them, padded or one behind the other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import describe, strict, wrong
from kvgen.runtime.cache import Cache
from kvgen.runtime.launches import Given
from kvgen.runtime.numbers import listed
from kvgen.runtime.ops import traced
from kvgen.runtime.windows import checked_window


def extend_rows(
    cache: Cache, layer: int, slots: Tensor, given: Given, lengths: Tensor | None,
    starts: Tensor | None, out: Tensor | None,
) -> Tensor:  # fmt: skip
    if (lengths is None) == (starts is None):
        came = "neither" if lengths is None else "both"
        raise wrong("lengths, starts", came, "one of them")
    packed = starts is not None
    if torch.compiler.is_compiling():
        front = given[cache.table.inputs[0].name].shape[: 1 if packed else 2]
        return traced(cache, "extend", layer, slots, given, out, front, lengths, starts)
    slots, out, tokens = checked_window(cache, layer, slots, given, out, packed)
    if not slots.numel():
        return out.zero_()
    if starts is None:
        check_lengths(cache, lengths, slots.numel(), tokens)
    else:
        check_starts(cache, starts, slots.numel(), tokens)
        # what is known of lengths is looked at on the host alone
        lengths = starts.diff() if strict(slots) else starts
    assert lengths is not None
    cache.calls.check_once(cache, layer, slots, lengths)
    cache.check_room(slots, tokens, lengths)
    cache.calls.add(cache, layer, slots, "extend", lengths)
    cache.run_extend(layer, slots, lengths if starts is None else starts, given, out, packed)
    return out


def check_lengths(cache: Cache, lengths: Any, rows: int, tokens: int) -> None:
    check_counted(cache, "lengths", lengths, rows)
    if strict(lengths) and rows:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > tokens:
            raise wrong("lengths", f"{low} to {high}", f"0 to T = {tokens}")


def check_starts(cache: Cache, starts: Any, rows: int, tokens: int) -> None:
    check_counted(cache, "starts", starts, rows + 1)
    if strict(starts):
        given = listed(starts)
        falls = any(after < before for before, after in pairwise(given))
        if falls or given[0] < 0 or given[-1] > tokens:
            raise wrong("starts", given, f"numbers from 0 to {tokens} that do not decrease")


def check_counted(cache: Cache, name: str, numbers: Any, count: int) -> None:
    fits = isinstance(numbers, Tensor) and tuple(numbers.shape) == (count,)
    fits = fits and numbers.is_contiguous() and numbers.device == cache.device
    if not fits or numbers.dtype != torch.int32:
        raise wrong(name, describe(numbers), f"contiguous [{count}] torch.int32 on {cache.device}")
