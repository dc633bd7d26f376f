"""What a cache's rows hold: begun, written, read, copied, saved and put back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import (
    Sized,
    check_layer,
    check_per_row,
    check_slots,
    describe,
    is_row,
    strict,
    wrong,
)
from kvgen.runtime.kernels import Kernels
from kvgen.runtime.launches import launch, strides_of, tiles_grid
from kvgen.runtime.numbers import listed, parts_of, power_of_two, unknown

# by name the shape and dtype of what is saved, and the axis, if any, that may have another length
Saved = dict[str, tuple[tuple[int, ...], torch.dtype, int | None]]


class Contents(Kernels):
    """What a caller does with rows, between steps."""

    @property
    def cursors(self) -> Tensor:
        """How many unfolded records each slot holds, [slots] int32."""
        return self.tensors["cursors"]

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of device memory that one slot takes, all layers together."""
        return sum(each[0].nbytes for name, each in self.named().items() if name != "work")

    def reset(self, slots: Tensor) -> None:
        """Start rows afresh: initial states and an empty buffer, in every layer."""
        slots = check_slots(self, "slots", slots)
        self.fill(slots, "state", "carried")
        self.clear(slots, ("cursors", "skipped", "pending"))

    def fill(self, slots: Tensor, *parts: str) -> None:
        """Set states, and carried ones at their first place, to their initial values."""
        for held in self.table.of(*parts):
            for tensor, layers, stride in self.over(held.name):
                first = tensor[0, 0] if held.part == "state" else tensor[0, 0, 0]
                size = first.numel()
                launch(
                    self, "fill", (slots.numel(), layers, parts_of(size, 1024)), tensor, slots,
                    *self.rows, tensor.stride(0), stride, size, held.initial, BLOCK=1024,
                )  # fmt: skip

    def clear(self, slots: Tensor, books: tuple[str, ...]) -> None:
        for tensor in map(self.tensors.__getitem__, books):
            size = tensor[0].numel()
            launch(
                self, "fill", (slots.numel(), 1, 1), tensor, slots, *self.rows, tensor.stride(0),
                0, size, 0.0, BLOCK=power_of_two(size),
            )  # fmt: skip
        self.calls.reset(slots)

    def load(self, layer: int, slots: Tensor, state: Any) -> None:
        """Write one layer's state; moves no cursor.

        state: [n, HV, K, V] float32; where states are carried a dict of it and of all of these by
        name, each [n, *axes].
        """
        check_layer(self, layer)
        slots = check_slots(self, "slots", slots)
        states = unknown(state if isinstance(state, Mapping) else {self.table.state: state})
        check_states(self, slots, states)
        self.load_matrix(layer, slots, states[self.table.state].contiguous())
        for name in self.table.carried:
            self.move_carried(name, states[name].contiguous(), layer, slots, load=True)
        self.calls.load(layer, slots)

    def matrix_grid(self, slots: Tensor) -> tuple[int]:
        return tiles_grid(self, slots.numel(), {"TILE": self.table.tile})

    def load_matrix(self, layer: int, slots: Tensor, matrix: Tensor) -> None:
        tensors, inner = self.at(layer)
        planes = [tensors[name] for name in self.table.planes]
        launch(
            self, "load", self.matrix_grid(slots), matrix, slots, *planes, *self.bounds(),
            *strides_of(planes, inner), TILE=self.table.tile,
        )  # fmt: skip

    def read(self, layer: int, slots: Tensor) -> Tensor | dict[str, Tensor]:
        """One layer's state with the unfolded records, [n, HV, K, V] float32; with carried states a
        dict of all by name.

        Between steps only: after a `recurrent` or an `extend` the records are in the state already.
        """
        check_layer(self, layer)
        slots = check_slots(self, "slots", slots)
        self.check_settled(slots)
        table, states = self.table, dict[str, Tensor]()
        for each in table.states:
            shape = slots.numel(), *table.extents(each.axes, self.heads)
            states[each.name] = torch.empty(shape, dtype=torch.float32, device=self.device)
        self.read_matrix(layer, slots, states[table.state])
        for name in table.carried:
            self.move_carried(name, states[name], layer, slots, load=False)
        return states if table.carried else states[table.state]

    def read_matrix(self, layer: int, slots: Tensor, matrix: Tensor) -> None:
        tensors, inner = self.at(layer)
        used = [tensors[name] for name in self.table.kernels["read"].tensors]
        launch(
            self, "read", self.matrix_grid(slots), matrix, slots, *self.books(), *used,
            *self.bounds(), *strides_of(used, inner), PLACES=self.buffer, TILE=self.table.tile,
            num_warps=self.table.warps,
        )  # fmt: skip

    def move_carried(self, name: str, outer: Tensor, layer: int, slots: Tensor, load: bool) -> None:
        """Move a carried state between the cache, at each row's cursor, and a tensor of rows."""
        tensors, inner = self.at(layer)
        tensor = tensors[name]
        size = tensor[0, 0, 0].numel()
        launch(
            self, "carried", (slots.numel(), parts_of(size, 256)), tensor, outer, slots,
            self.cursors, *self.rows, *strides_of([tensor], inner), size, PLACES=self.buffer,
            LOAD=load, BLOCK=256,
        )  # fmt: skip

    def copy(self, src: Tensor, dst: Tensor) -> None:
        """Copy rows, at any cursor, in every layer; dst slots are distinct and none is in src."""
        src, dst = check_copied(self, src, dst)
        self.copy_slots(src, dst, [name for name in self.tensors if name != "work"])
        self.calls.copy(self, src, dst)

    def copy_slots(self, src: Tensor, dst: Tensor, names: Iterable[str]) -> None:
        """Copy what slots have of these tensors."""
        for name in names:
            for tensor, layers, stride in self.over(name):
                size = tensor[0].numel() // layers
                launch(
                    self, "copy", (src.numel(), layers, parts_of(size, 1024)), tensor, src, dst,
                    *self.rows, tensor.stride(0), stride, size, BLOCK=1024,
                )  # fmt: skip

    def seek(self, slots: Tensor, cursors: Tensor) -> None:
        """Set the cursors of rows, on the device: what they held beyond them is gone, and places
        that they take on hold what the caller has put there. cursors: [B] int32, 0 to buffer.

        A row that has no room for its next call then needs `flush` first.
        """
        slots = check_slots(self, "slots", slots)
        cursors = check_per_row(self, "cursors", cursors, (slots.numel(),), torch.int32)
        if strict(cursors):
            for slot, cursor in zip(listed(slots), listed(cursors), strict=True):
                if is_row(self, slot):
                    self.check_sought(slot, cursor)
        skipped = self.tensors["skipped"]
        launch(
            self, "seek", (parts_of(slots.numel(), 128),), slots, cursors, *self.books(),
            self.tensors["pending"], len(slots), *self.rows, max(self.buffer, self.short_context),
            WORDS=skipped[0].numel(), BITS=64 if skipped.dtype == torch.int64 else 16, BLOCK=128,
        )  # fmt: skip
        self.calls.reset(slots)

    def check_sought(self, slot: int, cursor: int) -> None:
        """Whether a row may be set to a cursor."""
        if not 0 <= cursor <= self.buffer:
            raise wrong("cursors", f"{cursor} for slot {slot}", f"0 to buffer = {self.buffer}")

    def save(self, slots: Tensor) -> dict[str, Tensor]:
        """Everything of some rows, in every layer, as tensors of their own, [n, layers, ...].

        States, records, carried states and cursors by name; they may be moved, to the host say, and
        go back by `restore`. Between steps only.
        """
        slots = check_slots(self, "slots", slots)
        self.check_settled(slots)
        saved = {"spec": torch.full_like(slots, self.table.digest, dtype=torch.int64)}
        for name, (shape, dtype, _) in self.saved_shapes(slots.numel()).items():
            saved[name] = torch.zeros(shape, dtype=dtype, device=self.device)
            self.move(name, saved[name], slots, save=True)
        return saved

    def restore(self, slots: Tensor, saved: Mapping[str, Tensor]) -> None:
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

    def check_restored(self, slots: Tensor, saved: Mapping[str, Tensor]) -> None:
        """Whether saved rows fit into these slots."""
        if strict(slots) and strict(saved["cursors"]):
            held = [(saved[x.name].shape, x.places, x.part == "carried") for x in self.table.held]
            places = [shape[axis] - carried for shape, axis, carried in held if axis]
            for slot, cursor in zip(listed(slots), listed(saved["cursors"]), strict=True):
                if is_row(self, slot):
                    check_cursor_saved(cursor, "buffer", self.buffer)
                    check_cursor_saved(cursor, "places that are saved", min([cursor, *places]))

    def saved_shapes(self, rows: int) -> Saved:
        """The tensors that hold something of a row, for so many rows."""
        found: Saved = {}
        for held in self.table.held:
            tensor = self.groups[0][held.name]
            found[held.name] = (rows, self.layers, *tensor.shape[2:]), tensor.dtype, held.places
        for name in ("cursors", "skipped"):
            found[name] = (rows,), self.tensors[name].dtype, None
        return found

    def place(self, name: str, rows: Tensor, slots: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Where rows lie in a tensor, and which places it has, as kernels get it."""
        return slots, self.rows

    def move(self, name: str, rows: Tensor, slots: Tensor, save: bool) -> None:
        """Move what slots have of a tensor to rows, or back; of records as many as both have."""
        at, bounds = self.place(name, rows, slots)
        held = next((each for each in self.table.held if each.name == name), None)
        if held:
            rows = rows.flatten(0, rows.dim() - self.of(name)[0].dim())
        axis = (held.places or 2) if held else 1
        for group, (tensor, layers, stride) in enumerate(self.over(name)):
            part = rows[:, group * layers : (group + 1) * layers] if held else rows
            heads = math.prod(tensor.shape[2:axis])
            sizes = [math.prod(each.shape[axis:]) for each in (tensor, part)]
            launch(
                self, "move", (at.numel(), layers * heads, parts_of(min(sizes), 1024)), tensor,
                part, at, *bounds, tensor.stride(0), stride, sizes[0], part.stride(0),
                part.stride(1) if held else 0, sizes[1], layers, min(sizes), SAVE=save, BLOCK=1024,
            )  # fmt: skip


def check_states(cache: Sized, slots: Tensor, states: Mapping[str, Any]) -> None:
    table, rows = cache.table, slots.numel()
    shapes = {each.name: (rows, *table.extents(each.axes, cache.heads)) for each in table.states}
    for name, tensor in states.items():
        if name not in shapes:
            raise wrong("state", f"no state is called {name!r}", ", ".join(shapes))
        fits = isinstance(tensor, Tensor) and tuple(tensor.shape) == shapes[name]
        if not fits or tensor.dtype != torch.float32 or tensor.device != cache.device:
            expected = f"{list(shapes[name])} torch.float32 on {cache.device}"
            raise wrong("state", f"{name} is {describe(tensor)}", expected)
    missing = [name for name in shapes if name not in states]
    if missing:
        raise wrong("state", f"{', '.join(missing)} missing", ", ".join(shapes))


def check_copied(cache: Sized, src: Any, dst: Any) -> tuple[Tensor, Tensor]:
    src, dst = check_slots(cache, "src", src, distinct=False), check_slots(cache, "dst", dst)
    if src.numel() != dst.numel():
        raise wrong("dst", f"{dst.numel()} slots", f"as many as src, {src.numel()}")
    if strict(dst):
        both = dst[(dst >= cache.first_slot) & torch.isin(dst, src)]
        if both.numel():
            raise wrong("dst", f"slot {int(both[0])} is in src too", "slots that are not")
    return src, dst


def check_saved(cache: Sized, saved: Any, shapes: Saved) -> None:
    """What `restore` gets: the tensors of saved rows; one axis of each may have any length."""
    if not isinstance(saved, Mapping):
        raise wrong("saved", describe(saved), "what `save` gives")
    wanted: Saved = {"spec": (shapes["cursors"][0], torch.int64, None)} | shapes
    missing = [name for name in wanted if name not in saved]
    if missing:
        raise wrong("saved", f"{', '.join(missing)} missing", ", ".join(wanted))
    (rows,) = shapes["cursors"][0]
    found = [unknown(saved[name]) for name in wanted]
    counts = {len(x) for x in found if isinstance(x, Tensor) and x.dim()}
    if len(counts) == 1 and rows not in counts:
        raise wrong("saved", f"{counts.pop()} rows", f"as many as slots, {rows}")
    for name, (shape, dtype, free) in wanted.items():
        tensor = unknown(saved[name])
        fits = isinstance(tensor, Tensor) and tensor.dtype == dtype and tensor.dim() == len(shape)
        sizes = enumerate(zip(tensor.shape, shape, strict=True)) if fits else ()
        fits = fits and all(size == length or axis == free for axis, (size, length) in sizes)
        if not fits or tensor.device.type == "meta":
            raise wrong("saved", f"{name} is {describe(tensor)}", f"{list(shape)} {dtype}")
    spec = unknown(saved["spec"])
    if strict(spec) and any(each != cache.table.digest for each in listed(spec)):
        raise wrong("saved", "rows of another spec", f"those of {cache.table.name}")


def check_cursor_saved(cursor: int, name: str, most: int) -> None:
    if not 0 <= cursor <= most:
        raise wrong("saved", f"a cursor of {cursor}", f"0 to {name} = {most}")
