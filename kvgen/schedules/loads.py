"""What a program finds in memory: inputs, parameters and records, as values of a kernel."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.graph import Node, leaf_of
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.kernels import Shapes, local, pointer_name, stride_name
from kvgen.ir.build import Builder
from kvgen.ir.values import Value
from kvgen.values.axes import Axes

INPUTS = ("input", "param")


class Lanes:
    """The numbers that a program's elements have along their axes, as a template gives them.

    A program has one value head. masks: which lanes of a channel that fills no tile are real. What
    goes along V is there once a tile has begun.
    """

    def __init__(self, build: Builder, shapes: Shapes, ratio: int) -> None:
        self.build, self.shapes, self.ratio = build, shapes, ratio
        self.key = build.given("key", "K")
        self.value: Value | None = None
        self.masks = {"K": build.given("real_key", "K", "bool")} if shapes.masks_k else {}
        self.row = build.given("row", "", "long")
        self.head, self.group = build.given("head"), build.given("group")
        self.part = build.given("part")
        self.place = build.given("place", "P")
        self.held = build.given("held", "P", "bool")
        self.token = build.given("token", "T")
        self.long_token = build.given("long_token", "T", "long")
        self.real_token = build.given("real_token", "T", "bool")
        self.spot = build.given("spot", "T")
        self.fits = build.given("fits", "T", "bool")

    def tile(self, start: Value, called: str) -> None:
        """A tile of value channels begins. called: what its names begin with."""
        build = self.build
        lanes = build.let("range", (), "V", "int")
        self.value = build.add(start, lanes, f"{called}value")
        if self.shapes.masks_v:
            size = build.number(self.shapes.v)
            self.masks["V"] = build.binary("lt", self.value, size, f"{called}real_value")

    def channel(self, channel: str) -> Value:
        if channel == "K":
            return self.key
        assert self.value is not None
        return self.value

    def real(self, channel: str) -> list[Value]:
        """The mask of a channel, where it has one."""
        return [self.masks[channel]] if channel in self.masks else []

    def within(self, place: Value | None, channel: str) -> Value:
        """Where among rows of a channel one of them is; None: the first."""
        build = self.build
        if not channel:
            return build.number(0) if place is None else place
        index, size = self.channel(channel), build.number(self.shapes.size(channel))
        return index if place is None else build.add(build.mul(place, size), index)

    def once(self, axes: Axes) -> list[Value]:
        """Which of the programs that compute the same value stores it."""
        build, zero = self.build, self.build.number(0)
        found: list[Value] = []
        if axes.head is None:
            found.append(build.binary("eq", self.head, zero))
        elif axes.head == "H" and self.ratio > 1:
            heads = build.binary("mod", self.head, build.number(self.ratio))
            found.append(build.binary("eq", heads, zero))
        if axes.channels != "V":
            found.append(build.binary("eq", self.part, zero))
        return found


@dataclass
class TokenLoads:
    """The inputs of a window's tokens, and parameters. tokens: along which they lie."""

    build: Builder
    lanes: Lanes
    names: dict[Node, str]
    tokens: tuple[str, str] = ("S", "T")

    def has(self, node: Node) -> bool:
        return leaf_of(node).op in INPUTS

    def __call__(self, node: Node) -> Value:
        return self.build.cast(self.stored(node), "float", self.names.get(node))

    def stored(self, node: Node, name: str | None = None) -> Value:
        """As it lies in memory."""
        build, lanes = self.build, self.lanes
        leaf, channel = leaf_of(node), node.axes.channels
        called, axes = str(leaf.value), leaf.axes.names
        real = lanes.real(channel)
        offsets: list[Value] = []
        if leaf.op == "input":
            offsets = [build.mul(lanes.row, build.given(f"{called}_row", type="long"))]
            of_token, real_token = self._of_token(called, channel)
            offsets, real = [*offsets, *of_token], [*real_token, *real]
        for position, axis in enumerate(axes):
            index = self._index(axis, node)
            if position < len(axes) - 1:
                stride = build.given(f"{called}_{stride_name(axis)}", type="long")
                # a number is as wide as what it is multiplied with
                wide = index if index.op == "number" else build.cast(index, "long")
                index = build.mul(wide, stride)
            offsets.append(index)
        total = offsets[0] if offsets else build.number(0)
        for offset in offsets[1:]:
            total = build.add(total, offset)
        pointer = build.given(pointer_name(called), type="pointer")
        return self._loaded(node, pointer, total, real, name)

    def _loaded(
        self, node: Node, pointer: Value, offset: Value, real: list[Value], name: str | None
    ) -> Value:
        return self.build.load(pointer, offset, self.build.every(*real) if real else None, name)

    def _of_token(self, called: str, channel: str) -> tuple[list[Value], list[Value]]:
        """What tells a token's input from those of others: its offset, and whether it is there."""
        build, lanes = self.build, self.lanes
        tokens = self.tokens[0 if channel == "K" else 1]
        stride = build.given(f"{called}_token", type="long")
        offset = build.mul(build.along(lanes.long_token, tokens), stride)
        return [offset], [build.along(lanes.real_token, tokens)]

    def _index(self, axis: str, node: Node) -> Value:
        match axis:
            case "H":
                return self.lanes.group
            case "HV":
                return self.lanes.head
            case "K" | "V":
                return self.lanes.channel(axis)
            case _:
                return self.build.number(int(node.value or 0))


@dataclass
class RecordLoads:
    """Recorded values. place: of all places, or None for the first. held: which of them count."""

    build: Builder
    lanes: Lanes
    records: Records
    place: Value | None
    held: Value

    @property
    def tokens(self) -> tuple[str, str]:
        return (self.held.axes, self.held.axes)

    def __post_init__(self) -> None:
        self.by_node = {stored.node: stored for stored in self.records.stored}

    def has(self, node: Node) -> bool:
        return node in self.by_node

    def __call__(self, node: Node) -> Value:
        stored = self.by_node[node]
        raw = self.stored(stored)
        # what has 32 bits is as it is computed
        return self.build.cast(raw, "float") if raw.type == "stored" else raw

    def stored(self, stored: Stored, name: str | None = None) -> Value:
        """As it lies in memory."""
        build, lanes = self.build, self.lanes
        pointer = build.given(f"{local(stored.name)}_at", type="pointer")
        offset = lanes.within(self.place, stored.channel)
        mask = build.every(self.held, *lanes.real(stored.channel))
        kind = "stored" if stored.dtype.narrow else "float"
        return build.load(pointer, offset, mask, name, type=kind)
