"""What a cache is made of: its tensors by name, their sizes, and the device they are on."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
import triton  # pyright: ignore[reportMissingTypeStubs]
import triton.language as tl  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor

from kvgen.runtime.arguments import DTYPES, check_integer, check_tensor, describe, wrong
from kvgen.runtime.calls import Calls
from kvgen.runtime.device import (
    check_tuned,
    compiled,
    device_properties,
    gpu_name,
    overlapping,
)
from kvgen.runtime.launches import Step
from kvgen.runtime.numbers import unknown
from kvgen.runtime.table import Held, Table

# whether Triton's own functions are compiled says when TRITON_INTERPRET was set
library_sum: Any = operator.attrgetter("sum")(tl)

# what a cache keeps beside states and records
BOOKS = ("cursors", "skipped", "pending", "work")

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


class Storage:
    """A cache's tensors and sizes.

    groups: by name the states, records and carried states, [slots, layers, …], of layers that lie
    together: of all, or of each alone where a server allocates them so. joined: how many those are.
    watched: the tensors that a write to shows between two calls.
    """

    table: Table
    # 0: every row has a state
    short_context = 0

    def __init__(
        self, tensors: Mapping[str, Any], window: int = 0, first_slot: int = 0,
        invariant: bool = False, fold: str = "parts",
    ) -> None:  # fmt: skip
        self.size_up(tensors)
        self.begin_at(first_slot, invariant, fold)
        records = self.table.of("record")[0]
        places = 2 + records.axes.index("places")
        self.buffer, self.window = self.groups[0][records.name].shape[places], window
        self.check_sizes(self.table.most_places)
        sizes = self.slots, self.joined, self.heads, self.buffer, self.dtype
        self.prepare(self.shapes(*sizes), BOOKS)

    def size_up(self, tensors: Mapping[str, Any]) -> None:
        """Take device, sizes and dtype from the tensors."""
        self.tensors: dict[str, Any] = dict(tensors)
        self.tokens = frozenset(each.name for each in self.table.inputs)
        plane, records = self.table.planes[0], self.table.of("record")
        if any(isinstance(tensors[each.name], (list, tuple)) for each in self.table.held):
            check_lists(tensors, self.table.held)
            self.tensors |= {each.name: list(tensors[each.name]) for each in self.table.held}
        self.regroup()
        given = next((held for held in records if held.dtype is None), None)
        by_size = [each for each in (records[0], given) if each]
        first = self.groups[0]
        check_ranks(first, {plane: 5} | {held.name: 2 + len(held.axes) for held in by_size})
        self.device = first[plane].device
        self.slots, self.joined, self.heads = first[plane].shape[:3]
        self.layers = self.joined * len(self.groups)
        self.dtype = first[given.name].dtype if given else torch.bfloat16
        axes = {each.axes for each in (*self.table.inputs, *self.table.params)}
        self.extents = {each: self.table.extents(each, self.heads) for each in axes}

    def regroup(self) -> None:
        """Find the tensors of layers that lie together."""
        self.groups: list[Mapping[str, Tensor]] = [self.tensors]
        names = [each.name for each in self.table.held]
        if isinstance(self.tensors[names[0]], list):
            layers = zip(*(self.tensors[name] for name in names), strict=True)
            self.groups = [
                dict(zip(names, (each.unsqueeze(1) for each in layer), strict=True))
                for layer in layers
            ]

    def begin_at(self, first_slot: int, invariant: bool, fold: str) -> None:
        """Which slots are for padding, whether a row's bits depend on nothing but itself, and when
        rows fold."""
        check_options(self.slots, first_slot, invariant, fold)
        self.first_slot, self.invariant = first_slot, invariant
        # when others are full is none of a row's business where its bits are its own
        self.fold = "row" if invariant else fold

    @property
    def rows(self) -> tuple[int, int]:
        """Which slots there are, as kernels get it."""
        return self.slots, self.first_slot

    def bounds(self) -> list[int]:
        """The same with the heads of each."""
        return [self.heads, *self.rows]

    def books(self) -> list[Tensor]:
        """Which records rows hold, as kernels get it."""
        return [self.tensors["cursors"], self.tensors["skipped"]]

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
            for tensor in self.of(name):
                check_cache_tensor(name, tensor, shape, dtype, self.device)
        self.watched = self.flat()

    def register(self) -> None:
        """Let the module's ops find the cache by its handle."""
        # a text from here on: in a graph of any sizes the digest would be a symbol
        self.namespace = self.table.namespace
        known = unknown(vars(getattr(torch.ops, self.namespace)))
        # numbers that no other cache gets, though this one may be gone
        self.handle = next(known.setdefault("handles", itertools.count(1)))
        caches: WeakValueDictionary[int, Storage] = WeakValueDictionary()
        known.setdefault("caches", caches)[self.handle] = self

    def at(self, layer: int) -> tuple[Mapping[str, Tensor], int]:
        """The tensors that hold a layer, and which of theirs it is."""
        group, inner = divmod(layer, self.joined)
        return self.groups[group], inner

    def of(self, name: str) -> list[Tensor]:
        """The tensors of a name, [slots, layers, …], or a book, [slots, …]."""
        held = any(each.name == name for each in self.table.held)
        return [group[name] for group in self.groups] if held else [self.tensors[name]]

    def over(self, name: str) -> Iterator[tuple[Tensor, int, int]]:
        """The same, each with its layers and the stride of one; a book has none."""
        held = any(each.name == name for each in self.table.held)
        for tensor in self.of(name):
            yield (tensor, self.joined, tensor.stride(1)) if held else (tensor, 1, 0)

    def flat(self) -> list[Tensor]:
        """Every tensor, those of each layer where layers lie apart."""
        return list(self.named().values())

    def named(self) -> dict[str, Tensor]:
        """The same by name."""
        found: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            apart = isinstance(tensor, list)
            for layer, each in enumerate(unknown(tensor if apart else [tensor])):
                found[f"{name}[{layer}]" if apart else name] = each
        return found

    def with_tensors(self, tensors: list[Tensor]) -> Storage:
        """The same cache over other tensors, in the order of `flat`."""
        other, left = copy.copy(self), iter(tensors)
        other.tensors = {
            name: [next(left) for _ in unknown(each)] if isinstance(each, list) else next(left)
            for name, each in self.tensors.items()
        }
        other.regroup()
        return other

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


def check_sizes(table: Table, most: int, dtype: Any, **sizes: Any) -> None:
    """Whether a cache may have these slots, layers, heads, places and window."""
    least = {"slots": 1, "layers": 1, "heads": 1, "buffer": 1, "window": 0}
    for name in least:
        check_integer(name, sizes[name], least[name])
    heads, buffer, window = sizes["heads"], sizes["buffer"], sizes["window"]
    if heads % table.ratio:
        raise wrong("heads", heads, f"a multiple of {table.ratio}")
    if buffer > most:
        raise wrong("buffer", buffer, f"at most {most}")
    if window > table.most_window:
        raise wrong("window", window, f"0 to {table.most_window}")
    if window > buffer:
        raise wrong("window", window, f"0 to buffer = {buffer}")
    if dtype not in DTYPES:
        raise wrong("dtype", dtype, "torch.bfloat16, torch.float16 or torch.float32")


def check_options(slots: int, first_slot: int, invariant: object, fold: object) -> None:
    check_integer("slots", slots, 1)
    check_integer("first_slot", first_slot, 0)
    if first_slot >= slots:
        raise wrong("first_slot", first_slot, f"less than {slots} slots")
    if type(invariant) is not bool:
        raise wrong("invariant", repr(invariant), "True or False")
    if fold not in ("parts", "row"):
        raise wrong("fold", repr(fold), "'parts' or 'row'")


def check_ranks(tensors: Mapping[str, Any], ranks: Mapping[str, int]) -> None:
    for name, rank in ranks.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor) or tensor.dim() != rank:
            expected = f"a tensor of {rank} axes, slots and layers first"
            raise wrong(name, describe(tensor), expected)


def check_cache_tensor(
    name: str, tensor: Any, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    check_tensor(name, tensor, shape, dtype, device)
    if tensor.dim() > 2 and not tensor[0, 0].is_contiguous():
        strides = f"strides {tensor.stride()}"
        raise wrong(name, strides, "contiguous axes after slots and layers")
    if tensor.dim() < 3 and not tensor.is_contiguous():
        raise wrong(name, f"strides {tensor.stride()}", "a contiguous tensor")


def check_lists(tensors: Mapping[str, Any], held: Sequence[Held]) -> None:
    """Whether layers that lie apart have a tensor each of every name, all alike."""
    layers = 0
    for name, axes in ((each.name, 1 + len(each.axes)) for each in held):
        given = unknown(tensors[name])
        found: list[Any] = [*unknown(given)] if isinstance(given, (list, tuple)) else []
        whole = [each for each in found if isinstance(each, Tensor)]
        if not found or len(whole) != len(found):
            raise wrong(name, describe(tensors[name]), "a list of tensors as of others")
        for each in whole:
            check_alike(name, each, whole[0], axes)
        layers = layers or len(whole)
        if len(whole) != layers:
            raise wrong(name, f"{len(whole)} layers", str(layers))


def check_alike(name: str, tensor: Tensor, first: Tensor, axes: int) -> None:
    """Whether a layer's tensor is one, and as those of the first layer."""
    if tensor.dim() != axes:
        expected = f"a list of tensors of {axes} axes, slots first"
        raise wrong(name, describe(tensor), expected)
    kinds = [(tuple(each.shape), each.dtype, each.device) for each in (tensor, first)]
    if kinds[0] != kinds[1]:
        raise wrong(name, describe(tensor), f"{describe(first)} as in layer 0")
