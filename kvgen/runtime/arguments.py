"""Checks of what a caller gives, before anything is launched: what came, what was expected."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch

from kvgen.runtime.numbers import listed, unknown
from kvgen.runtime.table import Table

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Sized(Protocol):
    """What checks need to know of a cache."""

    table: Table
    slots: int
    layers: int
    heads: int
    buffer: int
    window: int
    dtype: torch.dtype
    device: torch.device
    first_slot: int
    tensors: dict[str, Any]

    def sample(self, name: str) -> torch.Tensor: ...

    def check_sought(self, slot: int, cursor: int) -> None: ...


def is_row(cache: Sized, slot: int) -> bool:
    """Whether a slot is a request's, and not padding."""
    return cache.first_slot <= slot < cache.slots


def in_use(cache: Sized, slots: torch.Tensor) -> torch.Tensor:
    """Which rows are requests', and not padding."""
    return (slots >= cache.first_slot) & (slots < cache.slots)


def strict(tensor: torch.Tensor) -> bool:
    """Whether values are checked: on a GPU that waits for them, which a graph's capture forbids."""
    if tensor.device.type == "cpu":
        return True
    if os.environ.get("KVGEN_CHECK") != "1":
        return False
    return not captured(tensor)


def captured(tensor: torch.Tensor) -> bool:
    """Whether what is done to the tensor now goes into a graph."""
    return tensor.device.type == "cuda" and capturing(tensor.device)


def capturing(device: torch.device) -> bool:
    """Whether a graph is captured on a GPU, the current one or another."""
    if device.type == "cuda" and device.index not in (None, torch.cuda.current_device()):
        with torch.cuda.device(device):
            return torch.cuda.is_current_stream_capturing()
    return torch.cuda.is_current_stream_capturing()


def describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{list(value.shape)} {value.dtype} on {value.device}"
    return f"{type(value).__name__} {value!r}"[:80]


def check_sizes(
    table: Table,
    most: int,
    dtype: Any,
    *,
    slots: int,
    layers: int,
    heads: int,
    buffer: int,
    window: int,
) -> None:
    least = {"slots": 1, "layers": 1, "heads": 1, "buffer": 1, "window": 0}
    for name, size in zip(least, (slots, layers, heads, buffer, window), strict=True):
        check_integer(name, size, least[name])
    if heads % table.ratio:
        raise ValueError(f"heads: {heads}, expected a multiple of {table.ratio}")
    if buffer > most:
        raise ValueError(f"buffer: {buffer}, expected at most {most}")
    if window > table.most_window:
        raise ValueError(f"window: {window}, expected 0 to {table.most_window}")
    if window > buffer:
        raise ValueError(f"window: {window}, expected 0 to buffer = {buffer}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype}, expected torch.bfloat16, torch.float16 or torch.float32")


def check_integer(name: str, size: object, least: int) -> None:
    if not isinstance(size, int) or size < least:
        raise ValueError(f"{name}: {size!r}, expected an integer >= {least}")


def check_ranks(tensors: Mapping[str, Any], ranks: Mapping[str, int]) -> None:
    for name, rank in ranks.items():
        tensor = tensors[name]
        if not isinstance(tensor, torch.Tensor) or tensor.dim() != rank:
            raise ValueError(
                f"{name}: {describe(tensor)}, expected a tensor of {rank} axes, "
                "slots and layers first"
            )


def check_cache_tensor(
    name: str, tensor: Any, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    fits = isinstance(tensor, torch.Tensor) and tensor.dtype == dtype and tensor.device == device
    if not fits or tuple(tensor.shape) != tuple(shape):
        expected = f"{list(shape)} {dtype} on {device}"
        raise ValueError(f"{name}: {describe(tensor)}, expected {expected}")
    if tensor.dim() > 2 and not tensor[0, 0].is_contiguous():
        raise ValueError(
            f"{name}: strides {tensor.stride()}, expected contiguous axes after slots and layers"
        )
    if tensor.dim() < 3 and not tensor.is_contiguous():
        raise ValueError(f"{name}: strides {tensor.stride()}, expected a contiguous tensor")


def check_memory(cache: Sized) -> None:
    if cache.device.type == "meta":
        raise ValueError(
            "cache: on meta, which holds no values, "
            "expected a cache on a device that kernels run on"
        )


def check_layer(cache: Sized, layer: object) -> None:
    if not isinstance(layer, int) or not 0 <= layer < cache.layers:
        raise ValueError(f"layer: {layer!r}, expected an integer from 0 to {cache.layers - 1}")


def check_slots(cache: Sized, name: str, slots: Any, distinct: bool = True) -> torch.Tensor:
    check_memory(cache)
    fits = isinstance(slots, torch.Tensor) and slots.dtype in (torch.int32, torch.int64)
    if not fits or slots.dim() != 1 or slots.device != cache.device:
        raise ValueError(
            f"{name}: {describe(slots)}, expected [B] torch.int32 or torch.int64 on {cache.device}"
        )
    slots = slots.contiguous()
    if strict(slots) and slots.numel():
        used = slots[slots >= cache.first_slot]
        if int(slots.max()) >= cache.slots:
            raise ValueError(
                f"{name}: slot {int(slots.max())}, expected less than {cache.slots} slots"
            )
        if distinct and used.unique().numel() != used.numel():
            raise ValueError(f"{name}: {listed(slots)}, expected distinct slots")
    return slots


def check_copied(cache: Sized, src: Any, dst: Any) -> tuple[torch.Tensor, torch.Tensor]:
    src, dst = check_slots(cache, "src", src, distinct=False), check_slots(cache, "dst", dst)
    if src.numel() != dst.numel():
        raise ValueError(f"dst: {dst.numel()} slots, expected as many as src, {src.numel()}")
    if strict(dst):
        both = dst[(dst >= cache.first_slot) & torch.isin(dst, src)]
        if both.numel():
            raise ValueError(f"dst: slot {int(both[0])} is in src too, expected slots that are not")
    return src, dst


def check_per_row(
    cache: Sized, name: str, tensor: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    """What a call gets beside its slots, such as counts: its shape, dtype and device."""
    fits = isinstance(tensor, torch.Tensor) and tuple(tensor.shape) == shape
    if not fits or tensor.dtype != dtype or tensor.device != cache.device:
        expected = f"{list(shape)} {dtype} on {cache.device}"
        raise ValueError(f"{name}: {describe(tensor)}, expected {expected}")
    return tensor.contiguous()


def check_force(cache: Sized, slots: torch.Tensor, force: Any) -> torch.Tensor | None:
    if force is None:
        return None
    return check_per_row(cache, "force", force, (slots.numel(),), torch.bool)


def check_states(cache: Sized, slots: torch.Tensor, states: Mapping[str, Any]) -> None:
    table, rows = cache.table, slots.numel()
    shapes = {each.name: (rows, *table.extents(each.axes, cache.heads)) for each in table.states}
    for name, tensor in states.items():
        if name not in shapes:
            raise ValueError(f"state: no state is called {name!r}, expected {', '.join(shapes)}")
        fits = isinstance(tensor, torch.Tensor) and tuple(tensor.shape) == shapes[name]
        if not fits or tensor.dtype != torch.float32 or tensor.device != cache.device:
            expected = f"{list(shapes[name])} torch.float32 on {cache.device}"
            raise ValueError(f"state: {name} is {describe(tensor)}, expected {expected}")
    if table.state not in states:
        given = ", ".join(states) or "nothing"
        raise ValueError(f"state: {given}, expected {table.state} among them")


def check_arguments(cache: Sized, given: Mapping[str, Any], front: tuple[int, ...]) -> None:
    """Inputs and parameters: shape, device, dtype, and a contiguous last axis. front: the axes
    that inputs have before their own."""
    table = cache.table
    for each in table.inputs:
        shape = (*front, *table.extents(each.axes, cache.heads))
        check_argument(cache, each.name, given[each.name], shape, bool(each.axes))
    for each in table.params:
        shape = table.extents(each.axes, cache.heads)
        check_argument(cache, each.name, given[each.name], shape, bool(each.axes))
    check_recorded(cache, given, table.recorded)


def check_argument(
    cache: Sized, name: str, tensor: Any, shape: tuple[int, ...], has_axes: bool
) -> None:
    dtypes = "float32, bfloat16 or float16"
    fits = isinstance(tensor, torch.Tensor) and tuple(tensor.shape) == shape
    if not fits or tensor.device != cache.device:
        raise ValueError(
            f"{name}: {describe(tensor)}, expected {list(shape)} of {dtypes} on {cache.device}"
        )
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name}: {describe(tensor)}, expected {dtypes}")
    if has_axes and shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name}: strides {tensor.stride()}, expected a contiguous last axis")


def check_recorded(cache: Sized, given: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """Inputs that are recorded as they came: a rounded copy would change the recurrence."""
    for name in names:
        dtype = given[name].dtype
        if dtype != cache.dtype:
            raise ValueError(
                f"{name}: {dtype}, expected the cache's dtype {cache.dtype}, as it is recorded"
            )


def check_out(
    cache: Sized, out: Any, front: tuple[int, ...], given: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    if out is None:
        return new_out(cache, front, given)
    like = given[cache.table.output_like]
    shape = (*front, cache.heads, cache.table.sizes["V"])
    fits = isinstance(out, torch.Tensor) and tuple(out.shape) == shape
    if not fits or out.dtype != like.dtype or out.device != cache.device:
        expected = f"{list(shape)} {like.dtype} on {cache.device}"
        raise ValueError(f"out: {describe(out)}, expected {expected}")
    if shape[-1] > 1 and out.stride(-1) != 1:
        raise ValueError(f"out: strides {out.stride()}, expected a contiguous last axis")
    return out


def new_out(
    cache: Sized, front: tuple[int, ...], given: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Room for the outputs of so many rows, or rows and tokens."""
    shape = (*front, cache.heads, cache.table.sizes["V"])
    return torch.empty(shape, dtype=given[cache.table.output_like].dtype, device=cache.device)


def check_first(table: Table, first: Any, packed: bool = False) -> int:
    """The tokens of a window, or of packed prompts, by the first input."""
    name, axis = table.inputs[0].name, 0 if packed else 1
    if not isinstance(first, torch.Tensor) or first.dim() <= axis or first.shape[axis] < 1:
        expected = "[tokens, …]" if packed else "[B, T, …] with T >= 1"
        raise ValueError(f"{name}: {describe(first)}, expected {expected}")
    return first.shape[axis]


def check_parents(cache: Sized, parents: Any, rows: int, tokens: int) -> None:
    fits = isinstance(parents, torch.Tensor) and tuple(parents.shape) == (rows, tokens)
    if not fits or parents.dtype != torch.int32 or parents.device != cache.device:
        expected = f"{[rows, tokens]} torch.int32 on {cache.device}"
        raise ValueError(f"parents: {describe(parents)}, expected {expected}")
    if strict(parents) and parents.numel():
        late = (parents >= torch.arange(tokens, device=parents.device)).nonzero()
        if late.numel():
            row, token = listed(late[0])
            parent = int(parents[row, token])
            raise ValueError(f"parents: {parent} at [{row}, {token}], expected a node before it")


def check_lengths(cache: Sized, lengths: Any, rows: int, tokens: int) -> None:
    fits = isinstance(lengths, torch.Tensor) and tuple(lengths.shape) == (rows,)
    fits = fits and lengths.is_contiguous() and lengths.device == cache.device
    if not fits or lengths.dtype != torch.int32:
        expected = f"contiguous [{rows}] torch.int32 on {cache.device}"
        raise ValueError(f"lengths: {describe(lengths)}, expected {expected}")
    if strict(lengths) and rows:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > tokens:
            raise ValueError(f"lengths: {low} to {high}, expected 0 to T = {tokens}")


def check_starts(cache: Sized, starts: Any, rows: int, tokens: int) -> None:
    fits = isinstance(starts, torch.Tensor) and tuple(starts.shape) == (rows + 1,)
    fits = fits and starts.is_contiguous() and starts.device == cache.device
    if not fits or starts.dtype != torch.int32:
        expected = f"contiguous [{rows + 1}] torch.int32 on {cache.device}"
        raise ValueError(f"starts: {describe(starts)}, expected {expected}")
    if strict(starts):
        given = listed(starts)
        falls = any(after < before for before, after in pairwise(given))
        if falls or given[0] < 0 or given[-1] > tokens:
            raise ValueError(
                f"starts: {given}, expected numbers from 0 to {tokens} that do not decrease"
            )


def check_cursors(cache: Sized, slots: torch.Tensor, cursors: Any) -> torch.Tensor:
    cursors = check_per_row(cache, "cursors", cursors, (slots.numel(),), torch.int32)
    if strict(cursors):
        for slot, cursor in zip(listed(slots), listed(cursors), strict=True):
            if is_row(cache, slot):
                cache.check_sought(slot, cursor)
    return cursors


def check_saved(
    cache: Sized, saved: Any, shapes: Mapping[str, tuple[tuple[int, ...], int | None]]
) -> None:
    """What `restore` gets: the tensors of saved rows; one axis of each may have any length."""
    wanted = {"spec": (shapes["cursors"], torch.int64)}
    wanted |= {name: (shape, cache.sample(name).dtype) for name, shape in shapes.items()}
    if not isinstance(saved, Mapping):
        raise ValueError(f"saved: {describe(saved)}, expected what `save` gives")
    missing = [name for name in wanted if name not in saved]
    if missing:
        raise ValueError(f"saved: {', '.join(missing)} missing, expected {', '.join(wanted)}")
    for name, ((shape, free), dtype) in wanted.items():
        tensor = unknown(saved[name])
        fits = isinstance(tensor, torch.Tensor) and tensor.dim() == len(shape)
        fits = fits and all(
            axis == free or size == length
            for axis, (size, length) in enumerate(zip(tuple(tensor.shape), shape, strict=True))
        )
        if not fits or tensor.dtype != dtype:
            expected = f"{list(shape)} {dtype}"
            raise ValueError(f"saved: {name} is {describe(tensor)}, expected {expected}")
    spec = unknown(saved["spec"])
    if strict(spec) and any(each != cache.table.digest for each in listed(spec)):
        raise ValueError(f"saved: rows of another spec, expected those of {cache.table.name}")


def check_path_shape(cache: Sized, slots: torch.Tensor, path: Any) -> torch.Tensor:
    most = max(1, cache.window)
    tokens = path.shape[1] if isinstance(path, torch.Tensor) and path.dim() == 2 else most
    if not 1 <= tokens <= most:
        raise ValueError(f"path: {describe(path)}, expected 1 to {most} nodes a row")
    return check_per_row(cache, "path", path, (slots.numel(), tokens), torch.int32)
