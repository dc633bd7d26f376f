"""What a cache of short contexts is made of: tensors, and bytes of a row, a page and a state."""

from __future__ import annotations

from typing import Any

import torch

from kvgen.runtime.arguments import check_integer, wrong
from kvgen.runtime.cache import Cache
from kvgen.runtime.device import tuned_places
from kvgen.runtime.numbers import parts_of
from kvgen.runtime.storage import Shapes, check_sizes
from kvgen.runtime.table import Table

# records in a page, as many as tensor cores take at once
PAGE = 16

SHORT_BOOKS = ("cursors", "skipped", "pending", "pages", "state_pages", "stateful", "work")


class PagedStorage(Cache):
    """Its shapes, before it is made, and its sizes."""

    @classmethod
    def paged_plan(
        cls, slots: int, layers: int, heads: int, device: torch.device | str, dtype: torch.dtype,
        buffer: int | None, window: int, short_context: int, pages: int | None, states: int | None,
    ) -> tuple[Shapes, dict[str, Any]]:  # fmt: skip
        most = cls.short_table().most_places
        check_sizes(
            cls.table, most, dtype, slots=slots, layers=layers, heads=heads,
            buffer=most if buffer is None else buffer, window=window,
        )  # fmt: skip
        buffer = cls.places(device, window) if buffer is None else buffer
        states = slots if states is None else states
        check_short(short_context, window, 1 if pages is None else pages, states)
        pages = slots * table_width(short_context, buffer) if pages is None else pages
        shapes = cls.paged_shapes(
            slots, layers, heads, buffer, dtype, window, short_context, pages, states
        )
        return shapes, {"window": window, "short_context": short_context, "buffer": buffer}

    @classmethod
    def blank(cls, name: str) -> int:
        return -1 if name in ("pages", "state_pages") else 0

    @classmethod
    def short_table(cls) -> Table:
        return cls.table.short or cls.table

    @classmethod
    def places(cls, device: torch.device | str, window: int) -> int:
        """Records of a row with a state; what is tuned holds where other caches have the same."""
        table = cls.short_table()
        tuned = tuned_places(table, device) if table.short_buffer is None else table.short_buffer
        return max(tuned, window)

    @classmethod
    def paged_shapes(
        cls, slots: int, layers: int, heads: int, buffer: int, dtype: torch.dtype, window: int,
        short_context: int, pages: int, states: int,
    ) -> Shapes:  # fmt: skip
        """Shape and dtype of every tensor of a paged cache."""
        table, width = cls.short_table(), table_width(short_context, buffer)
        # the carried value after p records lies at p modulo the ring; behind that there is the one
        # after a prompt, until its step ends
        ring = max(1, window) + 2
        kinds = {"state": (states, 0), "record": (pages, PAGE), "carried": (slots, ring)}
        found: Shapes = {}
        for held in table.held:
            rows, places = kinds[held.part]
            shape = (rows, layers, *table.extents(held.axes, heads, places))
            found[held.name] = shape, held.dtype or dtype
        return found | {
            "cursors": ((slots,), torch.int32),
            "skipped": ((slots, width), torch.int32),
            "pending": ((slots,), torch.int32),
            "pages": ((slots, width), torch.int32),
            "state_pages": ((slots,), torch.int32),
            "stateful": ((slots,), torch.int32),
            "work": ((1 + 4 * slots,), torch.int64),
        }

    @classmethod
    def needed(cls) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (*(held.name for held in cls.short_table().held), "cursors"), SHORT_BOOKS

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of device memory that one slot takes beside its pages, all layers together."""
        beside = {*self.table.planes, *self.table.records, "work"}
        return sum(self.tensors[name][0].nbytes for name in self.tensors if name not in beside)

    @property
    def bytes_per_page(self) -> int:
        """Bytes of PAGE records of one row, all layers together."""
        return sum(self.tensors[name][0].nbytes for name in self.table.records)

    @property
    def bytes_per_state(self) -> int:
        """Bytes of one row's state, all layers together."""
        return sum(self.tensors[name][0].nbytes for name in self.table.planes)


def table_width(short_context: int, buffer: int) -> int:
    """The most pages of records that one row can hold."""
    return parts_of(max(short_context, buffer), PAGE)


def check_short(short_context: Any, window: int, pages: Any, states: Any) -> None:
    least = max(1, window)
    if not isinstance(short_context, int) or short_context < least:
        raise wrong("short_context", repr(short_context), f"0, or an integer >= {least}")
    check_integer("pages", pages, 1)
    check_integer("states", states, 1)
