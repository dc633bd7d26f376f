"""Which pages the rows of a cache of short contexts hold, of records and of states."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import captured, check_integer, describe, wrong
from kvgen.runtime.numbers import listed, parts_of
from kvgen.runtime.paged_storage import (
    PAGE,
    SHORT_BOOKS,
    PagedStorage,
    check_short,
    table_width,
)


class Pages(PagedStorage):
    """Pages by row, in tables on the device and on the host, and those that are free."""

    def __init__(
        self, tensors: Mapping[str, Any], window: int, short_context: int,
        buffer: int | None = None, first_slot: int = 0, invariant: bool = False,
        fold: str = "row",
    ) -> None:  # fmt: skip
        self.table = self.table.short or self.table
        self.size_up(tensors)
        self.begin_at(first_slot, invariant, fold)
        cursors: Any = self.tensors["cursors"]
        if not isinstance(cursors, Tensor) or cursors.dim() != 1:
            raise wrong("cursors", describe(cursors), f"[slots] torch.int32 on {self.device}")
        self.state_count, self.slots = self.slots, cursors.numel()
        self.page_count = self.tensors[self.table.of("record")[0].name].shape[0]
        self.buffer = self.places(self.device, window) if buffer is None else buffer
        self.window, self.short_context = window, short_context
        self.check_sizes(self.table.most_places)
        check_short(short_context, window, self.page_count, self.state_count)
        self.width, self.ring = table_width(short_context, self.buffer), max(1, window) + 1
        sizes = (self.slots, self.layers, self.heads, self.buffer, self.dtype)
        more = (window, short_context, self.page_count, self.state_count)
        shapes = self.paged_shapes(*sizes, *more)
        for name in ("pages", "state_pages"):
            if name not in self.tensors:
                shape, dtype = shapes[name]
                self.tensors[name] = torch.full(shape, -1, dtype=dtype, device=self.device)
        self.prepare(shapes, SHORT_BOOKS)
        self.take_over()

    def take_over(self) -> None:
        """Read from the tables which pages are held; a row's tokens are then as many as fit."""
        pages: list[list[int]] = [[]] * self.slots
        states = [-1] * self.slots
        if self.device.type != "meta":
            pages, states = (listed(self.tensors[name]) for name in ("pages", "state_pages"))
        # a row's pages end where its table has none
        self.pages_of: list[list[int]] = [
            row[: next((i for i, page in enumerate(row) if page < 0), None)] for row in pages
        ]
        for slot, (row, held) in enumerate(zip(pages, self.pages_of, strict=True)):
            if any(page >= 0 for page in row[len(held) :]):
                raise wrong("pages", f"{row} for slot {slot}", "its pages first, then -1")
        self.state_of = [max(page, -1) for page in states]
        self.reserved = [len(held) * PAGE for held in self.pages_of]
        used = [page for held in self.pages_of for page in held]
        self.free_pages = left_of("pages", used, self.page_count)
        used = [page for page in states if page >= 0]
        self.free_states = left_of("state_pages", used, self.state_count)

    @property
    def free(self) -> dict[str, int]:
        """How many pages of records, and how many states, no row holds."""
        return {"pages": len(self.free_pages), "states": len(self.free_states)}

    def reserve(self, slots: Any, tokens: int) -> None:
        """Make room for `tokens` more tokens in each row; between steps, outside CUDA graphs.

        slots: integers on the host, distinct, negative for none. tokens: counted together since
        the last `release`. A row that may then fold gets a page for its state as well.
        MemoryError, and nothing is changed, where too few pages are free.
        """
        rows = check_host_slots(self, slots)
        check_integer("tokens", tokens, 1)
        # the last step may add as many drafts as a window has
        step = max(1, self.window)
        totals = {slot: self.reserved[slot] + tokens for slot in rows}
        most = max(self.short_context, self.buffer)
        pages = {
            slot: max(0, parts_of(min(total + step - 1, most), PAGE) - len(self.pages_of[slot]))
            for slot, total in totals.items()
        }
        states = {
            slot
            for slot, total in totals.items()
            if total > self.short_context - step and self.state_of[slot] < 0
        }
        free, needed = self.free, {"pages": sum(pages.values()), "states": len(states)}
        if any(needed[kind] > free[kind] for kind in free):
            found = ", ".join(f"{needed[kind]} {kind} needed, {free[kind]} free" for kind in free)
            raise MemoryError(
                f"reserve: {found}: release rows first, or allocate with more pages or states"
            )
        free_pages, free_states = list(self.free_pages), list(self.free_states)
        given: dict[int, tuple[list[int], int]] = {}
        for slot in rows:
            if pages[slot] or slot in states:
                held = self.pages_of[slot] + [free_pages.pop() for _ in range(pages[slot])]
                state = free_states.pop() if slot in states else self.state_of[slot]
                given[slot] = held, state
        self.write_tables(given)
        self.free_pages, self.free_states = free_pages, free_states
        for slot in rows:
            self.reserved[slot] = totals[slot]

    def release(self, slots: Any) -> None:
        """Give back all that the rows hold; they are empty then. slots: as for `reserve`."""
        rows = check_host_slots(self, slots)
        if not rows:
            return
        pages = [page for slot in rows for page in reversed(self.pages_of[slot])]
        states = [self.state_of[slot] for slot in rows if self.state_of[slot] >= 0]
        emptied = ("cursors", "skipped", "pending", "stateful")
        self.write_tables({slot: ([], -1) for slot in rows}, emptied=emptied)
        self.free_pages += pages
        self.free_states += states
        for slot in rows:
            self.reserved[slot] = 0
        self.calls.drop(rows)

    def write_tables(
        self, rows: Mapping[int, tuple[list[int], int]], emptied: Iterable[str] = ()
    ) -> None:
        """Give rows their pages and states, on the device, in the order of the stream, and on the
        host: both or none.

        rows: slot -> (its pages, its state's). emptied: books in which the rows are 0 from then on.
        """
        if not rows:
            return
        at = self.sent(list(rows), torch.int64)
        filled = [held + [-1] * (self.width - len(held)) for held, _ in rows.values()]
        pages = self.sent(filled, torch.int32)
        states = self.sent([state for _, state in rows.values()], torch.int32)
        # the one mode in which tensors that were made in it may be written to
        with torch.inference_mode():
            self.tensors["pages"].index_copy_(0, at, pages)
            self.tensors["state_pages"].index_copy_(0, at, states)
            for name in emptied:
                self.tensors[name].index_fill_(0, at, 0)
        for slot, (held, state) in rows.items():
            self.pages_of[slot], self.state_of[slot] = held, state

    def sent(self, values: Any, dtype: torch.dtype) -> Tensor:
        """Numbers of the host on the device, for which the host does not wait."""
        pinned = self.device.type == "cuda"
        held = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=pinned)
        return held.to(self.device, non_blocking=True)

    def room(self, slot: int, cursor: int, prompt: int) -> int:
        """How many more tokens a row has places for; a prompt may go into its state instead."""
        stateful = self.state_of[slot] >= 0 and bool(self.tensors["stateful"][slot])
        most = self.buffer if stateful else self.short_context
        places = min(most, len(self.pages_of[slot]) * PAGE)
        held = min(max(cursor, 0), places)
        long = stateful or held + prompt > self.short_context
        return prompt if self.state_of[slot] >= 0 and prompt and long else places - held


def left_of(name: str, held: list[int], size: int) -> list[int]:
    """The pages that no row holds, the first of them last."""
    used = set(held)
    if len(used) != len(held) or (used and max(used) >= size):
        raise wrong(name, sorted(held), f"distinct numbers below {size}")
    return [page for page in reversed(range(size)) if page not in used]


def check_host_slots(cache: Pages, slots: Any) -> list[int]:
    """The slots of `reserve` and `release`, which the host must know; no graph has them."""
    if captured(cache.cursors):
        came = "given while a graph is captured"
        raise wrong("slots", came, "`reserve` and `release` outside of graphs")
    expected = f"distinct integers on the host, less than {cache.slots} slots"
    if isinstance(slots, Tensor):
        if slots.device.type != "cpu" or slots.dim() != 1:
            raise wrong("slots", describe(slots), expected)
        slots = listed(slots)
    try:
        given = list(slots)
    except TypeError:
        raise wrong("slots", describe(slots), expected) from None
    for slot in given:
        if not isinstance(slot, int) or slot >= cache.slots:
            raise wrong("slots", repr(slot), expected)
    used = [slot for slot in given if slot >= cache.first_slot]
    if len(set(used)) != len(used):
        raise wrong("slots", given, expected)
    return used
