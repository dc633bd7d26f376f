"""Calls that take several tokens a row: drafts to verify, and prompts."""

from __future__ import annotations

from typing import Any

import torch

from kvgen.runtime.arguments import (
    check_arguments,
    check_first,
    check_layer,
    check_lengths,
    check_out,
    check_parents,
    check_slots,
    check_starts,
    strict,
)
from kvgen.runtime.cache import Cache, check_cache
from kvgen.runtime.launches import Given
from kvgen.runtime.ops import traced


def verify_rows(
    cache: Cache,
    layer: int,
    slots: torch.Tensor,
    given: Given,
    parents: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    if torch.compiler.is_compiling():
        front = given[cache.table.inputs[0].name].shape[:2]
        return traced(cache, "verify", layer, slots, given, out, front, parents)
    slots, out, tokens = checked_window(cache, layer, slots, given, out)
    cache.check_settled(slots)
    if tokens > cache.window:
        name = cache.table.inputs[0].name
        raise ValueError(
            f"{name}: T = {tokens}, expected at most the cache's window = {cache.window}"
        )
    if parents is not None:
        check_parents(cache, parents, slots.numel(), tokens)
    cache.check_room(slots, tokens)
    cache.calls.add(cache, layer, slots, "verify", tokens, parents)
    cache.run_verify(layer, slots, parents, given, out)
    return out


def extend_rows(
    cache: Cache,
    layer: int,
    slots: torch.Tensor,
    given: Given,
    lengths: torch.Tensor | None,
    starts: torch.Tensor | None,
    out: torch.Tensor | None,
) -> torch.Tensor:
    if (lengths is None) == (starts is None):
        came = "neither" if lengths is None else "both"
        raise ValueError(f"lengths, starts: {came}, expected one of them")
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


def checked_window(
    cache: Cache, layer: int, slots: Any, given: Given, out: Any, packed: bool = False
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """What `verify` and `extend` share, before any launch: slots, `out` and tokens."""
    check_cache(cache)
    check_layer(cache, layer)
    slots = check_slots(cache, "slots", slots)
    tokens = check_first(cache.table, given[cache.table.inputs[0].name], packed)
    front = (tokens,) if packed else (slots.numel(), tokens)
    check_arguments(cache, given, front)
    return slots, check_out(cache, out, front, given), tokens
