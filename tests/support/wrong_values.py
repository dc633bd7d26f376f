"""A schedule in which one row's values on the device are wrong, beside the same without them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from twins import snapshot

from kvgen.checking.twin import Twin, bits
from kvgen.checking.windows import accepted, tree

# what is wrong; books: all that the cache keeps of a row beside its records
WRONG = ("parents", "path", "counts", "lengths", "slots", "cursors", "books")
WILD = (-(2**31), -100_000, -2, -1, 0, 1, 2, 3, 4, 5, 16, 64, 99, 100_000, 2**31 - 1)

ROWS = (3, 1, 4)
TOKENS = 4
SPOILT = 1


def spoilt(new: Callable[[], Twin], wrong: str, steps: int) -> None:
    """Assert that wrong values of one row change no other row's outputs and no other slot's memory;
    new: makes the same twin each time."""
    runs = (Schedule(new(), None).run(steps), Schedule(new(), wrong).run(steps))
    for place, (right, found) in enumerate(zip(*runs, strict=True)):
        for name, wanted in right.items():
            assert torch.equal(found[name], wanted), (place, name)


class Schedule:
    """Random steps of three rows, of which one has wrong values; the same seed draws the same."""

    def __init__(self, pair: Twin, wrong: str | None, seed: int = 0) -> None:
        self.pair, self.wrong = pair, wrong
        self.draw, self.wild = random.Random(seed), random.Random(seed)
        slots = range(pair.cache.slots)
        pair.admit(slots)
        pair.step(slots)
        self.row = snapshot(pair, [ROWS[SPOILT]])

    def run(self, steps: int) -> Iterator[dict[str, torch.Tensor]]:
        """What must stay the same, after every call."""
        for step in range(steps):
            yield from self.step(("tree", "chain", "prompt", "decode")[step % 4])
            if step % 3 == 2:
                self.pair.module.flush(self.pair.cache, self.slots())
                yield self.others()

    def step(self, kind: str) -> Iterator[dict[str, torch.Tensor]]:
        pair, draw, rows = self.pair, self.draw, range(len(ROWS))
        module, cache, slots = pair.module, pair.cache, self.slots()
        trees = [tree(draw, TOKENS) for _ in rows]
        paths = [[*accepted(draw, each), *[-1] * TOKENS][:TOKENS] for each in trees]
        counts = [draw.randint(0, TOKENS) for _ in rows]
        force = torch.tensor([draw.random() < 0.3 for _ in rows], device=pair.device)
        call, given, ended = module.decode, {}, {}
        match kind:
            case "tree":
                call, given = module.verify, {"parents": self.values(trees, "parents")}
                ended = {"path": self.values(paths, "path")}
            case "chain":
                call, ended = module.verify, {"counts": self.values(counts, "counts")}
            case "prompt":
                call, given = module.extend, {"lengths": self.values(counts, "lengths")}
                ended = {"counts": self.values(counts, "counts")}
        for layer in range(pair.layers):
            self.spoil_books()
            inputs = pair.inputs(ROWS, None if kind == "decode" else TOKENS)
            out = call(cache, layer, slots, **inputs, **pair.params[layer], **given)
            yield self.others(out)
        self.spoil_books()
        end = module.accept if ended else module.advance
        end(cache, slots, **ended, force=force)
        yield self.others()

    def slots(self) -> torch.Tensor:
        given = list(ROWS)
        if self.wrong == "slots":
            missing = [each for each in WILD if not 0 <= each < self.pair.cache.slots]
            given[SPOILT] = self.wild.choice(missing)
        return self.pair.ids(given)

    def values(self, values: list[Any], what: str) -> torch.Tensor:
        """The values, of which those of one row may be anything."""
        given = torch.tensor(values, dtype=torch.int32)
        if what == self.wrong:
            row = given[SPOILT]
            anything = [self.wild.choice(WILD) for _ in range(row.numel())]
            row.copy_(torch.tensor(anything, dtype=torch.int32).reshape(row.shape))
        return given.to(self.pair.device)

    def spoil_books(self) -> None:
        names = {"cursors": ["cursors"], "books": ["cursors", "pending", "skipped"]}
        for name in names.get(self.wrong or "", []):
            self.pair.cache.tensors[name][ROWS[SPOILT]] = self.wild.choice(WILD)

    def others(self, out: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The memory of all other slots, and the other rows' outputs."""
        pair = self.pair
        found = snapshot(pair, [s for s in range(pair.cache.slots) if s != ROWS[SPOILT]])
        if out is not None:
            found["out"] = bits(out[[row for row in range(len(ROWS)) if row != SPOILT]]).clone()
        if self.wrong == "slots":
            # a slot that does not exist is a padding row
            for name, kept in snapshot(pair, [ROWS[SPOILT]]).items():
                assert torch.equal(kept, self.row[name]), name
            assert out is None or not out[SPOILT].any()
        return found
