"""The cache: the state, buffer and cursor of every request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from kvgen.runtime.arguments import check_memory, describe, wrong
from kvgen.runtime.contents import Contents
from kvgen.runtime.device import tuned_places
from kvgen.runtime.memory import check_apart
from kvgen.runtime.numbers import unknown
from kvgen.runtime.storage import BOOKS, Shapes, check_options, check_sizes


class Allocation(NamedTuple):
    """A tensor that a cache would have."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


class Cache(Contents):
    """The state, buffer and cursor of every request, for all layers of one pipeline rank.

    tensors: every allocation by name, slots first, then layers, `cursors` [slots] int32, the
    records each row holds, which the caller may read or set, and `skipped` [slots] int64, a bit for
    every place below the cursor whose record counts for nothing.
    Calls on one cache belong on one stream, or in an order that the caller's events fix: its
    cursors and its list of rows to fold are shared.
    """

    # the class of caches with short contexts, where the module has them
    paged: type[Cache] | None = None

    @classmethod
    def empty(
        cls,
        slots: int,
        layers: int = 1,
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.bfloat16,
        buffer: int | None = None,
        window: int = 0,
        short_context: int = 0,
        heads: int | None = None,
        pages: int | None = None,
        states: int | None = None,
        first_slot: int = 0,
        invariant: bool = False,
        fold: str = "parts",
    ) -> Cache:
        """Allocate a cache; every slot is fresh. With device="meta" it has shapes alone, and takes
        no calls.

        slots: requests it can hold. layers: layers that share the cursors. dtype: of inputs and,
        with `records: input`, of the records. buffer: records a row can hold (None: as BUFFERS
        says). window: most tokens one step may add; a row folds when fewer than max(1, window)
        places are left. heads: value heads on this rank (None: those of the spec).
        short_context: with N > 0 rows have no state until they are N tokens long, and hold what
        `reserve` gives them: of so many pages of records and states (None: enough for all slots).
        first_slot: slots below it are padding, as negative ones are. invariant: a row's bits depend
        on neither the batch nor its neighbours nor its slot. fold: "parts", a part of the rows in
        every step of single tokens, so that rows that came together, 8 or more, do not all fold in
        one; "row", when it is full, whatever the others do, as with `invariant` and with
        `short_context`.
        """
        kind, shapes, options = cls.planned(
            slots, layers, device=device, dtype=dtype, buffer=buffer, window=window,
            short_context=short_context, heads=heads, pages=pages, states=states,
            first_slot=first_slot, invariant=invariant, fold=fold,
        )  # fmt: skip
        tensors = {
            name: torch.full(shape, kind.blank(name), dtype=each, device=device)
            for name, (shape, each) in shapes.items()
        }
        cache: Cache = kind(tensors, **options)
        cache.dtype = dtype
        if cache.device.type != "meta":
            cache.reset(cache.every_slot)
        return cache

    @classmethod
    def layout(cls, slots: int, layers: int = 1, **options: Any) -> dict[str, Allocation]:
        """What `empty` would allocate with the same arguments: shape, dtype and bytes by name.

        Nothing is allocated. device: "meta" unless it is given; where its buffer is tuned, `buffer`
        follows the device.
        """
        _, shapes, _ = cls.planned(slots, layers, **options)
        return {
            name: Allocation(shape, dtype, math.prod(shape) * dtype.itemsize)
            for name, (shape, dtype) in shapes.items()
        }

    @classmethod
    def planned(
        cls, slots: int, layers: int, *, device: torch.device | str = "meta",
        dtype: torch.dtype = torch.bfloat16, buffer: int | None = None, window: int = 0,
        short_context: int = 0, heads: int | None = None, pages: int | None = None,
        states: int | None = None, first_slot: int = 0, invariant: bool = False,
        fold: str = "parts",
    ) -> tuple[Any, Shapes, dict[str, Any]]:  # fmt: skip
        """The class of a cache, its tensors, and what else it is made with."""
        table = cls.table
        options = {"first_slot": first_slot, "invariant": invariant, "fold": fold}
        check_options(slots, first_slot, invariant, fold)
        try:
            torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise wrong("device", repr(device), "a device of torch") from error
        heads = table.sizes["HV"] if heads is None else heads
        if short_context != 0:
            kind = cls.paged_class(short_context)
            shapes, sizes = kind.paged_plan(
                slots, layers, heads, device, dtype, buffer, window, short_context, pages, states
            )
            return kind, shapes, options | sizes
        for name, count in (("pages", pages), ("states", states)):
            if count is not None:
                raise wrong(name, repr(count), "None without short_context")
        check_sizes(
            table, table.most_places, dtype, slots=slots, layers=layers, heads=heads,
            buffer=table.most_places if buffer is None else buffer, window=window,
        )  # fmt: skip
        buffer = max(tuned_places(table, device), window) if buffer is None else buffer
        shapes = cls.shapes(slots, layers, heads, buffer, dtype)
        return Cache, shapes, options | {"window": window}

    @classmethod
    def blank(cls, name: str) -> int:
        """What a tensor holds to begin with."""
        return 0

    @classmethod
    def paged_class(cls, short_context: object) -> Any:
        if cls.paged is None:
            raise wrong("short_context", repr(short_context), f"0, as {cls.table.without_short}")
        return cls.paged

    @classmethod
    def wrap(
        cls,
        tensors: Mapping[str, Any],
        window: int = 0,
        short_context: int = 0,
        buffer: int | None = None,
        first_slot: int = 0,
        invariant: bool = False,
        fold: str = "parts",
    ) -> Cache:
        """Adopt a server's memory: the tensors of another cache's `tensors`, with any slot stride.

        They may lie in each other's gaps, as in a server's pages, but no two elements share an
        address. States, records and carried states may be lists, with one tensor [slots, …] for
        each layer. `cursors`, `skipped`, `pending` and `work` are allocated where they are missing.
        Nothing is changed. With `short_context` all books but `cursors` may be missing; which pages
        rows hold is read from the tables, and `buffer` is what the cache had, as the tensors do not
        tell. first_slot, invariant, fold: as for `empty`.
        """
        if not isinstance(unknown(tensors), Mapping):
            raise wrong("tensors", describe(tensors), "a mapping of tensors by name")
        kind: Any = cls.paged_class(short_context) if short_context != 0 else Cache
        needed, books = kind.needed()
        missing = [name for name in needed if name not in tensors]
        if missing:
            raise wrong("tensors", f"{', '.join(missing)} missing", ", ".join(needed))
        known = tuple(dict.fromkeys((*needed, *books)))
        strange = [name for name in tensors if name not in known]
        if strange:
            raise wrong("tensors", f"{', '.join(map(str, strange))} unknown", ", ".join(known))
        apart = any(isinstance(tensors[name], (list, tuple)) for name in needed)
        if apart and short_context:
            raise wrong("short_context", short_context, "0 where each layer has tensors of its own")
        paged = {"short_context": short_context, "buffer": buffer} if short_context != 0 else {}
        cache = kind(
            tensors, window, first_slot=first_slot, invariant=invariant, fold=fold, **paged
        )  # fmt: skip
        if buffer not in (None, cache.buffer):
            raise wrong("buffer", repr(buffer), f"None or {cache.buffer}, the records' places")
        check_apart(cache.named())
        return cache

    @classmethod
    def needed(cls) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tensors that `wrap` needs, and its books."""
        return tuple(held.name for held in cls.table.held), BOOKS


def check_cache(cache: Any) -> None:
    if not isinstance(cache, Cache):
        raise wrong("cache", describe(cache), "a Cache of this module")
    check_memory(cache)
