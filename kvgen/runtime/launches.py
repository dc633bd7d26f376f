"""Launches of kernels: their arguments in order, early launch within a step, the right GPU."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from kvgen.runtime.arguments import Sized, capturing
from kvgen.runtime.device import configuration
from kvgen.runtime.numbers import parts_of
from kvgen.runtime.table import Signature, Table

# how often torch has written to a tensor
version = operator.attrgetter("_version")

Given = Mapping[str, Tensor]
# the batch that stands for all where a row's bits must not depend on it
INVARIANT_ROWS = 64
# what the kernels of one step share, the layers that have run as bits, and the step's slots
Step = tuple[object, int, Tensor]


class Launching(Sized, Protocol):
    """What launches need to know of a cache.

    processors: multiprocessors of its GPU. overlaps: whether that can launch a kernel before the
    one in front has ended. step: of the last call, if another may begin before that has ended. at:
    the tensors that hold a layer, and which of theirs it is. books, bounds: which records and which
    slots there are, as kernels get it.
    """

    gpu: str
    processors: int
    overlaps: bool
    watched: list[Tensor]
    invariant: bool
    step: Step | None

    def at(self, layer: int) -> tuple[Mapping[str, Tensor], int]: ...

    def books(self) -> list[Tensor]: ...

    def bounds(self) -> list[int]: ...


def launch(
    cache: Launching, name: str, grid: tuple[int, ...], *args: Any, step: Step | None = None,
    **options: Any,
) -> None:  # fmt: skip
    """Launch a kernel on the cache's GPU; an empty grid launches nothing."""
    kernel = cache.table.kernel(name)
    # only behind a decode of its own step may a kernel begin before the one in front has ended; the
    # second call of a layer belongs to another step
    before, cache.step = cache.step, None
    if step is not None and before is not None and step[0] == before[0] and not step[1] & before[1]:
        options["launch_pdl"] = True
        step = step[0], step[1] | before[1], step[2]
    if grid[0] == 0:
        return
    if cache.device.type == "cuda" and cache.device.index != torch.cuda.current_device():
        with torch.cuda.device(cache.device):
            kernel[grid](*args, **options)
    else:
        kernel[grid](*args, **options)
    cache.step = step


def step_of(cache: Launching, layer: int, slots: Tensor) -> Step | None:
    """What the decodes of one step share, rows, stream and a cache that nobody writes to; and the
    layer.

    Between two such decodes of different layers the second may begin early: until it waits it reads
    `slots` and the cache's own tensors alone, which no kernel since the first decode has changed.
    In inference mode, where changes by torch are not seen, kvgen's own calls alone say where a step
    ends. None where nothing begins early.
    """
    if not cache.overlaps:
        return None
    # a graph's first decode has in front of it whatever the graph will be launched behind
    stream = torch.cuda.current_stream(cache.device).cuda_stream, capturing(cache.device)
    written = [written_to(tensor) for tensor in cache.watched]
    rows = slots.data_ptr(), slots.numel(), written_to(slots)
    # `slots` itself too: while it is held, no other rows can come to lie there
    return (rows, stream, written), 1 << layer, slots


def written_to(tensor: Tensor) -> int:
    """How often torch has written to a tensor; in inference mode nobody counts."""
    return 0 if tensor.is_inference() else version(tensor)


def strides_of(tensors: Iterable[Tensor], layer: int) -> list[int]:
    """For every tensor the stride of a slot and the offset of the layer, in elements."""
    return [number for tensor in tensors for number in (tensor.stride(0), layer * tensor.stride(1))]


def launch_tokens(
    cache: Launching, name: str, grid: tuple[int, ...], layer: int, slots: Tensor, given: Given,
    out: Tensor, *, books: Iterable[Tensor] = (), before: Iterable[int] = (),
    behind: Iterable[int] = (), packed: bool = False, step: Step | None = None, **options: Any,
) -> None:  # fmt: skip
    """Launch a kernel that takes tokens. books: what it reads of rows beside those of all kernels;
    before, behind: numbers in front of the cache's own and behind them. packed: rows' tokens lie
    one behind the other, so that the stride of a row is that of a token."""
    signature = cache.table.kernels[name]
    tensors, inner = cache.at(layer)
    used = [tensors[each] for each in signature.tensors]
    front = out.dim() - 2
    strides: list[int] = []
    for each in signature.arguments:
        own = given[each].stride()
        # the last axis is contiguous, but for an input that has no axes of its own
        if each not in cache.tokens:
            strides += own[:-1]
        else:
            own = own[: max(front, len(own) - 1)]
            strides += [own[0], *own] if packed else own
    outer = out.stride()[:-1]
    launch(
        cache, name, grid, out, slots, *cache.books(), *books,
        *(given[each] for each in signature.arguments), *used, *before, *cache.bounds(), *behind,
        *([outer[0], *outer] if packed else outer), *strides, *strides_of(used, inner),
        step=step, **options,
    )  # fmt: skip


def configured(
    cache: Launching, kernel: str, rows: int, given: Given | None = None
) -> dict[str, Any]:
    """A kernel's configuration for so many rows of these inputs."""
    vectors = [given[name] for name in cache.table.vectors] if given else []
    return configuration(cache.table, cache.gpu, kernel, batch_of(cache, rows), vectors)


def batch_of(cache: Launching, rows: int) -> int:
    """The batch whose configuration rows have: what sums are split into follows from that."""
    return INVARIANT_ROWS if cache.invariant else rows


def parts_grid(
    cache: Launching, signature: Signature, rows: int, config: Mapping[str, int]
) -> tuple[tuple[int], int]:
    """The grid of a kernel whose programs have TILES tiles of a head each, or of a group's heads;
    and how many those are."""
    tiles, units = value_tiles(cache.table, config), cache.heads
    if signature.grouped:
        tiles, units = tiles * cache.table.ratio, units // cache.table.ratio
    each = math.gcd(tiles, config["TILES"])
    return (rows * units * (tiles // each),), each


def tiles_grid(cache: Launching, rows: int, config: Mapping[str, int]) -> tuple[int]:
    """The grid of a kernel with one tile of a head in each program."""
    return (rows * cache.heads * value_tiles(cache.table, config),)


def value_tiles(table: Table, config: Mapping[str, int]) -> int:
    return parts_of(table.sizes["V"], config["TILE"])
