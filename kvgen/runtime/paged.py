"""A cache of short contexts: rows hold pages of records, and no state until they are long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import check_slots, in_use, is_row, strict, wrong
from kvgen.runtime.cache import Cache
from kvgen.runtime.contents import Saved, check_copied, check_cursor_saved
from kvgen.runtime.launches import launch, strides_of
from kvgen.runtime.numbers import listed, parts_of, unknown
from kvgen.runtime.paged_kernels import PagedKernels
from kvgen.runtime.paged_storage import PAGE


class PagedCache(PagedKernels):
    """A cache whose rows have no state until they are `short_context` tokens long.

    Records lie in pages of PAGE places and states in pages of their own, which rows get from
    `reserve` and give back with `release`. tensors: planes and records have pages in place of
    slots, carried states a ring of places and one for prompts; beside `cursors` and `pending` there
    are `skipped` [slots, table] int32, a bit for every place of each page;
    `pages` [slots, table] and `state_pages` [slots] int32, each row's pages, -1 for none;
    `stateful` [slots] int32, whether the state page holds a state.
    """

    def reset(self, slots: Tensor) -> None:
        """Start rows afresh, without a state and with no records, in every layer; they keep their
        pages."""
        slots = check_slots(self, "slots", slots)
        self.fill(slots, "carried")
        self.clear(slots, ("cursors", "skipped", "pending", "stateful"))

    def load(self, layer: int, slots: Tensor, state: Any) -> None:
        """Write one layer's state; moves no cursor. Other layers' states are initial until then.

        Rows need a page for it: tokens reserved that reach beyond `short_context`.
        state: [n, HV, K, V] float32; where states are carried a dict of it and of all of these by
        name, each [n, *axes].
        """
        super().load(layer, slots, state)

    def load_matrix(self, layer: int, slots: Tensor, matrix: Tensor) -> None:
        check_state_pages(self, slots)
        pages = [self.tensors[name] for name in ("state_pages", "stateful")]
        for held in self.table.of("state"):
            tensor = self.tensors[held.name]
            size = tensor[0, 0].numel()
            grid = (slots.numel(), self.layers, parts_of(size, 1024))
            launch(
                self, "short_fill", grid, tensor, slots, *pages, *self.rows, *tensor.stride()[:2],
                size, held.initial, BLOCK=1024,
            )  # fmt: skip
        planes = [self.tensors[name] for name in self.table.planes]
        launch(
            self, "short_load", self.matrix_grid(slots), matrix, slots, *pages, *planes,
            self.heads, *self.rows, *strides_of(planes, layer), TILE=self.table.tile,
        )  # fmt: skip

    def read_matrix(self, layer: int, slots: Tensor, matrix: Tensor) -> None:
        used = [self.tensors[name] for name in self.table.kernels["short_read"].tensors]
        launch(
            self, "short_read", self.matrix_grid(slots), matrix, slots, *self.books(),
            *self.tables(), *used, *self.bounds(), *strides_of(used, layer), **self.limits(),
            TILE=self.table.tile, num_warps=self.table.warps,
        )  # fmt: skip

    def move_carried(self, name: str, outer: Tensor, layer: int, slots: Tensor, load: bool) -> None:
        tensor = self.tensors[name]
        size = tensor[0, 0, 0].numel()
        grid = (slots.numel(), parts_of(size, 256))
        launch(
            self, "short_carried", grid, tensor, outer, slots, self.cursors, *self.tables(),
            *self.rows, self.width, *strides_of([tensor], layer), size,
            **self.limits(), RING=self.ring, LOAD=load, BLOCK=256,
        )  # fmt: skip

    def copy(self, src: Tensor, dst: Tensor) -> None:
        """Copy rows, at any cursor, in every layer, to rows with as much reserved.

        dst slots are distinct and none is in src.
        """
        src, dst = check_copied(self, src, dst)
        if strict(dst):
            for one, other in zip(listed(src), listed(dst), strict=True):
                if is_row(self, one) and is_row(self, other):
                    check_as_much(self, one, other)
        for name in self.table.planes:
            self.copy_pages(name, src, dst, "state_pages", 1)
        for name in self.table.records:
            self.copy_pages(name, src, dst, "pages", self.width)
        apart = {*self.table.planes, *self.table.records, "pages", "state_pages", "work"}
        self.copy_slots(src, dst, [name for name in self.tensors if name not in apart])
        self.calls.copy(self, src, dst)

    def copy_pages(self, name: str, src: Tensor, dst: Tensor, pages: str, width: int) -> None:
        tensor = self.tensors[name]
        size = tensor[0, 0].numel()
        grid = (src.numel() * width, self.layers, parts_of(size, 1024))
        launch(
            self, "short_copy", grid, tensor, src, dst, self.tensors[pages],
            self.tensors["stateful"], *self.rows, width, *tensor.stride()[:2], size,
            STATES=pages == "state_pages", BLOCK=1024,
        )  # fmt: skip

    def check_sought(self, slot: int, cursor: int) -> None:
        most, now = self.room(slot, 0, 0), int(self.cursors[slot])
        # of carried states a ring has no more than the next window needs
        least = now if self.table.carried else 0
        if not least <= cursor <= most:
            raise wrong("cursors", f"{cursor} for slot {slot}", f"{least} to {most}, its places")

    def saved_shapes(self, rows: int) -> Saved:
        # books first: where a row's carried states lie follows from them
        found: Saved = {}
        for name in ("cursors", "skipped", "stateful"):
            _, *shape = self.tensors[name].shape
            found[name] = (rows, *shape), self.tensors[name].dtype, 1 if shape else None
        for held in self.table.held:
            tensor = self.groups[0][held.name]
            layers, *shape = tensor.shape[1:]
            if held.part == "record":
                found[held.name] = (rows, self.width, layers, *shape), tensor.dtype, 1
            else:
                # of carried states the current one alone: others lie where the window says
                current = shape[1:] if held.part == "carried" else shape
                found[held.name] = (rows, layers, *current), tensor.dtype, None
        return found

    def place(self, name: str, rows: Tensor, slots: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if name not in (*self.table.planes, *self.table.records):
            return super().place(name, rows, slots)
        of_state = name in self.table.planes
        table, count = ("state_pages", self.state_count) if of_state else ("pages", self.page_count)
        real = in_use(self, slots)
        pages = self.tensors[table][torch.where(real, slots, 0).long()]
        if not of_state:
            pages, real = pages[:, : rows.shape[1]], real[:, None]
        return pages.masked_fill(~real, -1).flatten(), (count, 0)

    def move(self, name: str, rows: Tensor, slots: Tensor, save: bool) -> None:
        if name in self.table.carried:
            for layer in range(self.layers):
                current = rows[:, layer].contiguous()
                self.move_carried(name, current, layer, slots, load=not save)
                if save:
                    rows[:, layer] = current
            return
        # pages that another cache has more of hold nothing
        super().move(
            name, rows[:, : self.width] if name in self.table.records else rows, slots, save
        )

    def check_restored(self, slots: Tensor, saved: Mapping[str, Tensor]) -> None:
        if not strict(slots) or not strict(saved["cursors"]):
            return
        cursors, stateful_rows = listed(saved["cursors"]), listed(saved["stateful"])
        places = [PAGE * saved[name].shape[1] for name in self.table.records]
        for row, slot in enumerate(listed(slots)):
            cursor, stateful = cursors[row], stateful_rows[row]
            if not is_row(self, slot):
                continue
            if stateful:
                check_cursor_saved(cursor, "buffer", self.buffer)
            else:
                check_cursor_saved(cursor, "short_context", self.short_context)
            check_cursor_saved(cursor, "places that are saved", min([cursor, *places]))
            folds = stateful or self.short_context - cursor < max(1, self.window)
            pages, needed = len(unknown(self.pages_of[slot])), parts_of(cursor, PAGE)
            if pages < needed or (folds and self.state_of[slot] < 0):
                came = f"slot {slot} has {pages} pages and {int(self.state_of[slot] >= 0)} state"
                raise wrong("slots", came, f"{needed} and {int(folds)}: `reserve` first")


Cache.paged = PagedCache


def check_state_pages(cache: PagedCache, slots: Tensor) -> None:
    if strict(slots):
        bare = [slot for slot in listed(slots) if is_row(cache, slot) and cache.state_of[slot] < 0]
        if bare:
            least = cache.short_context - max(1, cache.window) + 1
            came = f"slot {bare[0]} has no page for a state"
            raise wrong("slots", came, f"`reserve` of {least} tokens or more")


def check_as_much(cache: PagedCache, src: int, dst: int) -> None:
    """Whether a row has as much reserved as the one that is copied to it."""
    (pages, state), (needed, needs_state) = (
        (len(cache.pages_of[slot]), cache.state_of[slot] >= 0) for slot in (dst, src)
    )
    if pages < needed or (needs_state and not state):
        came = f"slot {dst} has {pages} pages and {int(state)} state"
        raise wrong("dst", came, f"{needed} and {int(needs_state)} as slot {src} has")
