"""What a cache's buffer holds, at all its places: keys, values, and what has decayed since."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from kvgen.algebra.form import Decay, Form
from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.levels import newest_first
from kvgen.codegen.names import by_channel
from kvgen.codegen.operands import component, times_input
from kvgen.functions.exp import EXP
from kvgen.ir.values import Value
from kvgen.schedules.loads import Program, RecordLoads
from kvgen.schedules.lowering import Lowering

SINCE, KEPT, TOTAL = by_channel("since"), by_channel("kept"), by_channel("total")
LANES = {"K": "key", "V": "value"}


class Buffered:
    """token: how a token's own values are computed, and what they are called.

    writes, decays: both sides of each write that is held, and the decays that add up; none where no
    record outlives its step. since, kept: by channel, what has decayed since each place, and what
    is left of the state after all records. weight: what is left of each record, None where no head
    decays. keys: of each write, at all places, and what their scores are still to be times. whole:
    the sides of writes that a tile takes from records as they lie there.
    """

    weight: Value | None = None
    keys: list[tuple[Value, Value | None]]

    def __init__(self, token: Lowering, form: Form, records: Records, lanes: Program) -> None:
        # in which order a program has its places
        self.newest_first = newest_first(form)
        self.since: dict[str, Value] = {}
        self.kept: dict[str, Value] = {}
        self.build, self.token, self.form = token.build, token, form
        self.records, self.lanes = records, lanes
        self._stored = {stored.node for stored in records.stored}
        pairs = zip(form.keys, (write.d for write in form.writes), strict=True)
        self.writes = () if form.emptied else tuple(pairs)
        self.decays = () if form.emptied else form.summed_decays
        # what keys and values make of zeros, where no record is held, may not be 0
        self.strays = [strays_from(pair, self._recorded) for pair in self.writes]
        self.whole = [
            d
            for (_, d), stray in zip(self.writes, self.strays, strict=True)
            if self._recorded(d) and not stray
        ]

    def load(self) -> None:
        """The keys that are recorded, and what has decayed since."""
        for decay in self.decays:
            self.sum_up(decay)
        self.keys = self.keys_to_add()

    def sum_up(self, decay: Decay, oldest_last: bool = False) -> None:
        """What has decayed since each place, and what is left of the state. oldest_last: whether
        the decay of the oldest token is loaded behind the sum, which is without it."""
        build, channel = self.build, decay.channel
        log = self._held(self.newer, decay.log)
        own = None if oldest_last else self._held(self.first, decay.log)
        note = "what has decayed since each place"
        since = build.scan(log, "P", SINCE[channel], note, not self.newest_first)
        if own is None:
            own = self._held(self.first, decay.log)
        last = build.binary("eq", self.lanes.place, build.number(0))
        total = build.sum(build.where(last, since, 0.0), "P", TOTAL[channel])
        self.kept[channel] = build.function(EXP, build.add(total, own), name=KEPT[channel])
        self.since[channel] = since
        if not channel:
            self.weight = build.function(EXP, since, name="weight")

    def keys_now(self) -> list[Value]:
        """Every write's key at all places, with what has decayed since along K."""
        return [self.key_now(index) for index in range(len(self.strays))]

    def keys_to_add(self) -> list[tuple[Value, Value | None]]:
        """Every write's key at all places, with what has decayed since along K, and what its values
        are still to be times: as it lies in memory where it does, in 16 bits if it has no more."""
        if "K" in self.since:
            return [(key, None) for key in self.keys_now()]
        pairs = zip(self.writes, self.strays, strict=True)
        return [self._key(key, stray) for (key, _), stray in pairs]

    def values_now(self) -> list[Value]:
        """Every write's values at all places, for a tile, with what has decayed since along V."""
        return [self.value_now(index) for index in range(len(self.strays))]

    def values_given(self) -> list[Value]:
        """The same, but as they lie in memory where they do and nothing has decayed along V."""
        whole = () if "V" in self.since else self.whole
        return [
            self.as_recorded(value) if value in whole else self.value_now(index)
            for index, (_, value) in enumerate(self.writes)
        ]

    @property
    def keys_whole(self) -> bool:
        """Whether keys are needed as they are: reads give them back, or they decay by channels."""
        back = any(read.axes.channels == "K" for read in self.form.reads)
        return back or self.form.decay("K") is not None

    def keys_given(self, wanted: Callable[[Node], bool]) -> list[tuple[Value, Value | None]]:
        """Every write's key, and what its scores are still to be times: as the input that is
        recorded of it, where that is wanted of the key and there is one."""
        found: list[tuple[Value, Value | None]] = []
        for index, ((key, _), stray) in enumerate(zip(self.writes, self.strays, strict=True)):
            given = self.key_given(key, stray) if wanted(key) else None
            found.append(given or (self.key_now(index), None))
        return found

    def keys_apart(self) -> list[tuple[Value, Value | None]]:
        """Every write's key as numbers in 32 bits, and what its scores are still to be times: of an
        input that is recorded, and a number for each place, the one without the other."""
        found: list[tuple[Value, Value | None]] = []
        for index, ((key, _), stray) in enumerate(zip(self.writes, self.strays, strict=True)):
            raw, number = (None if self.keys_whole else self._apart(key, stray)) or (key, None)
            value = self.buffered.clean(raw) if number else self.key_now(index)
            found.append((value, number))
        return found

    def key_now(self, index: int) -> Value:
        return self._now(self.writes[index][0], self.strays[index], "K", "write_key")

    def value_now(self, index: int) -> Value:
        return self._now(self.writes[index][1], self.strays[index], "V", "write_value")

    def _now(self, node: Node, stray: bool, channel: str, otherwise: str) -> Value:
        value = self.buffered.clean(node)
        if stray:
            value = self.build.where(self.lanes.held, value, 0.0, f"{self._name(node, otherwise)}s")
        if channel in self.since:
            left = self.build.function(EXP, self.since[channel])
            value = self.build.mul(value, left, f"{LANES[channel]}s_now")
        return value

    def recorded(self, stored: Stored, place: Value, held: Value) -> Value:
        """One place's record as it lies there."""
        return self._records(place, held).stored(stored)

    def as_recorded(self, node: Node) -> Value:
        """A write's values at all places, for a tile, as they lie there."""
        loads = self._records(self.lanes.place, self.lanes.held)
        return loads.stored(loads.by_node[node], f"{self._name(node, 'write')}s")

    def values(self, index: int) -> Value:
        """A write's values at all places, for a tile, where they are derived from records."""
        value = self.buffered.value(self.writes[index][1])
        spread = self.strays[index] or len(value.axes) < 2
        return self.build.where(self.lanes.held, value, 0.0) if spread else value

    @cached_property
    def buffered(self) -> Lowering:
        return self._at(self.lanes.place, self.lanes.held, "s")

    @cached_property
    def newer(self) -> Lowering:
        """At each place what is recorded of the token after it."""
        after, held = self.build.given("after", "P"), self.build.given("newer", "P", "bool")
        return self._at(after, held, "_newer")

    @cached_property
    def first(self) -> Lowering:
        """What is recorded of the oldest token."""
        return self._at(None, self.build.given("oldest", type="bool"), "_first")

    def _at(self, place: Value | None, held: Value, suffix: str) -> Lowering:
        return self.token.beside(self._records(place, held), suffix)

    def _records(self, place: Value | None, held: Value) -> RecordLoads:
        return RecordLoads(self.build, self.lanes, self.records, place, held)

    def _recorded(self, node: Node) -> bool:
        return node in self._stored

    def _held(self, places: Lowering, log: Node) -> Value:
        """A log decay, 0 where no record is held: a load has put 0 there already."""
        value, loads = places.value(log), places.loads
        assert isinstance(loads, RecordLoads) and loads.held is not None
        return value if loads.has(log) else self.build.where(loads.held, value, 0.0)

    def _key(self, node: Node, stray: bool) -> tuple[Value, Value | None]:
        """A write's key at all places, and what its scores are still to be times."""
        build, lanes = self.build, self.lanes
        loads = self._records(lanes.place, lanes.held)
        stored = loads.by_node
        if node not in stored and (given := self.key_given(node, stray)):
            return given
        if node in stored and not stray:
            return loads.stored(stored[node], f"{self._name(node, 'key')}s"), None
        value = self.buffered.clean(node)
        spread = stray or value.axes != "PK"
        return (build.where(lanes.held, value, 0.0) if spread else value), None

    def key_given(self, node: Node, stray: bool) -> tuple[Value, Value | None] | None:
        """A write's key as the input that is recorded, if one is, and what its scores are still to
        be times."""
        found = self._apart(node, stray)
        if found is None:
            return None
        (raw, number), loads = found, self._records(self.lanes.place, self.lanes.held)
        return loads.stored(loads.by_node[raw], f"{self._name(raw, component(raw))}s"), number

    def _apart(self, node: Node, stray: bool) -> tuple[Node, Value | None] | None:
        """The input that is recorded of a key, if one is, and the number for each place that it is
        times."""
        found = times_input(self.form, node)
        if found is None or not self._recorded(found[0]):
            return None
        raw, scale = found
        number = None if scale.is_number(1.0) else self.buffered.value(scale)
        if stray:
            number = self.build.where(self.lanes.held, number or self.build.number(1.0), 0.0)
        return raw, number

    def _name(self, node: Node, otherwise: str) -> str:
        return self.token.names.get(node, otherwise)


def strays_from(write: tuple[Node, Node], loaded: Callable[[Node], object]) -> bool:
    """Whether the outer product of what is derived from zeros, as they are loaded where no record
    is held, is not zero. loaded: whether a node is loaded, by its truth."""
    graph = Graph()
    found: dict[Node, Node] = {}
    for node in reachable(write, below=lambda node: () if loaded(node) else node.args):
        if loaded(node):
            found[node] = graph.const(0.0)
        elif node.is_const:
            found[node] = node
        else:
            try:
                found[node] = graph.rebuild(node, tuple(found[arg] for arg in node.args))
            except (ValueError, OverflowError):
                return True
    key, value = (found[node] for node in write)
    # an infinity times 0 is not 0 either
    return not (key.is_const and value.is_const and key.const * value.const == 0)
