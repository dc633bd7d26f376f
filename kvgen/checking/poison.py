"""NaN wherever a cache's memory means nothing, to show that no kernel depends on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records


def poison(tensor: torch.Tensor) -> None:
    tensor.fill_(math.nan if tensor.is_floating_point() else -12345)


def poison_beyond(cache: Any, form: Form, records: Records, slots: Iterable[int]) -> None:
    """Between steps: the places where a record may come but none is, those that are skipped, and
    carried states other than the current one. What marks skipped places is set from the cursor on,
    where it means nothing."""
    cursors, marks = cache.cursors.tolist(), cache.tensors["skipped"].tolist()
    for slot in slots:
        held, skipped = cursors[slot], marks[slot] % 2**64
        empty = [place for place in range(held) if skipped >> place & 1]
        empty += range(held, cache.buffer)
        for stored in records.stored:
            places = cache.tensors[stored.name][slot].movedim(2 if stored.heads else 1, 0)
            for start, stop in _ranges(empty):
                poison(places[start:stop])
        for carry in form.carries:
            values = cache.tensors[carry.tensor.name][slot]
            poison(values[:, :held])
            poison(values[:, held + 1 :])
        for past in form.spec.pasts:
            to_come = cache.tensors["order"][slot, form.most_past :].tolist()
            for place in to_come:
                poison(cache.tensors[past.name][slot][:, place])
        cache.tensors["skipped"][slot] = _signed(skipped | -1 << held)


def poison_pages(
    cache: Any, form: Form, records: Records, slots: Iterable[int], page_size: int
) -> None:
    """The same where records lie in pages of `page_size` places, and carried states in a ring."""
    cursors, tables = cache.cursors.tolist(), cache.tensors["pages"].tolist()
    marks = cache.tensors["skipped"].tolist()
    for slot in slots:
        for number, page in enumerate(tables[slot]):
            if page < 0:
                break
            held = min(max(cursors[slot] - number * page_size, 0), page_size)
            empty = [place for place in range(held) if marks[slot][number] >> place & 1]
            empty += range(held, page_size)
            for stored in records.stored:
                places = cache.tensors[stored.name][page].movedim(2 if stored.heads else 1, 0)
                for start, stop in _ranges(empty):
                    poison(places[start:stop])
            kept = marks[slot][number] & ~(-1 << held)
            cache.tensors["skipped"][slot, number] = kept | (-1 << held) & ~(-1 << page_size)
        for carry in form.carries:
            values, current = cache.tensors[carry.tensor.name][slot], cursors[slot] % cache.ring
            poison(values[:, :current])
            poison(values[:, current + 1 :])


def _ranges(places: Sequence[int]) -> list[tuple[int, int]]:
    """Increasing places as ranges."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return found


def _signed(bits: int) -> int:
    """The lowest 64 bits as an int64."""
    return (bits + 2**63) % 2**64 - 2**63
