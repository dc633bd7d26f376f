"""A model step: its calls layer by layer, and what ends it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import (
    check_arguments,
    check_force,
    check_integer,
    check_layer,
    check_per_row,
    check_slots,
    describe,
    in_use,
    strict,
    wrong,
)
from kvgen.runtime.cache import Cache, check_cache
from kvgen.runtime.device import best_kernel, gpu_name
from kvgen.runtime.launches import Given
from kvgen.runtime.memory import check_out
from kvgen.runtime.numbers import listed
from kvgen.runtime.ops import traced, traced_end


def advance(cache: Cache, slots: Tensor, force: Tensor | None = None) -> None:
    """End a model step for exactly the rows decoded in it: cursors move, full buffers fold.

    slots: [B] int32 as given to every `decode` of the step. force: [B] bool, rows to fold now.
    """
    if torch.compiler.is_compiling():
        return traced_end(cache, "advance", slots, force)
    check_cache(cache)
    slots = check_slots(cache, "slots", slots)
    force = check_force(cache, slots, force)
    cache.calls.end(cache, slots)
    cache.run_advance(slots, force, "one")


def accept(
    cache: Cache,
    slots: Tensor,
    counts: Tensor | None = None,
    path: Tensor | None = None,
    force: Tensor | None = None,
    late: bool = False,
) -> None:
    """End a model step of which rows keep some tokens or none; the others have never been.

    slots: [B] int32 as given to every call of the step, with either
    counts: [B] int32, how many of its first tokens a row keeps, or
    path: [B, T] int32, which nodes of a tree, in increasing order; a negative number ends them.
    force: [B] bool, rows to fold now. Rows without room for the next window fold in any case.
    late: called before the calls of the next step, when it is known what the last one keeps; rows
    that no window waits for, as they were not part of that step, are left as they are.
    """
    if torch.compiler.is_compiling():
        return traced_end(cache, "accept", slots, counts, path, force, late)
    check_cache(cache)
    slots = check_slots(cache, "slots", slots)
    if (counts is None) == (path is None):
        raise wrong("counts, path", "neither" if counts is None else "both", "one of them")
    if type(late) is not bool:
        raise wrong("late", repr(late), "True or False")
    force = check_force(cache, slots, force)
    if path is None:
        kept = counts = check_counts(cache, slots, counts, late)
    else:
        kept = path = check_path(cache, slots, path, late)
    cache.calls.end(cache, slots, counts, path, late)
    cache.run_advance(slots, force, "counts" if path is None else "path", kept, late)


def flush(cache: Cache, slots: Tensor | None = None) -> None:
    """Fold now, whatever the buffers hold, in the given slots or in all.

    Between steps only: a row that was decoded since its last `advance` loses that token. A row that
    `recurrent` ran on is left to `advance`.
    """
    if torch.compiler.is_compiling():
        return traced_end(cache, "flush", slots)
    check_cache(cache)
    slots = cache.every_slot if slots is None else check_slots(cache, "slots", slots)
    cache.check_settled(slots, left=("recurrent",))
    cache.calls.flush(cache, slots)
    cache.run_advance(slots, None, "all")


def best(batch: int, device: torch.device | str | None = None) -> str:
    """Which is faster for this batch on a GPU, None for the current one: "decode" or "recurrent".

    By the times of whole steps, folds included, where both are tuned for a batch, the nearest such;
    else "decode", which moves fewer bytes.
    """
    check_integer("batch", batch, 1)
    known = torch.cuda.is_available()
    gpu = gpu_name(Cache.table, "cuda" if device is None else device) if known else "default"
    return best_kernel(Cache.table, gpu, batch)


def decode_rows(
    cache: Cache, layer: int, slots: Tensor, given: Given, out: Tensor | None
) -> Tensor:
    if torch.compiler.is_compiling():
        return traced(cache, "decode", layer, slots, given, out, (slots.shape[0],))
    slots, out = checked(cache, layer, slots, given, out)
    cache.check_settled(slots)
    cache.check_room(slots, 1)
    cache.calls.add(cache, layer, slots, "decode", 1)
    cache.run_decode(layer, slots, given, out)
    return out


def recurrent_rows(
    cache: Cache, layer: int, slots: Tensor, given: Given, out: Tensor | None
) -> Tensor:
    if torch.compiler.is_compiling():
        return traced(cache, "recurrent", layer, slots, given, out, (slots.shape[0],))
    slots, out = checked(cache, layer, slots, given, out)
    if cache.short_context:
        came = f"short_context = {cache.short_context}"
        raise wrong("cache", came, "a cache without short_context")
    cache.calls.check_once(cache, layer, slots)
    cache.check_room(slots, 1)
    cache.calls.add(cache, layer, slots, "recurrent", 1)
    cache.run_recurrent(layer, slots, given, out)
    return out


def checked(cache: Cache, layer: int, slots: Any, given: Given, out: Any) -> tuple[Tensor, Tensor]:
    """The arguments that `decode` and `recurrent` share, before any launch: the slots and `out`."""
    check_cache(cache)
    check_layer(cache, layer)
    slots = check_slots(cache, "slots", slots)
    check_arguments(cache, given, (slots.numel(),))
    return slots, check_out(cache, out, (slots.numel(),), given)


def check_counts(cache: Cache, slots: Tensor, counts: Any, late: bool) -> Tensor:
    counts = check_per_row(cache, "counts", counts, (slots.numel(),), torch.int32)
    if strict(counts):
        used, done = rows_of_step(cache, slots, late)
        most, whole = cache.most_kept(slots, used)
        # a block of a prompt is as long as it likes
        bad = used & torch.where(done, counts < 1, (counts < 0) | (counts > most))
        if whole is not None:
            bad = torch.where(used & whole, (counts != 0) & (counts != most), bad)
        if bad.any():
            row = int(bad.nonzero()[0])
            expected = f"0 to {int(most[row])}"
            if done[row]:
                expected = "1 or more, as its tokens are in the state"
            raise wrong("counts", f"{int(counts[row])} for slot {int(slots[row])}", expected)
    return counts


def check_path(cache: Cache, slots: Tensor, path: Any, late: bool) -> Tensor:
    most = max(1, cache.window)
    tokens = path.shape[1] if isinstance(path, Tensor) and path.dim() == 2 else most
    if not 1 <= tokens <= most:
        raise wrong("path", describe(path), f"1 to {most} nodes a row")
    path = check_per_row(cache, "path", path, (slots.numel(), tokens), torch.int32)
    if strict(path):
        used, done = rows_of_step(cache, slots, late)
        inside = (path >= 0).cumprod(1).bool()
        bad = inside & (path >= tokens)
        bad[:, 1:] |= inside[:, 1:] & (path[:, 1:] <= path[:, :-1])
        bad[:, 0] |= done & (path[:, 0] < 0)
        bad = used & bad.any(1)
        if bad.any():
            row = int(bad.nonzero()[0])
            came = f"{listed(path[row])} for slot {int(slots[row])}"
            raise wrong("path", came, f"increasing numbers below {tokens}, then -1")
    return path


def rows_of_step(cache: Cache, slots: Tensor, late: bool) -> tuple[Tensor, Tensor]:
    """Which rows are in use, and which have the step's tokens in their state already."""
    used = in_use(cache, slots)
    pending = cache.tensors["pending"][torch.where(used, slots, 0).long()]
    return used & (pending != 0) if late else used, pending > 0
