"""What calls that take several tokens a row share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kvgen.runtime.arguments import (
    check_arguments,
    check_layer,
    check_slots,
    describe,
    wrong,
)
from kvgen.runtime.cache import Cache, check_cache
from kvgen.runtime.launches import Given
from kvgen.runtime.memory import check_out
from kvgen.runtime.table import Table


def checked_window(
    cache: Cache, layer: int, slots: Any, given: Given, out: Any, packed: bool = False
) -> tuple[Tensor, Tensor, int]:
    """What `verify` and `extend` share, before any launch: slots, `out` and tokens."""
    check_cache(cache)
    check_layer(cache, layer)
    slots = check_slots(cache, "slots", slots)
    tokens = check_first(cache.table, given[cache.table.inputs[0].name], packed)
    front = (tokens,) if packed else (slots.numel(), tokens)
    check_arguments(cache, given, front)
    return slots, check_out(cache, out, front, given), tokens


def check_first(table: Table, first: Any, packed: bool = False) -> int:
    """The tokens of a window, or of packed prompts, by the first input."""
    axis = 0 if packed else 1
    if not isinstance(first, Tensor) or first.dim() <= axis or first.shape[axis] < 1:
        expected = "[tokens, …] with a token or more" if packed else "[B, T, …] with T >= 1"
        raise wrong(table.inputs[0].name, describe(first), expected)
    return first.shape[axis]
