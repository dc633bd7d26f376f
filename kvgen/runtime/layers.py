"""A cache whose layers lie apart, each in tensors of its own, as servers allocate them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kvgen.runtime.arguments import describe
from kvgen.runtime.cache import BOOKS, Cache
from kvgen.runtime.calls import Calls
from kvgen.runtime.launches import Given
from kvgen.runtime.numbers import unknown
from kvgen.runtime.table import Held


class LayeredCache(Cache):
    """Caches of one layer each, which share their books.

    tensors: as they were given, a list with one tensor for each layer of states, records and
    carried states, [slots, …]. What goes over all layers, such as a fold, is launched once for
    each.
    """

    def __init__(
        self, tensors: Mapping[str, Any], window: int, first_slot: int, invariant: bool
    ) -> None:
        names = [held.name for held in self.table.held]
        layers = check_lists(tensors, self.table.held)
        shared = {name: tensor for name, tensor in tensors.items() if name not in names}
        self.parts: list[Cache] = []
        for layer in range(layers):
            own = {name: tensors[name][layer].unsqueeze(1) for name in names}
            part = Cache(own | shared, window, first_slot, invariant)
            # the first allocates what is missing
            shared |= {name: part.tensors[name] for name in BOOKS}
            part.layer = layer
            self.parts.append(part)
        vars(self).update(vars(self.parts[0]))
        self.tensors = {name: list(tensors[name]) for name in names} | shared
        self.layers, self.calls = layers, Calls()
        watched = self.flat()
        for part in self.parts:
            part.watched = watched
        self.register()

    def flat(self) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for tensor in self.tensors.values():
            found += tensor if isinstance(tensor, list) else [tensor]
        return found

    def with_tensors(self, tensors: list[torch.Tensor]) -> Cache:
        other, left = copy.copy(self), list(tensors)
        other.tensors = {
            name: [left.pop(0) for _ in range(self.layers)]
            if isinstance(self.tensors[name], list)
            else left.pop(0)
            for name in self.tensors
        }
        other.parts = []
        for layer, part in enumerate(self.parts):
            own: dict[str, Any] = {
                name: unknown(tensor)[layer].unsqueeze(1) if isinstance(tensor, list) else tensor
                for name, tensor in other.tensors.items()
            }
            other.parts.append(part.with_tensors(list(own.values())))
        return other

    def sample(self, name: str) -> torch.Tensor:
        return self.parts[0].tensors[name]

    def at(self, layer: int) -> Cache:
        """A layer's cache; one step goes over all of them."""
        part = self.parts[layer]
        part.step = self.step
        return part

    # -- over one layer

    def load_matrix(self, layer: int, slots: torch.Tensor, matrix: torch.Tensor) -> None:
        self.step = None
        self.parts[layer].load_matrix(0, slots, matrix)

    def read_matrix(self, layer: int, slots: torch.Tensor, matrix: torch.Tensor) -> None:
        self.step = None
        self.parts[layer].read_matrix(0, slots, matrix)

    def move_carried(
        self, name: str, outer: torch.Tensor, layer: int, slots: torch.Tensor, load: bool
    ) -> None:
        self.parts[layer].move_carried(name, outer, 0, slots, load)

    def run_decode(self, layer: int, slots: torch.Tensor, given: Given, out: torch.Tensor) -> None:
        part = self.at(layer)
        part.run_decode(0, slots, given, out)
        self.step = part.step

    def run_recurrent(
        self, layer: int, slots: torch.Tensor, given: Given, out: torch.Tensor
    ) -> None:
        self.step = None
        self.parts[layer].run_recurrent(0, slots, given, out)

    def run_verify(
        self,
        layer: int,
        slots: torch.Tensor,
        parents: torch.Tensor | None,
        given: Given,
        out: torch.Tensor,
    ) -> None:
        part = self.at(layer)
        part.run_verify(0, slots, parents, given, out)
        self.step = part.step

    def run_extend(
        self,
        layer: int,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        given: Given,
        out: torch.Tensor,
        packed: bool = False,
    ) -> None:
        self.step = None
        self.parts[layer].run_extend(0, slots, lengths, given, out, packed)

    # -- over all layers

    def fill(self, slots: torch.Tensor, *initial: Held) -> None:
        for part in self.parts:
            part.fill(slots, *initial)

    def copy_slots(self, src: torch.Tensor, dst: torch.Tensor, names: list[str]) -> None:
        lists = [name for name in names if isinstance(self.tensors[name], list)]
        for part in self.parts:
            part.copy_slots(src, dst, lists)
        super().copy_slots(src, dst, [name for name in names if name not in lists])

    def saved_shapes(self, rows: int) -> dict[str, tuple[tuple[int, ...], int | None]]:
        found = self.parts[0].saved_shapes(rows)
        return {
            name: ((rows, self.layers, *shape[2:]) if len(shape) > 1 else shape, free)
            for name, (shape, free) in found.items()
        }

    def move(self, name: str, rows: torch.Tensor, slots: torch.Tensor, save: bool) -> None:
        if not isinstance(self.tensors[name], list):
            super().move(name, rows, slots, save)
            return
        for layer, part in enumerate(self.parts):
            part.move(name, rows[:, layer : layer + 1], slots, save)

    def fold(self, slots: torch.Tensor) -> None:
        for part in self.parts:
            part.fold(slots)


Cache.layered = LayeredCache


def check_lists(tensors: Mapping[str, Any], held: Sequence[Held]) -> int:
    """How many layers there are, by lists with a tensor for each, all alike."""
    layers = 0
    for name, axes in ((each.name, 1 + len(each.axes)) for each in held):
        given = unknown(tensors[name])
        found: list[Any] = [*unknown(given)] if isinstance(given, (list, tuple)) else []
        whole = [each for each in found if isinstance(each, torch.Tensor)]
        if not found or len(whole) != len(found):
            raise ValueError(
                f"{name}: {describe(tensors[name])}, expected a list of tensors as of others"
            )
        for each in whole:
            check_alike(name, each, whole[0], axes)
        layers = layers or len(whole)
        if len(whole) != layers:
            raise ValueError(f"{name}: {len(whole)} layers, expected {layers}")
    return layers


def check_alike(name: str, tensor: torch.Tensor, first: torch.Tensor, axes: int) -> None:
    """Whether a layer's tensor is one, and as those of the first layer."""
    if tensor.dim() != axes:
        expected = f"a list of tensors of {axes} axes, slots first"
        raise ValueError(f"{name}: {describe(tensor)}, expected {expected}")
    kinds = [(tuple(each.shape), each.dtype, each.device) for each in (tensor, first)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{name}: {describe(tensor)}, expected {describe(first)} as in layer 0")
