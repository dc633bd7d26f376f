"""Random schedules of rows that are short at first, beside the recurrence in float64: requests come
and go, their prompts are taken in, tokens decoded and drafts verified."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from twins import within_rounding

from kvgen.checking.paged import PagedTwin
from kvgen.checking.twin import Made
from kvgen.checking.windows import Extend, Server

KINDS = ("decode", "chain", "tree", "prompt")


class Requests(PagedTwin):
    """A twin whose rows give back what they hold."""

    def release(self, slots: Sequence[int]) -> None:
        self.cache.release(slots)
        self.used -= set(slots)
        for name in self._of_slots():
            self.kept[name][list(slots)] = self.cache.tensors[name][list(slots)]


def part(made: Made, width: int, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The module with tiles of at most so many value channels, several of which share a head."""
    configs = made.module.CONFIGS["default"]
    for kernel, batches in configs.items():
        narrow = {n: {**each, "TILE": min(each["TILE"], width)} for n, each in batches.items()}
        monkeypatch.setitem(configs, kernel, narrow)
    return made


def schedule(
    made: Made, device: str, seed: int, steps: int, window: int, context: int, **options: Any
) -> None:
    """Some steps of up to `slots` - 2 requests, after which all that was found is within bounds."""
    draw = random.Random(seed)
    pair = Requests(made, device, context=context, window=window, seed=seed, **options)
    slots = range(pair.cache.slots)
    live: list[int] = []
    server = Server(pair, draw, KINDS, (1, window), longest=context // 2)
    for step in range(steps):
        gone = [slot for slot in live if draw.random() < 0.15]
        live = [slot for slot in live if slot not in gone]
        pair.release(gone)
        room = [slot for slot in slots if slot not in live]
        come = draw.sample(room, draw.randint(not live, len(room) - 2))
        if come:
            pair.reset(come)
            longest = 2 * (window + 1)
            pair.together(Extend(pair, come, [draw.randint(1, longest) for _ in come], longest))
        live += come
        server.step(live)
        if step % 3 == 2:
            pair.compare()
    pair.compare()
    within_rounding(pair)
