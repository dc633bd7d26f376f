"""A token alone: which heads and values its program has, what it finds, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kvgen.algebra.form import Carry, Form
from kvgen.algebra.graph import Node, leaf_of
from kvgen.algebra.naming import described, value_names
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.names import local
from kvgen.codegen.shapes import HEADS, MOST_32, Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import Value
from kvgen.language.spec import MAX_BUFFER
from kvgen.schedules.loads import GivenLoads, Program
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.past import past_at, past_value


def names_of(form: Form, records: Records) -> dict[Node, str]:
    """What values are called: as in the spec, by their part in the form, or as recorded."""
    recorded = {stored.node: stored.name for stored in records.stored}
    return {**recorded, **value_names(form, records), **form.graph.names}


def give_lines(names: dict[Node, str], nodes: Iterable[Node]) -> None:
    """Have values computed where they are asked for, and not within what looks at them later."""
    for node in nodes:
        names[node] = str(described(node, names) or "term")


class TokenProgram(Program):
    """single: whether a program has one value head, which its template says, or goes over tiles of
    all value heads of a group."""

    def __init__(
        self, build: Builder, shapes: Shapes, ratio: int, single: bool, heads: str = ""
    ) -> None:
        super().__init__(build, shapes, ratio, heads=heads)
        self.single, self.called = single, ""
        self.count = build.given("count")
        self.slot = build.given("slot", type="long")

    def begin(self, tile: Value, called: str = "") -> None:
        """A tile of values begins, and with it a head where there are several. called: what its
        names begin with."""
        build, per_head = self.build, self.build.given("PER_HEAD")
        self.value_tile = build.binary("mod", tile, per_head, f"{called}value_tile")
        self.tile(build.mul(self.value_tile, build.given("TILE")), called)
        if not self.single:
            first = build.mul(self.group, build.number(self.ratio))
            of_group = build.binary("floordiv", tile, per_head)
            self.called, self.head = called, build.add(first, of_group, f"{called}head")

    def begun(self) -> None:
        """The only tile, which stands before the kernel's lines."""
        self.value_tile, self.value = self.build.given("value_tile"), self.build.given("value", "V")
        if self.shapes.masks_v:
            self.masks["V"] = self.build.given("real_value", "V", "bool")

    def at(self, stored: Stored) -> Value:
        return self._at(stored.name, stored.heads, self.each(stored.channel))

    def record(self, stored: Stored, place: Value) -> tuple[Value, Value]:
        """Where a token's record goes."""
        return self.at(stored), self.within(place, stored.channel)

    def after(self, count: Value) -> Value:
        """Where carried states stand after so many records."""
        return count

    def room(self, place: Value, number: int) -> list[Value]:
        """Whether there is a place for the record of so many tokens before: for the first one there
        always is."""
        return [self.build.binary("lt", place, self.build.given("PLACES"))] if number else []

    def plane(self, name: str) -> Value:
        return self._at(name, "HV", self.build.number(self.shapes.k * self.shapes.v))

    def each(self, channel: str) -> Value:
        """How many elements a head's records have."""
        width, places = self.shapes.size(channel), self.build.given("PLACES")
        return self.build.mul(places, self.build.number(width)) if width > 1 else places

    def _at(self, name: str, heads: str | None, size: Value) -> Value:
        """Where what a head has of a cache's tensor begins. Of heads that a program goes over it is
        another place in every tile."""
        if self.single or heads != "HV":
            return self.build.given(f"{local(name)}_at", type="pointer")
        return self.address(name, heads, size, self.slot)

    def address(self, name: str, heads: str | None, size: Value, slot: Value) -> Value:
        """The same in a slot, or in a page. size: of a head's elements."""
        build, called = self.build, local(name)
        terms = [build.mul(slot, build.given(f"{called}_slot", type="long"))]
        terms.append(build.given(f"{called}_layer", type="long"))
        terms += self.of_heads(heads, size)
        pointer = build.given(f"{called}_ptr", type="pointer")
        return build.add(pointer, build.total(terms), f"{self.called}{called}_at")

    def of_heads(self, heads: str | None, size: Value) -> list[Value]:
        """How far a head is from the first one, where there are several."""
        if heads is None:
            return []
        build, shapes = self.build, self.shapes
        most = max(shapes.k * shapes.v, MAX_BUFFER * max(shapes.k, shapes.v))
        head = self.head if heads == "HV" else self.group
        return [build.mul(head if HEADS * most < MOST_32 else build.cast(head, "long"), size)]


@dataclass
class StepLoads(GivenLoads):
    """A token's inputs, parameters, and carried states as they are before it."""

    form: Form
    records: Records

    def has(self, node: Node) -> bool:
        return super().has(node) or leaf_of(node).op in ("carried", "previous", "past")

    def __call__(self, node: Node, name: str | None) -> Value:
        build, lanes, leaf = self.build, self.lanes, leaf_of(node)
        if leaf.op == "previous":
            return newest_sum(build, lanes, self.form, self.records, name)
        if leaf.op == "past":
            return past_value(lanes, self.form, node, name)
        if leaf in self.form.remembered:
            return build.cast(self.stored(node, f"{leaf.value}_given"), "float", name)
        if leaf.op != "carried":
            return super().__call__(node, name)
        carry = next(c for c in self.form.carries if c.tensor.name == leaf.value)
        real = lanes.real(leaf.axes.channels)
        assert isinstance(lanes, TokenProgram)
        pointer, offset = carried_at(lanes, self.form, carry, lanes.after(lanes.count))
        return build.load(pointer, offset, build.every(*real) if real else None, name, type="float")


def newest_sum(
    build: Builder, lanes: Program, form: Form, records: Records, name: str | None = None
) -> Value:
    """The running sum of log decays up to the newest record; 0 in an empty buffer."""
    assert form.factored is not None
    stored = next(s for s in records.stored if s.node is form.factored.after)
    count, one = build.given("count"), build.number(1)
    offset = lanes.within(build.binary("sub", count, one), "K")
    some = build.binary("lt", build.number(0), count)
    mask = build.every(some, *lanes.real("K"))
    return build.load(lanes.at(stored), offset, mask, name, type="float")


def carried_at(
    lanes: Program, form: Form, carry: Carry, place: Value | None
) -> tuple[Value, Value]:
    """Where a carried state lies after so many records, in [slots, layers, places + 1, *axes]:
    where the slot's begin, and how far off it is. place: None for the first."""
    build, shapes, axes = lanes.build, lanes.shapes, carry.axes
    width = build.number(shapes.size(axes.channels))
    terms: list[Value] = []
    if place is not None:
        # the states of all heads, as far as the last place
        heads = form.spec.size(axes.head) if axes.head else 1
        if (MAX_BUFFER + 1) * heads * shapes.size(axes.channels) >= MOST_32:
            place = build.cast(place, "long")
        if axes.head:
            place = build.mul(place, lanes.heads(axes.head))
        terms.append(build.mul(place, width) if axes.channels else place)
    if axes.head:
        index = lanes.head if axes.head == "HV" else lanes.group
        terms.append(build.mul(index, width) if axes.channels else index)
    if axes.channels:
        terms.append(lanes.channel(axes.channels))
    pointer = build.given(f"{local(carry.tensor.name)}_at", type="pointer")
    return pointer, build.total(terms)


@dataclass
class Leaving:
    """What a token leaves: records, carried states, and the output. unit: what is computed once a
    program, before its tiles. number: which of a chain's tokens it is, values: what its values are
    there, where they are not the form's own."""

    lanes: TokenProgram
    token: Lowering
    form: Form
    records: Records
    unit: set[Node]
    number: int = 0
    values: Mapping[Node, Node] = field(default_factory=dict)

    def begin(self) -> None:
        """A tile's records have places of their own, which loads and stores both ask for."""
        for stored in self.records.stored:
            if stored.node not in self.unit:
                self.lanes.at(stored)

    def store(self, at_unit: bool | None = None) -> None:
        """What is known before the tiles, or what a tile adds; None: both."""
        lanes = self.lanes
        place, after = (self._after(self.number + more) for more in (0, 1))
        fits = lanes.room(place, self.number)
        for stored in self.records.stored:
            node = self._own(stored.node)
            once = node in self.unit
            if at_unit in (once, None):
                guards = *fits, *lanes.once(stored.node.axes, once)
                self._store(*lanes.record(stored, place), node, guards)
        for carry in self.form.carries:
            node, same = self._own(carry.after), same_head(carry.axes.head, lanes.single)
            once = node in self.unit and same
            if at_unit in (once, None):
                pointer, offset = carried_at(lanes, self.form, carry, lanes.after(after))
                guards = *fits, *lanes.once(carry.axes, once)
                self._store(pointer, offset, node, guards)

    def remember(self, at_unit: bool) -> None:
        """The token's inputs, where they stand once it counts; in the same two parts."""
        lanes, form = self.lanes, self.form
        for x in form.remembered:
            if (x in self.unit and same_head(x.axes.head, lanes.single)) == at_unit:
                pointer, offset = past_at(lanes, form, x, form.most_past)
                self._store(pointer, offset, x, lanes.once(x.axes, at_unit))

    def _own(self, node: Node) -> Node:
        return self.values.get(node, node)

    def _after(self, tokens: int) -> Value:
        """The place after so many tokens."""
        lanes, build = self.lanes, self.lanes.build
        return build.add(lanes.count, build.number(tokens)) if tokens else lanes.count

    def _store(self, at: Value, offset: Value, node: Node, guards: Sequence[Value]) -> None:
        build = self.lanes.build
        build.store(at, offset, self.token.value(node), build.every(*guards) if guards else None)

    def output(self, finish: Node | None = None) -> None:
        """The output, or what is computed of it here."""
        build, lanes = self.lanes.build, self.lanes
        row = build.mul(lanes.row, build.given("out_row", type="long"))
        token = to_token(build, self.number, "out_token")
        stride = build.given("out_head", type="long")
        head = build.mul(build.cast(lanes.head, "long"), stride)
        offset = build.total([row, *token, head, lanes.channel("V")])
        real = lanes.real("V")
        guard = build.every(*real) if real else None
        value = self.token.value(self._own(finish or self.form.output))
        build.store(build.given("out_ptr", type="pointer"), offset, value, guard)


def same_head(head: str | None, single: bool) -> bool:
    """Whether a program has one of what lies along an axis of heads, or none."""
    return single or head != "HV"


def to_token(build: Builder, number: int, stride: str) -> list[Value]:
    """How far a chain's token is from its first one; nothing for that. A stride may be anything, so
    what it is times has 64 bits."""
    if number < 2:
        return [build.given(stride, type="long")] * number
    long = build.cast(build.number(number), "long", f"token_{number}")
    return [build.mul(long, build.given(stride, type="long"))]
