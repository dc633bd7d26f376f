"""What a program finds in memory: inputs, parameters and records, as values of a kernel."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.graph import Node, leaf_of
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.names import local, pointer_name, stride_name
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import Value
from kvgen.values.axes import Axes

INPUTS = ("input", "param")
# those that a program has numbers along; of any other a value has one component
AXES = ("H", "HV", "K", "V")


class Program:
    """The numbers that a program's elements have along their axes, as a template gives them.

    masks: which lanes of a channel that fills no tile are real. What goes along V is there once a
    tile has begun. single: whether a program has one value head, or goes over tiles of all value
    heads of a group. items: the axis that rows and heads lie along, where there are several; heads:
    that of heads alone.
    """

    value_tile: Value
    single = True

    def __init__(
        self, build: Builder, shapes: Shapes, ratio: int, items: str = "", heads: str = ""
    ) -> None:
        self.build, self.shapes, self.ratio = build, shapes, ratio
        self.key = build.given("key", "K")
        self.value: Value | None = None
        self.masks = {"K": build.given("real_key", "K", "bool")} if shapes.masks_k else {}
        self.row = build.given("row", items, "long")
        self.head, self.group = build.given("head", items + heads), build.given("group", items)
        self.part = build.given("part")
        self.place = build.given("place", "P")
        self.held = build.given("held", "P", "bool")

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

    def heads(self, axis: str) -> Value:
        """How many heads a cache's tensor has."""
        heads = self.build.given("heads")
        if axis == "HV" or self.ratio == 1:
            return heads
        return self.build.binary("floordiv", heads, self.build.number(self.ratio))

    def plane(self, name: str) -> Value:
        """Where a head's state begins."""
        return self.build.given(f"{local(name)}_at", type="pointer")

    def at(self, stored: Stored) -> Value:
        """Where the records of the head begin."""
        return self.build.given(f"{local(stored.name)}_at", type="pointer")

    def pending(self, unit: Value, left: Value | None = None) -> None:
        """Leaves how many tokens `accept` may keep of the row. unit: a program's head or group.
        left: that number below 0; None: of a window."""
        build, slot = self.build, self.build.given("slot", type="long")
        first = [build.binary("eq", each, build.number(0)) for each in (self.part, unit)]
        left = left or build.let("neg", (build.given("WINDOW"),), "", "int")
        pointer = build.given("pending_ptr", type="pointer")
        note = "what `accept` may keep of this row"
        build.store(pointer, slot, left, build.every(*first), note)

    def within(self, place: Value | None, channel: str) -> Value:
        """Where among rows of a channel one of them is; None: the first."""
        build = self.build
        if not channel:
            return build.number(0) if place is None else place
        index, size = self.channel(channel), build.number(self.shapes.size(channel))
        return index if place is None else build.add(build.mul(place, size), index)

    def once(self, axes: Axes, at_unit: bool = True) -> list[Value]:
        """Which of the programs, or of the tiles, that compute the same value store it. at_unit:
        whether a program does, before its tiles."""
        build, zero, found = self.build, self.build.number(0), []
        if self.single or not at_unit:
            found += self.leads(axes.head)
        elif axes.head is None:
            found.append(build.binary("eq", self.group, zero))
        if axes.channels != "V":
            found.append(build.binary("eq", self.part if at_unit else self.value_tile, zero))
        return [*found, *self.real(axes.channels)]

    def leads(self, heads: str | None) -> list[Value]:
        """Whether a head is the first of those that compute the same value. heads: the axis that it
        has one for each of."""
        build, zero = self.build, self.build.number(0)
        if heads is None:
            return [build.binary("eq", self.head, zero)]
        if heads == "HV" or self.ratio == 1:
            return []
        of_group = build.binary("mod", self.head, build.number(self.ratio))
        return [build.binary("eq", of_group, zero, "leads")]


class Lanes(Program):
    """Those of a window's tokens, of one value head."""

    def __init__(self, build: Builder, shapes: Shapes, ratio: int, heads: str = "") -> None:
        super().__init__(build, shapes, ratio, heads=heads)
        self.token = build.given("token", "T")
        self.long_token = build.given("long_token", "T", "long")
        self.real_token = build.given("real_token", "T", "bool")
        self.spot = build.given("spot", "T")
        self.fits = build.given("fits", "T", "bool")


@dataclass
class GivenLoads:
    """A token's inputs, and parameters."""

    build: Builder
    lanes: Program
    names: dict[Node, str]

    @property
    def tokens(self) -> tuple[str, str]:
        return "", ""

    def has(self, node: Node) -> bool:
        return leaf_of(node).op in INPUTS

    def __call__(self, node: Node, name: str | None) -> Value:
        return self.build.cast(self.stored(node), "float", name)

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
                # a stride may be anything, so what it is times has 64 bits
                first = index.op == "number" and index.detail == 1
                index = stride if first else build.mul(build.cast(index, "long"), stride)
            if axis in AXES or node.value != 0:
                offsets.append(index)
        total = build.total(offsets)
        pointer = build.given(pointer_name(called), type="pointer")
        return self._loaded(node, pointer, total, real, name)

    def _loaded(
        self, node: Node, pointer: Value, offset: Value, real: list[Value], name: str | None
    ) -> Value:
        return self.build.load(pointer, offset, self.build.every(*real) if real else None, name)

    def _of_token(self, called: str, channel: str) -> tuple[list[Value], list[Value]]:
        """What tells a token's input from those of others: its offset, and whether it is there."""
        return [], []

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
class TokenLoads(GivenLoads):
    """The inputs of a window's tokens, and parameters. along: which axes they lie along."""

    along: tuple[str, str] = ("S", "T")

    @property
    def tokens(self) -> tuple[str, str]:
        return self.along

    def _of_token(self, called: str, channel: str) -> tuple[list[Value], list[Value]]:
        build, lanes = self.build, self.lanes
        assert isinstance(lanes, Lanes)
        tokens = self.tokens[0 if channel == "K" else 1]
        stride = build.given(f"{called}_token", type="long")
        offset = build.mul(build.along(self.position(), tokens), stride)
        return [offset], [build.along(lanes.real_token, tokens)]

    def position(self) -> Value:
        """Which token of the inputs', in 64 bits."""
        assert isinstance(self.lanes, Lanes)
        return self.lanes.long_token


@dataclass
class RecordLoads:
    """Recorded values. place: of one place or of all of them, or None for the first. held: which of
    them count; None: all."""

    build: Builder
    lanes: Program
    records: Records
    place: Value | None
    held: Value | None

    @property
    def tokens(self) -> tuple[str, str]:
        axes = self.held.axes if self.held else ""
        return axes, axes

    def __post_init__(self) -> None:
        self.by_node = {stored.node: stored for stored in self.records.stored}

    def has(self, node: Node) -> bool:
        return node in self.by_node

    def __call__(self, node: Node, name: str | None) -> Value:
        stored = self.by_node[node]
        # what has 32 bits is as it is computed
        raw = self.stored(stored, None if stored.dtype.narrow else name)
        return self.build.cast(raw, "float", name)

    def stored(self, stored: Stored, name: str | None = None) -> Value:
        """As it lies in memory."""
        build, lanes = self.build, self.lanes
        offset = lanes.within(self.place, stored.channel)
        masks = [*([self.held] if self.held else []), *lanes.real(stored.channel)]
        mask = build.every(*masks) if masks else None
        kind = "stored" if stored.dtype.narrow else "float"
        return build.load(lanes.at(stored), offset, mask, name, type=kind)
