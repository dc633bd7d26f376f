"""A cache of short contexts: rows hold pages of records, and no state until they are long."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import (
    captured,
    check_integer,
    check_slots,
    describe,
    in_use,
    is_row,
    strict,
    wrong,
)
from kvgen.runtime.cache import Cache
from kvgen.runtime.contents import Saved, bytes_of, check_copied, check_cursor_saved
from kvgen.runtime.device import tuned_places
from kvgen.runtime.kernels import ending, marks_of, tree_of
from kvgen.runtime.launches import (
    Given,
    configured,
    launch,
    launch_tokens,
    parts_grid,
    strides_of,
    tiles_grid,
    value_tiles,
)
from kvgen.runtime.numbers import listed, parts_of, power_of_two, unknown
from kvgen.runtime.storage import Shapes, check_sizes
from kvgen.runtime.table import Table

# records in a page, as many as tensor cores take at once
PAGE = 16
# the mark of a row whose prompt of n tokens stays short: -n - PROMPT
PROMPT = 1 << 20

SHORT_BOOKS = ("cursors", "skipped", "pending", "pages", "state_pages", "stateful", "work")


class PagedCache(Cache):
    """A cache whose rows have no state until they are `short_context` tokens long.

    Records lie in pages of PAGE places and states in pages of their own, which rows get from
    `reserve` and give back with `release`. tensors: planes and records have pages in place of
    slots, carried states a ring of places and one for prompts; beside `cursors` and `pending` there
    are `skipped` [slots, table] int32, a bit for every place of each page;
    `pages` [slots, table] and `state_pages` [slots] int32, each row's pages, -1 for none;
    `stateful` [slots] int32, whether the state page holds a state.
    """

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
        return sum(bytes_of(self.tensors[name]) for name in self.tensors if name not in beside)

    @property
    def bytes_per_page(self) -> int:
        """Bytes of PAGE records of one row, all layers together."""
        return sum(bytes_of(self.tensors[name]) for name in self.table.records)

    @property
    def bytes_per_state(self) -> int:
        """Bytes of one row's state, all layers together."""
        return sum(bytes_of(self.tensors[name]) for name in self.table.planes)

    @property
    def free(self) -> dict[str, int]:
        """How many pages of records, and how many states, no row holds."""
        return {"pages": len(self.free_pages), "states": len(self.free_states)}

    # -- what rows hold

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

    # -- states

    def reset(self, slots: Tensor) -> None:
        """Start rows afresh, without a state and with no records, in every layer; they keep their
        pages."""
        slots = check_slots(self, "slots", slots)
        self.fill(slots, "carried")
        self.clear(slots, ("cursors", "skipped", "pending", "stateful"))

    def load(self, layer: int, slots: Tensor, state: Any) -> None:
        """Write one layer's state; moves no cursor. Other layers' states are initial until then.

        Rows need a page for it: tokens reserved that reach beyond `short_context`.
        state: [n, HV, K, V] float32, or a dict of it and the carried states by name, each
        [n, *axes].
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
        for row, slot in enumerate(listed(slots)):
            cursor, stateful = cursors[row], stateful_rows[row]
            if not is_row(self, slot):
                continue
            if stateful:
                check_cursor_saved(cursor, "buffer", self.buffer)
            else:
                check_cursor_saved(cursor, "short_context", self.short_context)
            folds = stateful or self.short_context - cursor < max(1, self.window)
            pages, needed = len(unknown(self.pages_of[slot])), parts_of(cursor, PAGE)
            if pages < needed or (folds and self.state_of[slot] < 0):
                came = f"slot {slot} has {pages} pages and {int(self.state_of[slot] >= 0)} state"
                raise wrong("slots", came, f"{needed} and {int(folds)}: `reserve` first")

    def copy_pages(self, name: str, src: Tensor, dst: Tensor, pages: str, width: int) -> None:
        tensor = self.tensors[name]
        size = tensor[0, 0].numel()
        grid = (src.numel() * width, self.layers, parts_of(size, 1024))
        launch(
            self, "short_copy", grid, tensor, src, dst, self.tensors[pages],
            self.tensors["stateful"], *self.rows, width, *tensor.stride()[:2], size,
            STATES=pages == "state_pages", BLOCK=1024,
        )  # fmt: skip

    # -- what a step needs of a cache

    def bounds(self) -> list[int]:
        return [*super().bounds(), self.width]

    def tables(self) -> list[Tensor]:
        """Which pages are whose, as kernels get it."""
        return [self.tensors[name] for name in ("pages", "state_pages", "stateful")]

    def limits(self) -> dict[str, Any]:
        """How many places rows have, as kernels get it."""
        width = power_of_two(self.width)
        return {
            "CONTEXT": self.short_context, "BUFFER": self.buffer, "PLACES": PAGE, "TABLE": width,
        }  # fmt: skip

    def in_place(self, pending: int) -> str | None:
        return "extend" if pending > 0 or pending <= -PROMPT else None

    def check_room(self, slots: Tensor, tokens: int, lengths: Tensor | None = None) -> None:
        """Whether rows have places for a call's records: `tokens` each, or a prompt's lengths."""
        if not strict(slots):
            return
        cursors = listed(self.cursors)
        prompts = [0] * slots.numel() if lengths is None else listed(lengths)
        for slot, prompt in zip(listed(slots), prompts, strict=True):
            if is_row(self, slot):
                left = self.room(slot, cursors[slot], prompt)
                wanted = tokens if lengths is None else prompt
                if left < wanted:
                    came = f"slot {slot} has room for {left} tokens"
                    raise wrong("slots", came, f"{wanted}: `reserve` first")

    def most_kept(self, slots: Tensor, used: Tensor) -> tuple[Tensor, Tensor | None]:
        most, _ = super().most_kept(slots, used)
        # the records of a prompt are kept whole
        left = -self.tensors["pending"][torch.where(used, slots, 0).long()] - PROMPT
        return torch.where(left >= 0, left, most), left >= 0

    def run_decode(self, layer: int, slots: Tensor, given: Given, out: Tensor) -> None:
        table, signature = self.table, self.table.kernels["short_decode"]
        config = configured(self, "short", slots.numel(), given)
        parts, units = value_tiles(table, config), self.heads
        tiles: dict[str, Any] = {}
        if signature.grouped:
            each = math.gcd(table.ratio, config["TILES"])
            parts, units, tiles = parts * table.ratio // each, units // table.ratio, {"TILES": each}
        launch_tokens(
            self, "short_decode", (slots.numel() * units * parts,), layer, slots, given, out,
            books=[self.tensors["pending"], *self.tables()], **self.limits(), RING=self.ring,
            TILE=config["TILE"], **tiles, PAGES=config["PAGES"], STAGES=config["STAGES"],
            num_warps=config["num_warps"],
        )  # fmt: skip

    def run_verify(
        self, layer: int, slots: Tensor, parents: Tensor | None, given: Given, out: Tensor
    ) -> None:
        tokens = out.shape[1]
        config = configured(self, "verify", slots.numel(), given)
        grid, tiles = parts_grid(self, self.table.kernels["short_verify"], slots.numel(), config)
        tree, strides = tree_of(slots, parents)
        launch_tokens(
            self, "short_verify", grid, layer, slots, given, out,
            books=[self.tensors["pending"], *self.tables(), tree], behind=strides,
            **self.limits(), RING=self.ring, WINDOW=tokens, TOKENS=power_of_two(tokens),
            TREE=parents is not None, TILE=config["TILE"], TILES=tiles, STAGES=config["STAGES"],
            num_warps=self.window_warps(config, tokens),
        )  # fmt: skip

    def run_extend(
        self, layer: int, slots: Tensor, lengths: Tensor, given: Given, out: Tensor,
        packed: bool = False,
    ) -> None:  # fmt: skip
        config = configured(self, "extend", slots.numel(), given)
        launch_tokens(
            self, "short_extend", tiles_grid(self, slots.numel(), config), layer, slots, given,
            out, books=[self.tensors["pending"], *self.tables(), lengths],
            before=[out.shape[0 if packed else 1]], **self.limits(), RING=self.ring,
            TOKENS=config["TOKENS"], TILE=config["TILE"], STAGES=config["STAGES"],
            num_warps=config["num_warps"], packed=packed, PACKED=packed,
        )  # fmt: skip

    def run_advance(
        self, slots: Tensor, force: Tensor | None, keep: str, kept: Tensor | None = None,
        late: bool = False,
    ) -> None:  # fmt: skip
        work, skipped, limits = self.tensors["work"], self.tensors["skipped"], self.limits()
        # as many rows as threads, unless each has too many pages
        block = max(32, min(256, 4096 // limits["TABLE"]))
        launch(
            self, "short_advance", (1,), slots, *self.books(), self.tensors["pending"],
            *self.tables(), *marks_of(slots, force, kept), work, slots.numel(), *self.rows,
            self.width, max(1, self.window), **limits, **ending(force, keep, kept, late),
            BLOCK=block, num_warps=min(4, block // 32),
        )  # fmt: skip
        config, programs = self.fold_grid(slots)
        used = [self.tensors[name] for name in self.table.kernels["short_fold"].tensors]
        ring: dict[str, Any] = {"RING": self.ring} if self.table.carried else {}
        launch(
            self, "short_fold", (programs,), work, skipped, *self.tables()[:2], *used, self.layers,
            self.heads, self.width, *strides_of(used, 1), PLACES=PAGE, **ring, TILE=config["TILE"],
            STAGES=config["STAGES"], num_warps=config["num_warps"],
        )  # fmt: skip


Cache.paged = PagedCache


def table_width(short_context: int, buffer: int) -> int:
    """The most pages of records that one row can hold."""
    return parts_of(max(short_context, buffer), PAGE)


def left_of(name: str, held: list[int], size: int) -> list[int]:
    """The pages that no row holds, the first of them last."""
    used = set(held)
    if len(used) != len(held) or (used and max(used) >= size):
        raise wrong(name, sorted(held), f"distinct numbers below {size}")
    return [page for page in reversed(range(size)) if page not in used]


def check_short(short_context: Any, window: int, pages: Any, states: Any) -> None:
    least = max(1, window)
    if not isinstance(short_context, int) or short_context < least:
        raise wrong("short_context", repr(short_context), f"0, or an integer >= {least}")
    check_integer("pages", pages, 1)
    check_integer("states", states, 1)


def check_host_slots(cache: PagedCache, slots: Any) -> list[int]:
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
