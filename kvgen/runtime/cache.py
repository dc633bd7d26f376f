"""The cache: the state, buffer and cursor of every request."""

from __future__ import annotations

import copy
import itertools
import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
import triton  # pyright: ignore[reportMissingTypeStubs]
import triton.language as tl  # pyright: ignore[reportMissingTypeStubs]

from kvgen.runtime.arguments import (
    check_cache_tensor,
    check_copied,
    check_cursors,
    check_integer,
    check_layer,
    check_memory,
    check_ranks,
    check_saved,
    check_sizes,
    check_slots,
    check_states,
    describe,
    is_row,
    strict,
)
from kvgen.runtime.calls import IN_PLACE, Calls
from kvgen.runtime.device import check_tuned, compiled, gpu_name, overlapping, tuned_places
from kvgen.runtime.launches import (
    Given,
    Step,
    configured,
    launch,
    launch_tokens,
    parts_grid,
    step_of,
    strides_of,
    tiles_grid,
    value_tiles,
)
from kvgen.runtime.memory import check_apart
from kvgen.runtime.numbers import listed, parts_of, power_of_two, unknown
from kvgen.runtime.table import Held, Table

# whether Triton's own functions are compiled says when TRITON_INTERPRET was set
library_sum: Any = operator.attrgetter("sum")(tl)
device_properties: Any = operator.attrgetter("get_device_properties")(torch.cuda)

# what a cache keeps beside states and records
BOOKS = ("cursors", "skipped", "pending", "work")

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


class Allocation(NamedTuple):
    """A tensor that a cache would have."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    bytes: int


class Cache:
    """The state, buffer and cursor of every request, for all layers of one pipeline rank.

    tensors: every allocation by name, slots first, then layers, `cursors` [slots] int32, the
    records each row holds, which the caller may read or set, and `skipped` [slots] int64, a bit for
    every place below the cursor whose record counts for nothing.
    Calls on one cache belong on one stream, or in an order that the caller's events fix: its
    cursors and its list of rows to fold are shared.
    """

    table: Table
    # the class of caches with short contexts, where the module has them
    paged: type[Cache] | None = None
    # and that of caches whose layers lie apart
    layered: Any = None
    # of a cache that is one layer of several: which; and what a write to shows between two calls
    layer = 0
    watched: list[torch.Tensor]
    # 0: every row has a state
    short_context = 0

    def __init__(
        self,
        tensors: Mapping[str, Any],
        window: int = 0,
        first_slot: int = 0,
        invariant: bool = False,
    ) -> None:
        self.tensors: dict[str, Any] = dict(tensors)
        self.size_up()
        self.begin_at(first_slot, invariant)
        records = self.table.of("record")[0]
        places = 2 + records.axes.index("places")
        self.buffer, self.window = self.tensors[records.name].shape[places], window
        self.check_sizes(self.table.most_places)
        self.prepare(
            self.shapes(self.slots, self.layers, self.heads, self.buffer, self.dtype), BOOKS
        )

    def size_up(self) -> None:
        """Take device, sizes and dtype from the tensors."""
        plane = self.table.planes[0]
        records = self.table.of("record")
        given = next((held for held in records if held.dtype is None), None)
        by_size = [each for each in (records[0], given) if each]
        ranks = {plane: 5} | {held.name: 2 + len(held.axes) for held in by_size}
        check_ranks(self.tensors, ranks)
        self.device = self.tensors[plane].device
        self.slots, self.layers, self.heads = self.tensors[plane].shape[:3]
        self.dtype = self.tensors[given.name].dtype if given else torch.bfloat16

    def begin_at(self, first_slot: int, invariant: bool) -> None:
        """Which slots are for padding, and whether a row's bits depend on nothing but itself."""
        check_integer("first_slot", first_slot, 0)
        self.first_slot, self.invariant = first_slot, invariant

    @property
    def rows(self) -> tuple[int, int]:
        """Which slots there are, as kernels get it."""
        return self.slots, self.first_slot

    def check_sizes(self, most: int) -> None:
        check_sizes(
            self.table, most, self.dtype, slots=self.slots, layers=self.layers, heads=self.heads,
            buffer=self.buffer, window=self.window,
        )  # fmt: skip

    def prepare(self, shapes: Shapes, books: tuple[str, ...]) -> None:
        """Look at the device, allocate the books that are missing and check all tensors."""
        interpreted = not compiled(self.table)
        early = not isinstance(library_sum, triton.JITFunction)
        if interpreted != early and self.device.type != "meta":
            raise ValueError(
                f"TRITON_INTERPRET: {'set' if interpreted else 'unset'} after triton was imported, "
                "expected before: start the process with it, or change the environment before "
                "triton is imported"
            )
        if self.device.type == "cpu" and not interpreted:
            raise ValueError(
                "device: cpu, which runs in Triton's interpreter: set TRITON_INTERPRET=1 in the "
                "environment before triton is imported"
            )
        self.gpu, self.processors = gpu_name(self.table, self.device), 1
        self.calls = Calls()
        self.register()
        check_tuned(self.table, self.gpu)
        self.step: Step | None = None
        if self.device.type == "cuda":
            properties: Any = device_properties(self.device)
            self.processors: int = properties.multi_processor_count
        self.overlaps = overlapping(self.table, self.device)
        self.every_slot = torch.arange(self.slots, dtype=torch.int32, device=self.device)
        for name, (shape, dtype) in shapes.items():
            if name not in self.tensors and name in books:
                self.tensors[name] = torch.zeros(shape, dtype=dtype, device=self.device)
            check_cache_tensor(name, self.tensors[name], shape, dtype, self.device)
        self.watched = self.flat()

    def flat(self) -> list[torch.Tensor]:
        """Every tensor, those of each layer where layers lie apart."""
        return list(self.tensors.values())

    def named(self) -> dict[str, torch.Tensor]:
        """The same by name."""
        found: dict[str, torch.Tensor] = {}
        for name, tensor in self.tensors.items():
            apart = isinstance(tensor, list)
            for layer, each in enumerate(unknown(tensor if apart else [tensor])):
                found[f"{name}[{layer}]" if apart else name] = each
        return found

    def with_tensors(self, tensors: list[torch.Tensor]) -> Cache:
        """The same cache over other tensors, in the order of `flat`."""
        other = copy.copy(self)
        other.tensors = dict(zip(self.tensors, tensors, strict=True))
        return other

    def sample(self, name: str) -> torch.Tensor:
        """A tensor, of the first layer where layers lie apart: its slots and dtype."""
        return self.tensors[name]

    def register(self) -> None:
        """Let the module's ops find the cache by its handle."""
        # a text from here on: in a graph of any sizes the digest would be a symbol
        self.namespace = self.table.namespace
        known = unknown(vars(getattr(torch.ops, self.namespace)))
        # numbers that no other cache gets, though this one may be gone
        self.handle = next(known.setdefault("handles", itertools.count(1)))
        caches: WeakValueDictionary[int, Cache] = WeakValueDictionary()
        known.setdefault("caches", caches)[self.handle] = self

    @classmethod
    def shapes(cls, slots: int, layers: int, heads: int, buffer: int, dtype: torch.dtype) -> Shapes:
        """Shape and dtype of every tensor of a cache."""
        found: Shapes = {}
        for held in cls.table.held:
            # a carried state stands before and after every record
            places = buffer + (held.part == "carried")
            shape = (slots, layers, *cls.table.extents(held.axes, heads, places))
            found[held.name] = shape, held.dtype or dtype
        return found | {
            "cursors": ((slots,), torch.int32),
            "skipped": ((slots,), torch.int64),
            "pending": ((slots,), torch.int32),
            "work": ((1 + 3 * slots,), torch.int64),
        }

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
        on neither the batch nor its neighbours nor its slot.
        """
        kind, shapes, sizes = cls.planned(
            slots, layers, device=device, dtype=dtype, buffer=buffer, window=window,
            short_context=short_context, heads=heads, pages=pages, states=states,
        )  # fmt: skip
        tensors = {
            name: torch.full(shape, kind.blank(name), dtype=each, device=device)
            for name, (shape, each) in shapes.items()
        }
        return kind(tensors, *sizes, first_slot=first_slot, invariant=invariant).begun(dtype)

    @classmethod
    def layout(cls, slots: int, layers: int = 1, **options: Any) -> dict[str, Allocation]:
        """What `empty` would allocate with the same arguments: shape, dtype and bytes by name.

        Nothing is allocated. device: "meta" unless it is given; where its buffer is tuned, `buffer`
        follows the device.
        """
        options.pop("invariant", None)
        check_integer("first_slot", options.pop("first_slot", 0), 0)
        options.setdefault("device", "meta")
        _, shapes, _ = cls.planned(slots, layers, **options)
        return {
            name: Allocation(shape, dtype, math.prod(shape) * dtype.itemsize)
            for name, (shape, dtype) in shapes.items()
        }

    @classmethod
    def planned(
        cls,
        slots: int,
        layers: int,
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.bfloat16,
        buffer: int | None = None,
        window: int = 0,
        short_context: int = 0,
        heads: int | None = None,
        pages: int | None = None,
        states: int | None = None,
    ) -> tuple[Any, Shapes, tuple[Any, ...]]:
        """The class of a cache, its tensors, and what else it is made with."""
        table = cls.table
        heads = table.sizes["HV"] if heads is None else heads
        if short_context != 0:
            return cls.paged_class(short_context).paged_plan(
                slots, layers, heads, device, dtype, buffer, window, short_context, pages, states
            )
        for name, count in (("pages", pages), ("states", states)):
            if count is not None:
                raise ValueError(f"{name}: {count!r}, expected None without short_context")
        known = table.most_places if buffer is None else buffer
        sizes = {"slots": slots, "layers": layers, "heads": heads, "window": window}
        check_sizes(table, table.most_places, dtype, **sizes, buffer=known)
        buffer = max(tuned_places(table, device), window) if buffer is None else buffer
        return Cache, cls.shapes(slots, layers, heads, buffer, dtype), (window,)

    @classmethod
    def blank(cls, name: str) -> int:
        """What a tensor holds to begin with."""
        return 0

    def begun(self, dtype: torch.dtype) -> Cache:
        """The cache with every slot fresh."""
        self.dtype = dtype
        if self.device.type != "meta":
            self.reset(self.every_slot)
        return self

    @classmethod
    def paged_class(cls, short_context: object) -> Any:
        if cls.paged is None:
            raise ValueError(
                f"short_context: {short_context!r}, expected 0, as {cls.table.without_short}"
            )
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
    ) -> Cache:
        """Adopt a server's memory: the tensors of another cache's `tensors`, with any slot stride.

        They may lie in each other's gaps, as in a server's pages, but no two elements share an
        address. States, records and carried states may be lists, with one tensor [slots, …] for
        each layer. `cursors`, `skipped`, `pending` and `work` are allocated where they are missing.
        Nothing is changed. With `short_context` all books but `cursors` may be missing; which pages
        rows hold is read from the tables, and `buffer` is what the cache had, as the tensors do not
        tell. first_slot, invariant: as for `empty`.
        """
        if not isinstance(tensors, dict):
            raise ValueError(f"tensors: {describe(tensors)}, expected a dict of tensors by name")
        kind: Any = cls.paged_class(short_context) if short_context != 0 else Cache
        needed, books = kind.needed()
        missing = [name for name in needed if name not in tensors]
        if missing:
            raise ValueError(f"tensors: {', '.join(missing)} missing, expected {', '.join(needed)}")
        known = tuple(dict.fromkeys((*needed, *books)))
        strange = [name for name in tensors if name not in known]
        if strange:
            names = ", ".join(map(str, strange))
            raise ValueError(f"tensors: {names} unknown, expected {', '.join(known)}")
        if any(isinstance(tensors[name], (list, tuple)) for name in needed):
            check_unpaged(short_context, buffer)
            cache = cls.layered(tensors, window, first_slot, invariant)
        elif short_context != 0:
            cache = kind(tensors, window, short_context, buffer, first_slot, invariant)
        elif buffer is None:
            cache = Cache(tensors, window, first_slot, invariant)
        else:
            raise ValueError(
                f"buffer: {buffer!r}, expected None, as the records have so many places"
            )
        check_apart(cache.named())
        return cache

    @classmethod
    def needed(cls) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The tensors that `wrap` needs, and its books."""
        return tuple(held.name for held in cls.table.held), BOOKS

    @property
    def cursors(self) -> torch.Tensor:
        """How many unfolded records each slot holds, [slots] int32."""
        return self.tensors["cursors"]

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of device memory that one slot takes, all layers together."""
        return sum(bytes_of(tensor) for name, tensor in self.named().items() if name != "work")

    def reset(self, slots: torch.Tensor) -> None:
        """Start rows afresh: initial states and an empty buffer, in every layer."""
        slots = check_slots(self, "slots", slots)
        self.fill(slots, *self.table.of("state", "carried"))
        self.clear(slots, ("cursors", "skipped", "pending"))

    def fill(self, slots: torch.Tensor, *initial: Held) -> None:
        """Set states, and carried ones at their first place, to their initial values."""
        for held in initial:
            tensor = self.tensors[held.name]
            first = tensor[0, 0] if held.part == "state" else tensor[0, 0, 0]
            size = first.numel()
            grid = (slots.numel(), self.layers, parts_of(size, 1024))
            strides = tensor.stride()[:2]
            launch(
                self,
                "fill",
                grid,
                tensor,
                slots,
                *self.rows,
                *strides,
                size,
                held.initial,
                BLOCK=1024,
            )

    def clear(self, slots: torch.Tensor, books: tuple[str, ...]) -> None:
        for name in books:
            tensor = self.tensors[name]
            size = tensor[0].numel()
            grid, block = (slots.numel(), 1, 1), power_of_two(size)
            launch(
                self,
                "fill",
                grid,
                tensor,
                slots,
                *self.rows,
                tensor.stride(0),
                0,
                size,
                0.0,
                BLOCK=block,
            )
        self.calls.reset(slots)

    def load(self, layer: int, slots: torch.Tensor, state: Any) -> None:
        """Write one layer's state; moves no cursor.

        state: [n, HV, K, V] float32, or a dict of it and the carried states by name, each
        [n, *axes].
        """
        slots, states = self.given_states(layer, slots, state)
        self.load_matrix(layer, slots, states[self.table.state].contiguous())
        for name in self.table.carried:
            if name in states:
                self.move_carried(name, states[name].contiguous(), layer, slots, load=True)
        self.calls.load(layer, slots)

    def given_states(
        self, layer: int, slots: Any, state: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        check_layer(self, layer)
        slots = check_slots(self, "slots", slots)
        states = unknown(state if isinstance(state, dict) else {self.table.state: state})
        check_states(self, slots, states)
        return slots, states

    def matrix_grid(self, slots: torch.Tensor) -> tuple[int]:
        return tiles_grid(self, slots.numel(), {"TILE": self.table.tile})

    def load_matrix(self, layer: int, slots: torch.Tensor, matrix: torch.Tensor) -> None:
        planes = [self.tensors[name] for name in self.table.planes]
        launch(
            self, "load", self.matrix_grid(slots), matrix, slots, *planes, self.heads, *self.rows,
            *strides_of(planes, layer), TILE=self.table.tile,
        )  # fmt: skip

    def read(self, layer: int, slots: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
        """One layer's state with the unfolded records, [n, HV, K, V] float32; with carried states a
        dict of all by name.

        Between steps only: after a `recurrent` or an `extend` the records are in the state already.
        """
        check_layer(self, layer)
        slots = check_slots(self, "slots", slots)
        self.check_settled(slots)
        table, rows = self.table, slots.numel()
        states = {
            each.name: torch.empty(
                (rows, *table.extents(each.axes, self.heads)),
                dtype=torch.float32,
                device=self.device,
            )
            for each in table.states
        }
        self.read_matrix(layer, slots, states[table.state])
        for name in table.carried:
            self.move_carried(name, states[name], layer, slots, load=False)
        return states if table.carried else states[table.state]

    def read_matrix(self, layer: int, slots: torch.Tensor, matrix: torch.Tensor) -> None:
        used = [self.tensors[name] for name in self.table.kernels["read"].tensors]
        launch(
            self, "read", self.matrix_grid(slots), matrix, slots, *self.books(), *used,
            self.heads, *self.rows, *strides_of(used, layer), PLACES=self.buffer,
            TILE=self.table.tile, num_warps=self.table.warps,
        )  # fmt: skip

    def move_carried(
        self, name: str, outer: torch.Tensor, layer: int, slots: torch.Tensor, load: bool
    ) -> None:
        """Move a carried state between the cache, at each row's cursor, and a tensor of rows."""
        tensor = self.tensors[name]
        size = tensor[0, 0, 0].numel()
        grid = (slots.numel(), parts_of(size, 256))
        launch(
            self, "carried", grid, tensor, outer, slots, self.cursors, *self.rows,
            *strides_of([tensor], layer), size, PLACES=self.buffer, LOAD=load, BLOCK=256,
        )  # fmt: skip

    def copy(self, src: torch.Tensor, dst: torch.Tensor) -> None:
        """Copy rows, at any cursor, in every layer; dst slots are distinct and none is in src."""
        src, dst = check_copied(self, src, dst)
        self.copy_slots(src, dst, [name for name in self.tensors if name != "work"])
        self.calls.copy(self, src, dst)

    def copy_slots(self, src: torch.Tensor, dst: torch.Tensor, names: list[str]) -> None:
        """Copy what slots have of these tensors."""
        known = {held.name for held in self.table.held}
        for name in names:
            tensor = self.tensors[name]
            size = tensor[0, 0].numel() if name in known else tensor[0].numel()
            layers, stride = (self.layers, tensor.stride(1)) if name in known else (1, 0)
            grid = (src.numel(), layers, parts_of(size, 1024))
            launch(
                self,
                "copy",
                grid,
                tensor,
                src,
                dst,
                *self.rows,
                tensor.stride(0),
                stride,
                size,
                BLOCK=1024,
            )

    def seek(self, slots: torch.Tensor, cursors: torch.Tensor) -> None:
        """Set the cursors of rows, on the device: what they held beyond them is gone, and places
        that they take on hold what the caller has put there. cursors: [B] int32, 0 to buffer.

        A row that has no room for its next call then needs `flush` first.
        """
        slots = check_slots(self, "slots", slots)
        cursors = check_cursors(self, slots, cursors)
        most = max(self.buffer, self.short_context)
        skipped = self.tensors["skipped"]
        words = skipped[0].numel()
        launch(
            self, "seek", (parts_of(slots.numel(), 128),), slots, cursors, *self.books(),
            self.tensors["pending"], slots.numel(), *self.rows, most, WORDS=words,
            BITS=64 if skipped.dtype == torch.int64 else 16, BLOCK=128,
        )  # fmt: skip
        self.calls.reset(slots)

    def check_sought(self, slot: int, cursor: int) -> None:
        """Whether a row may be set to a cursor."""
        if not 0 <= cursor <= self.buffer:
            raise ValueError(
                f"cursors: {cursor} for slot {slot}, expected 0 to buffer = {self.buffer}"
            )

    def save(self, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        """Everything of some rows, in every layer, as tensors of their own, [n, layers, ...].

        States, records, carried states and cursors by name; they may be moved, to the host say, and
        go back by `restore`. Between steps only.
        """
        slots = check_slots(self, "slots", slots)
        self.check_settled(slots)
        saved = {"spec": torch.full_like(slots, self.table.digest, dtype=torch.int64)}
        for name, (shape, _) in self.saved_shapes(slots.numel()).items():
            like = self.sample(name)
            saved[name] = torch.zeros(shape, dtype=like.dtype, device=self.device)
            self.move(name, saved[name], slots, save=True)
        return saved

    def restore(self, slots: torch.Tensor, saved: Mapping[str, torch.Tensor]) -> None:
        """Put rows back that `save` has given, into any slots, of this cache or of another of the
        same spec, storage, dtype and heads whose buffer is as long as their cursors at least. A row
        with fewer than max(1, window) places left here folds."""
        slots = check_slots(self, "slots", slots)
        shapes = self.saved_shapes(slots.numel())
        check_saved(self, saved, shapes)
        self.check_restored(slots, saved)
        for name in shapes:
            self.move(name, saved[name].to(self.device).contiguous(), slots, save=False)
        self.clear(slots, ("pending",))
        # this cache may have fewer places, or a larger window
        self.run_advance(slots, None, "none")

    def check_restored(self, slots: torch.Tensor, saved: Mapping[str, torch.Tensor]) -> None:
        """Whether saved rows fit into these slots."""
        if strict(slots) and strict(saved["cursors"]):
            for slot, cursor in zip(listed(slots), listed(saved["cursors"]), strict=True):
                if is_row(self, slot):
                    check_cursor_saved(cursor, "buffer", self.buffer)

    def saved_shapes(self, rows: int) -> dict[str, tuple[tuple[int, ...], int | None]]:
        """The tensors that hold something of a row, for so many rows; and the axis, if any, that
        may have another length."""
        found: dict[str, tuple[tuple[int, ...], int | None]] = {}
        for held in self.table.held:
            free = 2 + held.axes.index("places") if "places" in held.axes else None
            found[held.name] = (rows, *self.sample(held.name).shape[1:]), free
        return found | {name: ((rows,), None) for name in ("cursors", "skipped")}

    def place(
        self, name: str, rows: torch.Tensor, slots: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Where rows lie in a tensor, and which places it has, as kernels get it."""
        return slots, self.rows

    def move(self, name: str, rows: torch.Tensor, slots: torch.Tensor, save: bool) -> None:
        """Move what slots have of a tensor to rows, or back; of records as many as both have."""
        tensor = self.tensors[name]
        at, bounds = self.place(name, rows, slots)
        held = next((each for each in self.table.held if each.name == name), None)
        layers, heads, size = 1, 1, min(tensor[0].numel(), math.prod(rows.shape[1:]))
        strides = [tensor.stride(0), 0, 0, rows.stride(0), 0, 0]
        if held:
            rows = rows.flatten(0, rows.dim() - tensor.dim())
            axis = 2 + held.axes.index("places") if "places" in held.axes else 2
            layers, heads = self.layers, math.prod(tensor.shape[2:axis])
            sizes = [math.prod(x.shape[axis:]) for x in (tensor, rows)]
            size = min(sizes)
            strides = [*tensor.stride()[:2], sizes[0], *rows.stride()[:2], sizes[1]]
        grid = (at.numel(), layers * heads, parts_of(size, 1024))
        launch(
            self, "move", grid, tensor, rows, at, *bounds, *strides, layers, size, SAVE=save,
            BLOCK=1024,
        )  # fmt: skip

    # -- what a step needs of a cache

    def in_place(self, pending: int) -> str | None:
        """Which kernel may have left this mark of a row whose records are in its state already."""
        return "recurrent" if pending > 0 else None

    def check_settled(self, slots: torch.Tensor, left: tuple[str, ...] = ()) -> None:
        """Between a kernel that writes in place and the step's end records are in the state.

        left: kernels whose rows are left alone.
        """
        if not strict(slots):
            return
        pending = listed(self.tensors["pending"])
        for slot in listed(slots):
            kernel = self.in_place(pending[slot]) if is_row(self, slot) else None
            if kernel is not None:
                kernel = self.calls.in_place(slot) or kernel
                if kernel not in left:
                    raise ValueError(
                        f"slots: slot {slot} comes from `{kernel}`, "
                        f"expected `{IN_PLACE[kernel]}` first"
                    )

    def check_room(
        self, slots: torch.Tensor, tokens: int, lengths: torch.Tensor | None = None
    ) -> None:
        """Whether rows have places for a call's records; those with a state have, where a step's
        end has seen to it."""

    def most_kept(
        self, slots: torch.Tensor, used: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """How many tokens a step's end may keep of each row, and which rows keep all or none."""
        return torch.full_like(slots, max(1, self.window)), None

    def books(self) -> list[torch.Tensor]:
        """Which records rows hold, as kernels get it."""
        return [self.cursors, self.tensors["skipped"]]

    def run_decode(self, layer: int, slots: torch.Tensor, given: Given, out: torch.Tensor) -> None:
        config = configured(self, "decode", slots.numel(), given)
        grid, tiles = parts_grid(self, self.table.kernels["decode"], slots.numel(), config)
        dots = {"DOT": config["DOT"]} if "DOT" in config else {}
        launch_tokens(
            self, "decode", grid, layer, given, out, books=[slots, *self.books()],
            numbers=[self.heads, *self.rows],
            step=step_of(self, layer, slots) if config["PDL"] else None,
            PLACES=self.buffer, SPAN=power_of_two(self.buffer), TILE=config["TILE"],
            TILES=tiles, STAGES=config["STAGES"], EARLY=config["EARLY"] and tiles == 1, **dots,
            PDL=config["PDL"] and self.overlaps, num_warps=config["num_warps"],
        )  # fmt: skip

    def run_verify(
        self,
        layer: int,
        slots: torch.Tensor,
        parents: torch.Tensor | None,
        given: Given,
        out: torch.Tensor,
    ) -> None:
        """A window of tokens a row; a kernel of its own takes a few that follow each other."""
        table, rows, tokens = self.table, out.shape[0], out.shape[1]
        name = "chain" if parents is None and tokens <= table.chain else "verify"
        config = configured(self, name, rows, given)
        grid, tiles = parts_grid(self, table.kernels[name], rows, config)
        books, numbers = [slots, *self.books(), self.tensors["pending"]], [self.heads, *self.rows]
        span = max(table.least_span, power_of_two(self.buffer))
        shared: dict[str, Any] = {
            "PLACES": self.buffer, "SPAN": span, "WINDOW": tokens, "TILE": config["TILE"],
            "TILES": tiles, "STAGES": config["STAGES"],
        }  # fmt: skip
        if name == "chain":
            launch_tokens(
                self, name, grid, layer, given, out, books=books, numbers=numbers,
                step=step_of(self, layer, slots) if config["PDL"] else None, **shared,
                EARLY=config["EARLY"] and tiles == 1, PDL=config["PDL"] and self.overlaps,
                num_warps=config["num_warps"],
            )  # fmt: skip
            return
        tree, strides = tree_of(slots, parents)
        launch_tokens(
            self, name, grid, layer, given, out, books=[*books, tree], numbers=[*numbers, *strides],
            **shared, TOKENS=power_of_two(tokens), TREE=parents is not None,
            num_warps=self.window_warps(config, tokens),
        )  # fmt: skip

    def window_warps(self, config: Mapping[str, int], tokens: int) -> int:
        """More tokens hold more values in each thread."""
        more = tokens > 4 or not self.table.several
        return min(8, 2 * config["num_warps"]) if more else config["num_warps"]

    def run_extend(
        self,
        layer: int,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        given: Given,
        out: torch.Tensor,
        packed: bool = False,
    ) -> None:
        config = configured(self, "extend", slots.numel(), given)
        launch_tokens(
            self, "extend", tiles_grid(self, slots.numel(), config), layer, given, out,
            books=[slots, *self.books(), self.tensors["pending"], lengths],
            numbers=[out.shape[0 if packed else 1], self.heads, *self.rows], PLACES=self.buffer,
            TOKENS=config["TOKENS"], TILE=config["TILE"], STAGES=config["STAGES"],
            num_warps=config["num_warps"], packed=packed, PACKED=packed,
        )  # fmt: skip

    def run_recurrent(
        self, layer: int, slots: torch.Tensor, given: Given, out: torch.Tensor
    ) -> None:
        config = configured(self, "recurrent", slots.numel(), given)
        launch_tokens(
            self, "recurrent", tiles_grid(self, slots.numel(), config), layer, given, out,
            books=[slots, *self.books(), self.tensors["pending"]], numbers=[self.heads, *self.rows],
            PLACES=self.buffer, TILE=config["TILE"], num_warps=config["num_warps"],
        )  # fmt: skip

    def run_advance(
        self,
        slots: torch.Tensor,
        force: torch.Tensor | None,
        keep: str,
        kept: torch.Tensor | None = None,
        late: bool = False,
    ) -> None:
        """End a step of which rows keep what `keep` and `kept` say, and fold those without room."""
        work = self.tensors["work"]
        launch(
            self, "advance", (1,), slots, *self.books(), self.tensors["pending"],
            *marks_of(slots, force, kept), work, slots.numel(), *self.rows, max(1, self.window),
            PLACES=self.buffer, **ending(force, keep, kept, late), BLOCK=256,
        )  # fmt: skip
        self.fold(slots)

    def fold(self, slots: torch.Tensor) -> None:
        """Fold the rows that are listed, in every layer."""
        work = self.tensors["work"]
        config, programs = self.fold_grid(slots)
        used = [self.tensors[name] for name in self.table.kernels["fold"].tensors]
        launch(
            self, "fold", (programs,), work, *used, self.layers, self.heads, *strides_of(used, 1),
            PLACES=self.buffer, TILE=config["TILE"], STAGES=config["STAGES"],
            num_warps=config["num_warps"],
        )  # fmt: skip

    def fold_grid(self, slots: torch.Tensor) -> tuple[dict[str, Any], int]:
        """A fold's configuration and how many programs go over the rows that are listed."""
        config = configured(self, "fold", slots.numel())
        tiles = slots.numel() * self.layers * self.heads * value_tiles(self.table, config)
        return config, min(self.processors * config["programs"], tiles)


def check_cache(cache: Any) -> None:
    if not isinstance(cache, Cache):
        raise ValueError(f"cache: {describe(cache)}, expected a Cache of this module")
    check_memory(cache)


def check_cursor_saved(cursor: int, name: str, most: int) -> None:
    if not 0 <= cursor <= most:
        raise ValueError(f"saved: a cursor of {cursor}, expected 0 to {name} = {most}")


def marks_of(
    slots: torch.Tensor, force: torch.Tensor | None, kept: torch.Tensor | None
) -> list[torch.Tensor]:
    """What rows keep of a step, and which fold now, as kernels get it."""
    folded = slots if force is None else force.view(torch.uint8)
    return [slots if kept is None else kept, folded]


def ending(
    force: torch.Tensor | None, keep: str, kept: torch.Tensor | None, late: bool
) -> dict[str, Any]:
    """The same as a kernel's constants."""
    tokens = kept.shape[1] if kept is not None and keep == "path" else 1
    return {"KEEP": keep, "TOKENS": tokens, "FORCE": force is not None, "LATE": late}


def tree_of(
    slots: torch.Tensor, parents: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """A window's tree and its strides, as kernels get it."""
    return (slots, (0, 0)) if parents is None else (parents, parents.stride())


def check_unpaged(short_context: int, buffer: object) -> None:
    """Whether layers may lie apart."""
    if short_context:
        raise ValueError(
            f"short_context: {short_context}, expected 0 where each layer has tensors of its own"
        )
    if buffer is not None:
        raise ValueError(f"buffer: {buffer!r}, expected None, as the records have so many places")


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's first row."""
    return tensor[0].numel() * tensor.element_size()
