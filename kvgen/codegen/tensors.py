"""What a cache holds, as kernels take it: the matrix state's planes, records, carried states."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.addresses import carried_address, head_count, mask_of, records_of_head
from kvgen.codegen.names import local, namer_for
from kvgen.codegen.shapes import Shapes
from kvgen.formats.state import Tile
from kvgen.language.spec import Spec
from kvgen.values.axes import HEADS


@dataclass(frozen=True)
class CacheTensor:
    """A tensor of the cache as the templates see it.

    shape: its text after `slots, layers`. head_offset: what a kernel adds to reach its head.
    """

    name: str
    shape: str
    dtype: str
    head_offset: str
    head: str | None

    @property
    def local(self) -> str:
        return local(self.name)

    @property
    def pointer(self) -> str:
        return f"{self.local}_ptr"

    @property
    def strides(self) -> tuple[str, ...]:
        """Of a slot, and of a layer or, where one alone is looked at, its offset."""
        return f"{self.local}_slot", f"{self.local}_layer"


@dataclass(frozen=True)
class CarriedMove:
    """A carried state as the fold moves it to the first place, where it is called `value`."""

    name: str
    value: str
    form: Form
    mask_load: str
    mask_store: str
    shape_text: str

    def at(self, place: str) -> str:
        return carried_address(self.form, self.name, place)


def tensors_of(form: Form, records: Records, shapes: Shapes, ratio: int) -> list[CacheTensor]:
    """The planes of the matrix state, its records and the carried states, in this order."""
    sizes = dict(form.spec.sizes)
    storage = form.spec.storage
    k, v = sizes["K"], sizes["V"]
    name = form.state.name
    matrix = f", heads, {v}, {k}" if storage.layout == "vk" else f", heads, {k}, {v}"
    offset = f" + {shapes.of_heads('head')} * {k * v}"
    found = [
        CacheTensor(name + plane.suffix, matrix, plane.dtype.text, offset, "HV")
        for plane in storage.state.planes
    ]
    for stored in records.stored:
        shape = f", {head_count(stored.heads, ratio)}" if stored.heads else ""
        shape += ", buffer" + (f", {sizes[stored.channel]}" if stored.channel else "")
        offset = records_of_head(stored, shapes)
        found.append(CacheTensor(stored.name, shape, stored.dtype.text, offset, stored.heads))
    for carry in form.carries:
        shape = ", buffer + 1"
        if carry.axes.head:
            shape += f", {head_count(carry.axes.head, ratio)}"
        if carry.axes.channels:
            shape += f", {sizes[carry.axes.channels]}"
        found.append(CacheTensor(carry.tensor.name, shape, "torch.float32", "", None))
    return found


def pasts_of(spec: Spec, sizes: Mapping[str, int], ratio: int) -> list[CacheTensor]:
    """The rings of inputs that have a past."""
    found: list[CacheTensor] = []
    for past in spec.pasts:
        extents = [
            head_count(axis, ratio) if axis in HEADS else str(sizes[axis])
            for axis in past.tensor.axes
        ]
        shape = ", ".join(["", "places", *extents])
        found.append(CacheTensor(past.name, shape, "dtype", "", None))
    return found


def tile_of(planes: list[str], offsets: str, mask: str) -> Tile:
    """A tile of the state."""
    return Tile(tuple(f"{local(name)}_at" for name in planes), offsets, mask)


def carried_of(form: Form, records: Records, shapes: Shapes, ratio: int) -> list[CarriedMove]:
    """How a fold moves each carried state."""
    moves: list[CarriedMove] = []
    namer = namer_for(form, records)
    sizes = dict(form.spec.sizes)
    for carry in form.carries:
        axes = carry.axes
        guards: list[str] = []
        if axes.head is None:
            guards.append("(head == 0)")
        elif axes.head == "H" and ratio > 1:
            guards.append(f"(head % {ratio} == 0)")
        if axes.channels != "V":
            guards.append("(value_tile == 0)")
        real = []
        if axes.channels and shapes.masked(axes.channels):
            real = [f"real_{shapes.index(axes.channels)}"]
        load = f", mask={real[0]}, other=0.0" if real else ""
        store = mask_of(guards, real, block=bool(axes.channels))
        store = f", mask={store}" if store else ""
        extents = []
        if axes.head:
            extents.append(head_count(axes.head, ratio))
        if axes.channels:
            extents.append(str(sizes[axes.channels]))
        text = "".join(f", {extent}" for extent in extents) or ","
        name = carry.tensor.name
        moves.append(CarriedMove(name, namer.new(name), form, load, store, text))
    return moves


def names_of(tensors: list[CacheTensor]) -> list[str]:
    """As the host knows them."""
    return [tensor.name for tensor in tensors]


def initial_planes(form: Form, planes: list[str]) -> list[tuple[str, float]]:
    """What a fresh row has in each plane, by name."""
    init = form.state.init
    values = _split(init) if len(planes) == 2 and init != 0 else (init,) * len(planes)
    return list(zip(planes, values, strict=True))


def initial_carried(form: Form) -> list[tuple[str, float]]:
    """What a fresh row has in each carried state, by name."""
    return [(carry.tensor.name, carry.tensor.init) for carry in form.carries]


def _split(value: float) -> tuple[float, float]:
    """The two planes of a float32: the upper as its value, the lower as an integer."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    high = (bits + 0x8000) >> 16
    (upper,) = struct.unpack("<f", struct.pack("<i", high << 16))
    return upper, float(bits - (high << 16))
