"""Checks of what a caller gives, before anything is launched: what came, what was expected."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kvgen.runtime.numbers import listed, unknown
from kvgen.runtime.table import Table

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


class Sized(Protocol):
    """What checks need to know of a cache. tokens: the inputs, which every token has its own of.
    extents: axes of inputs and parameters as numbers, with which every call is compared."""

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
    tokens: frozenset[str]
    extents: dict[tuple[str, ...], tuple[int, ...]]

    def named(self) -> dict[str, Tensor]: ...


def is_row(cache: Sized, slot: int) -> bool:
    """Whether a slot is a request's, and not padding."""
    return cache.first_slot <= slot < cache.slots


def in_use(cache: Sized, slots: Tensor) -> Tensor:
    """Which rows are requests', and not padding."""
    return (slots >= cache.first_slot) & (slots < cache.slots)


def strict(tensor: Tensor) -> bool:
    """Whether values are checked: on a GPU that waits for them, which a graph's capture forbids."""
    if tensor.device.type == "cpu":
        return True
    return os.environ.get("KVGEN_CHECK") == "1" and not captured(tensor)


def captured(tensor: Tensor) -> bool:
    """Whether what is done to the tensor now goes into a graph."""
    return tensor.device.type == "cuda" and capturing(tensor.device)


def capturing(device: torch.device) -> bool:
    """Whether a graph is captured on a GPU, the current one or another."""
    if device.type == "cuda" and device.index not in (None, torch.cuda.current_device()):
        with torch.cuda.device(device):
            return torch.cuda.is_current_stream_capturing()
    return torch.cuda.is_current_stream_capturing()


def wrong(name: str, came: object, expected: str) -> ValueError:
    """The error of an argument: what came of it, and what was expected."""
    return ValueError(f"{name}: {came}, expected {expected}")


def describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {value.dtype} on {value.device}"
    kind, held = type(value).__name__, unknown(value)
    text = " ".join(f"{kind} {held!r}".split())
    if len(text) > 80 and isinstance(value, Collection):
        # the beginning of what it holds says less than how much that is
        names = isinstance(value, Mapping)
        text = f"{kind} of {', '.join(map(str, held)) if names else len(held)}"
    return text if len(text) <= 80 else f"{text[:80].rpartition(' ')[0]} …"


def check_tensor(
    name: str, tensor: Any, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    fits = isinstance(tensor, Tensor) and tuple(tensor.shape) == tuple(shape)
    if not fits or tensor.dtype != dtype or tensor.device != device:
        raise wrong(name, describe(tensor), f"{list(shape)} {dtype} on {device}")


def check_contiguous(name: str, tensor: Tensor, has_axes: bool = True) -> None:
    """What kernels take as it lies: values, and the last axis of its own."""
    if has_axes and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise wrong(name, f"strides {tensor.stride()}", "a contiguous last axis")
    if tensor.is_neg():
        raise wrong(name, "a view that negates its memory", "resolve_neg() of it")


def check_integer(name: str, size: object, least: int) -> None:
    if type(size) is not int or size < least:
        raise wrong(name, repr(size), f"an integer >= {least}")


def check_memory(cache: Sized) -> None:
    if cache.device.type == "meta":
        raise wrong("cache", "on meta, without values", "a cache on a device that kernels run on")


def check_layer(cache: Sized, layer: object) -> None:
    if type(layer) is not int or not 0 <= layer < cache.layers:
        raise wrong("layer", repr(layer), f"an integer from 0 to {cache.layers - 1}")


def check_slots(cache: Sized, name: str, slots: Any, distinct: bool = True) -> Tensor:
    check_memory(cache)
    fits = isinstance(slots, Tensor) and slots.dtype in (torch.int32, torch.int64)
    if not fits or slots.dim() != 1 or slots.device != cache.device:
        raise wrong(name, describe(slots), f"[B] torch.int32 or torch.int64 on {cache.device}")
    slots = slots.contiguous()
    if strict(slots) and slots.numel():
        used = slots[slots >= cache.first_slot]
        if int(slots.max()) >= cache.slots:
            raise wrong(name, f"slot {int(slots.max())}", f"less than {cache.slots} slots")
        if distinct and used.unique().numel() != used.numel():
            raise wrong(name, listed(slots), "distinct slots")
    return slots


def check_per_row(
    cache: Sized, name: str, tensor: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """What a call gets beside its slots, such as counts: its shape, dtype and device."""
    check_tensor(name, tensor, shape, dtype, cache.device)
    return tensor.contiguous()


def check_force(cache: Sized, slots: Tensor, force: Any) -> Tensor | None:
    return None if force is None else check_per_row(cache, "force", force, slots.shape, torch.bool)


def check_arguments(cache: Sized, given: Mapping[str, Any], front: tuple[int, ...]) -> None:
    """Inputs and parameters: shape, device, dtype, and a contiguous last axis. front: the axes
    that inputs have before their own."""
    for each in (*cache.table.inputs, *cache.table.params):
        own = cache.extents[each.axes]
        shape = (*front, *own) if each.name in cache.tokens else own
        check_argument(cache, each.name, given[each.name], shape, bool(each.axes))
    # a rounded copy of inputs that are recorded as they came would change the recurrence
    for name in cache.table.recorded:
        if (dtype := given[name].dtype) != cache.dtype:
            raise wrong(name, dtype, f"the cache's dtype {cache.dtype}, as it is recorded")


def check_argument(
    cache: Sized, name: str, tensor: Any, shape: tuple[int, ...], has_axes: bool
) -> None:
    dtypes = "float32, bfloat16 or float16"
    fits = isinstance(tensor, Tensor) and tuple(tensor.shape) == shape
    if not fits or tensor.device != cache.device:
        raise wrong(name, describe(tensor), f"{list(shape)} of {dtypes} on {cache.device}")
    if tensor.dtype not in DTYPES:
        raise wrong(name, describe(tensor), dtypes)
    check_contiguous(name, tensor, has_axes)


def check_shapes(table: Table, rows: int, heads: int, given: Mapping[str, Tensor]) -> None:
    """What `reference` gets, in any dtype and on any device: axes that broadcast are no others."""
    for each in (*table.inputs, *table.states, *table.params):
        front = () if each in table.params else (rows,)
        shape = [*front, *table.extents(each.axes, heads)]
        if list(getattr(given.get(each.name), "shape", ())) != shape:
            raise wrong(each.name, describe(given.get(each.name)), str(shape))
