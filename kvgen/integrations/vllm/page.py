"""What a layer keeps in a block of vLLM's: its own convolution and state, then kvgen's records."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

# as far as loads of a GPU reach at once
ALIGNMENT = 128


@dataclass(frozen=True)
class Piece:
    """A tensor of a page. offset: bytes behind the page's begin."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def of(self, pages: torch.Tensor) -> torch.Tensor:
        """The tensor in all pages, [blocks, *shape]. pages: [blocks, bytes] int8."""
        held = pages[:, self.offset : self.offset + self.bytes].view(self.dtype)
        return held.view(-1, *self.shape)


@dataclass(frozen=True)
class Page:
    """state: the plane that lies where vLLM has its own state. more: what lies behind. begin, end:
    where that part of a page does, in bytes."""

    state: Piece
    more: tuple[Piece, ...]
    buffer: int
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.begin

    def tensors(self, pages: torch.Tensor) -> dict[str, torch.Tensor]:
        """All of them by name, [blocks, *shape]. pages: [blocks, bytes] int8."""
        return {piece.name: piece.of(pages) for piece in (self.state, *self.more)}


def plan(
    module: ModuleType,
    convolution: int,
    *,
    dtype: torch.dtype,
    heads: int,
    buffer: int | None,
    window: int,
    device: torch.device | str,
) -> Page:
    """The page of a layer. convolution: bytes of what lies before the state. The rest is as
    `Cache.layout` has it."""
    layout = module.Cache.layout(
        1, 1, dtype=dtype, heads=heads, buffer=buffer, window=window, device=device
    )
    table = module.Cache.table
    shapes = {
        held.name: (layout[held.name].shape[2:], layout[held.name].dtype) for held in table.held
    }
    first = table.planes[0]
    state = Piece(first, *shapes.pop(first), convolution)
    begin = end = convolution + state.bytes
    more: list[Piece] = []
    for name, (shape, each) in shapes.items():
        piece = Piece(name, shape, each, math.ceil(end / ALIGNMENT) * ALIGNMENT)
        more.append(piece)
        end = piece.offset + piece.bytes
    record = table.of("record")[0]
    places = layout[record.name].shape[2 + record.axes.index("places")]
    return Page(state, tuple(more), places, begin, end)


def side_by_side(layers: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Tensors [blocks, …] of one memory, each as far from the one before as the next, as one
    [blocks, layers, …]; None where they do not lie so."""
    first = layers[0]
    places = [each.storage_offset() for each in layers]
    steps = {after - before for before, after in itertools.pairwise(places)}
    alike = all(
        each.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        and each.shape == first.shape
        and each.stride() == first.stride()
        for each in layers
    )
    step = steps.pop() if len(steps) == 1 else 0
    if not alike or steps or (step <= 0 and len(layers) > 1):
        return None
    shape = (first.shape[0], len(layers), *first.shape[1:])
    stride = (first.stride(0), step or first.stride(0), *first.stride()[1:])
    return first.as_strided(shape, stride, places[0])
