"""Rows that came together do not all fold in one step: each step folds its part of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from twins import made, twin, within

SMALL = {"H": 1, "HV": 1, "K": 1, "V": 1}


class Rows:
    """A cache of a recurrence as small as there is, decoded step by step; how many rows fold."""

    def __init__(self, slots: int, buffer: int, **options: Any) -> None:
        self.module: Any = made("linear_attention", **SMALL).module
        self.cache = self.module.Cache.empty(
            slots, device="cpu", dtype=torch.float32, buffer=buffer, **options
        )

    def step(self, slots: Sequence[int], force: Sequence[bool] | None = None) -> list[int]:
        """The slots that folded."""
        ids = torch.tensor(slots, dtype=torch.int32)
        given = {name: torch.ones(len(slots), 1, 1) for name in "qkv"}
        self.module.decode(self.cache, 0, ids, **given)
        self.module.advance(self.cache, ids, None if force is None else torch.tensor(force))
        used = [slot for slot in slots if slot >= self.cache.first_slot]
        return [slot for slot in used if not self.cache.cursors[slot]]

    def counts(self, steps: int, slots: Sequence[int]) -> list[int]:
        return [len(self.step(slots)) for _ in range(steps)]


@pytest.mark.parametrize(("rows", "buffer"), [(16, 16), (8, 4), (40, 8), (9, 1)])
def test_every_step_folds_its_part(rows: int, buffer: int) -> None:
    steps = buffer + 6
    assert Rows(rows, buffer).counts(steps, range(rows)) == [rows // buffer] * steps


def test_no_row_folds_early_where_there_is_room_for_all() -> None:
    # the last of eight in the last of so many steps, the others just before
    assert Rows(8, 12).counts(24, range(8)) == [0] * 4 + [1] * 8 + [0] * 4 + [1] * 8
    # spread already, each folds when it is full
    spread = Rows(8, 8)
    spread.cache.cursors.copy_(torch.arange(8))
    assert [spread.step(range(8)) for _ in range(8)] == [[7 - step] for step in range(8)]


def test_few_rows_fold_when_they_are_full() -> None:
    assert Rows(7, 4).counts(9, range(7)) == [0, 0, 0, 7, 0, 0, 0, 7, 0]


def test_rows_of_more_than_one_block_are_counted_together() -> None:
    rows = Rows(258, 2)
    found = [rows.step(range(258)) for _ in range(4)]
    assert [len(each) for each in found] == [129] * 4
    assert sorted(found[0] + found[1]) == sorted(found[2] + found[3]) == list(range(258))


def test_room_that_windows_ask_for_is_kept() -> None:
    rows = Rows(12, 8, window=3)
    assert rows.counts(12, range(12)) == [2] * 12
    assert int(rows.cache.cursors.max()) <= 8 - 3


def test_forced_rows_and_padding() -> None:
    rows = Rows(9, 4, first_slot=1)
    slots = [0, 3, -1, 1, 2, 5, 4, 8, 6, 7]
    force = [slot == 3 for slot in slots]
    assert 3 in rows.step(slots, force)
    # eight rows by turns in steps of four, never more than two in one
    counted = [len(rows.step(slots)) for _ in range(8)]
    assert counted == [2] * 8


@pytest.mark.parametrize(
    "options", [{"fold": "row"}, {"invariant": True}], ids=["row", "invariant"]
)
def test_rows_that_fold_by_themselves(options: dict[str, Any]) -> None:
    assert Rows(9, 4, **options).counts(9, range(9)) == [0, 0, 0, 9, 0, 0, 0, 9, 0]


def test_which_there_are_is_said() -> None:
    with pytest.raises(ValueError, match=r"fold: 'rows', expected 'parts' or 'row'"):
        Rows(2, 4, fold="rows")
    tensors = Rows(2, 4).cache.tensors
    module: Any = made("linear_attention", **SMALL).module
    assert module.Cache.wrap(dict(tensors), fold="row").fold == "row"
    assert module.Cache.wrap(dict(tensors)).fold == "parts"
    with pytest.raises(ValueError, match="fold: None"):
        module.Cache.wrap(dict(tensors), fold=None)


def test_rows_that_come_and_go_fold_in_time_and_never_too_many() -> None:
    """A step folds more than its part only where more are full."""
    choose, rows = random.Random(5), Rows(24, 6)
    live: list[int] = []
    for _ in range(60):
        for slot in [slot for slot in live if choose.random() < 0.08]:
            live.remove(slot)
        fresh = [slot for slot in range(24) if slot not in live and choose.random() < 0.3]
        if fresh:
            rows.cache.reset(torch.tensor(fresh))
            live += fresh
        if not live:
            continue
        choose.shuffle(live)
        full = sum(int(rows.cache.cursors[slot]) == 5 for slot in live)
        folded = rows.step(live)
        part = -(-len(live) // 6) if len(live) >= 8 else 0
        assert full <= len(folded) <= max(full, part)
        assert int(rows.cache.cursors.max()) < 6


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention", "mlstm"])
@pytest.mark.parametrize("fold", ["parts", "row"])
def test_the_recurrence_is_what_it_was(name: str, fold: str) -> None:
    pair = twin(name, slots=11)
    pair.cache.fold = fold
    slots = [4, 0, 2, 5, 1, 10, 7, 6, 9]
    pair.admit(slots)
    for step in range(10):
        pair.step(slots, kernel="recurrent" if step == 6 else "decode", dropped=step == 3)
    pair.compare()
    within(pair)
