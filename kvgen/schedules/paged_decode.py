"""A token alone on pages of records, and on a stored state where a row has one.

A program holds a tile of value channels, of one value head or, where scores are the same for all
heads of a group, of several: these lie along G, and a page's scores are computed once for them.
Pages are gone over newest first, some at a time, so decays since a place are summed as they come;
what is left of the stored state is known when they are done. That is read a few rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Decay, Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records
from kvgen.codegen.levels import boundary, per_head, unit_level
from kvgen.codegen.operands import times_input
from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.ir.build import Builder
from kvgen.ir.values import PAGES, Helper, Kernel, Value, Wish
from kvgen.schedules.buffered import KEPT, SINCE, TOTAL, Buffered
from kvgen.schedules.loads import RecordLoads
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.paged import PagedToken
from kvgen.schedules.state import load_state
from kvgen.schedules.token import Leaving, StepLoads, give_lines, names_of
from kvgen.schedules.windows.reads import Held

ROOM = Helper("_short_room", ("CONTEXT", "BUFFER", "PLACES", "TABLE"))
RECORDS, BLOCKS = Helper("_short_records", ("PLACES", "TABLE")), Helper("tl.cdiv", ("SPAN",))
ROWS, GATHER = Helper("_short_rows"), Helper("tl.gather", ("0",))
# whether a row has a state
STATEFUL = "stateful"


def short_decode(form: Form, records: Records, shapes: Shapes) -> Kernel:
    return _PagedDecode(form, records, shapes).kernel()


class AtPlaces(Buffered):
    """Records that begin where `PagedToken.at` says."""

    def log(self, decay: Decay, suffix: str, name: str | None = None) -> Value:
        """A decay, 0 where no record is held: said of what is loaded too, it takes fewer registers
        while pages are on the way."""
        log = self._at(None, self.lanes.held, suffix).value(decay.log)
        return self.build.where(self.lanes.held, log, 0.0, name)

    def begin(self) -> None:
        """Where records begin is found for all of them, before any is loaded."""
        for stored in self.records.stored:
            self.lanes.at(stored)

    def key_given(self, node: Node, stray: bool) -> tuple[Value, Value | None] | None:
        """The input is on its way before the number is computed."""
        found = times_input(self.form, node)
        if found and self._recorded(found[0]):
            self.as_recorded(found[0])
        return super().key_given(node, stray)

    def _records(self, place: Value | None, held: Value) -> RecordLoads:
        return super()._records(None, held)


@dataclass
class Read:
    """A read. column: what goes through the state, along `near`; far: the channels of what comes
    back. found: that, so far."""

    name: str
    near: str
    far: str
    column: Value
    found: Value


class _PagedDecode:
    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        self.form, self.records, self.shapes = form, records, shapes
        self.build = build = Builder(PAGES)
        self.single = per_head(form, records)
        self.lanes = PagedToken(build, shapes, form.spec.ratio, self.single)
        self.names = names_of(form, records)
        inputs = StepLoads(build, self.lanes, self.names, form, records)
        self.token = Lowering(build, form.graph, inputs, self.names, self.lanes.masks)
        self.roots = [*form.roots, *(stored.node for stored in records.stored)]

    def kernel(self) -> Kernel:
        if self.form.carries:
            # they lie where the number of a row's records says
            self._count()
        _, before_reads = boundary(self.form.columns, self.roots, set())
        give_lines(self.names, before_reads)
        for node in before_reads:
            self.token.value(node)
        self._count()
        totals = {decay: self._total(decay) for decay in self.form.summed_decays}
        reads = [self._read(node) for node in self.form.reads]
        if reads:
            self._pages(reads, totals)
            self._states(reads, totals)
        for node in self.roots:
            self.token.value(node)
        self._leave()
        return self.build.kernel()

    def _count(self) -> None:
        """How many records a row holds, and how many places it has."""
        build = self.build
        given = (build.given("pages"), build.given("cursor"), build.given(STATEFUL, type="bool"))
        room = build.helper(ROOM, *given, axes="", type="int")
        self.lanes.count, self.places = build.parts(room, "", ["count", "places"])

    def _zeros(self, axes: str) -> Value:
        extents = ["TILES" if axis == "G" else self.shapes.extent(axis) for axis in axes]
        return self.build.zeros(axes, extents) if axes else self.build.number(0.0)

    def _total(self, decay: Decay) -> Value:
        """What has decayed since all places that have been gone over."""
        heads = self.lanes.head.axes if decay.log.axes.head == "HV" else ""
        zeros = self._zeros(heads + decay.channel)
        return self.build.variable(zeros, TOTAL[decay.channel])

    def _read(self, node: Node) -> Read:
        (column, *_), far = node.args, node.axes.channels
        name = self.form.graph.names.get(node) or "read"
        zeros = self._zeros((self.lanes.head.axes if far == "V" else "") + far)
        found = self.token.known[node] = self.build.variable(zeros, name)
        return Read(name, column.axes.channels, far, self.token.clean(column), found)

    # -- pages

    def _pages(self, reads: list[Read], totals: dict[Decay, Value]) -> None:
        """What the reads find in records."""
        build = self.build
        blocks = build.helper(BLOCKS, self.lanes.count, type="int", name="blocks")
        with build.loop("back", blocks, "STAGES") as back:
            last = build.binary("sub", blocks, build.number(1))
            first = build.mul(build.binary("sub", last, back), build.given("SPAN"))
            place = build.add(first, build.let("range", (), "P", "int"), "place")
            buffer = self._at_places(place, "held")
            after = build.add(place, build.number(1))
            newer = self._at_places(after, "newer", "newer_")
            for each in (buffer, newer):
                each.begin()
            for decay, total in totals.items():
                self._sum_up(decay, total, buffer, newer)
            keys = buffer.keys_given(lambda key: not buffer.keys_whole)
            held = Held(keys=keys, values=buffer.values_given())
            for read in reads:
                for *sides, number in held.sides(read.near):
                    near, far = (build.cast(side, "float") for side in sides)
                    name = Wish("term") if number else "score"
                    score = build.sum(build.mul(near, read.column), read.near, name)
                    score = build.times(score, number, name="score")
                    more = build.mul(far, build.times(buffer.weight, score))
                    build.move(read.found, build.add(read.found, build.sum(more, "P")))

    def _at_places(self, place: Value, held: str, called: str = "") -> AtPlaces:
        """Records at places of pages, as far as there are some."""
        build, lanes = self.build, self.lanes
        row = (build.given("pages"), build.given("words"), lanes.count)
        found = build.helper(RECORDS, place, *row, axes="P", type="long")
        page, there = build.parts(found, "P", [f"{called}page", held], ("long", "bool"))
        within = build.binary("mod", place, build.given("PLACES"), f"{called}within")
        return self._records(lanes.there(page, within, there, called))

    def _records(self, lanes: PagedToken) -> AtPlaces:
        return AtPlaces(self.token, self.form, self.records, lanes)

    def _sum_up(self, decay: Decay, total: Value, buffer: AtPlaces, newer: AtPlaces) -> None:
        """The decay since each place. That of the oldest record of some pages comes with the next
        ones, which it is the newest for."""
        build, channel, log = self.build, decay.channel, newer.log(decay, "_newer", "logs")
        later = build.scan(log, "P", Wish("later"), None)
        since = buffer.since[channel] = build.add(total, later, SINCE[channel])
        build.move(total, build.add(total, build.sum(log, "P")))
        if not channel:
            buffer.weight = build.function(EXP, since, name="weight")

    # -- the state

    def _states(self, reads: list[Read], totals: dict[Decay, Value]) -> None:
        """What the reads find in a row's state, or in that which it begins with."""
        build, init = self.build, self.form.state.init
        left = self._left(reads, totals) if init else []
        with build.when(STATEFUL):
            left = left or self._left(reads, totals)
            self._stored(reads, left)
        if not init:
            return
        with build.when(STATEFUL, holds=False):
            for read, (column, scales) in zip(reads, left, strict=True):
                found = build.mul(build.number(init), build.sum(column, read.near))
                if read.far in self.lanes.masks:
                    found = build.where(self.lanes.masks[read.far], found, 0.0)
                note = f"the initial state is {init!r} everywhere"
                build.move(read.found, build.add(read.found, build.times(found, *scales)), note)

    def _left(
        self, reads: list[Read], totals: dict[Decay, Value]
    ) -> list[tuple[Value, list[Value]]]:
        """The columns as far as the state is left along their channels, and what more is left of
        what they find."""
        build, kept = self.build, self._kept(totals) if totals else {}
        return [
            (
                build.times(read.column, kept.get(read.near), name="column"),
                [kept[channel] for channel in ("", read.far) if channel in kept],
            )
            for read in reads
        ]

    def _kept(self, totals: dict[Decay, Value]) -> dict[str, Value]:
        """What is left of the state after all records, by channel."""
        build, lanes, zero = self.build, self.lanes, self.build.number(0)
        note = "of the oldest record's decay only the state has anything"
        page = (lanes.of_row("pages", None),)
        page = build.let("cast", page, "", "long", None, "oldest_page", note)
        mark = build.binary("mod", lanes.of_row("skipped", None), build.number(2))
        oldest = build.every(
            build.binary("gt", lanes.count, zero),
            build.binary("eq", mark, zero),
            build.binary("gt", page, build.number(-1)),
            name="oldest",
        )
        record = self._records(lanes.there(page, None, oldest, "oldest_"))
        kept: dict[str, Value] = {}
        for decay, total in totals.items():
            whole = build.add(total, record.log(decay, "_oldest"))
            kept[decay.channel] = build.function(EXP, whole, name=KEPT[decay.channel])
        return kept

    def _stored(self, reads: list[Read], left: list[tuple[Value, list[Value]]]) -> None:
        """A few rows of the state at a time, so that a program without one needs no registers."""
        build, lanes, exact = self.build, self.lanes, self.records.exact
        for name in self.form.planes if exact else self.form.planes[:1]:
            lanes.plane(name)
        found = [
            build.variable(self._zeros(read.found.axes), f"{read.name}_stored") for read in reads
        ]
        with build.loop("first", f"0, {self.shapes.k}, ROWS", "STAGES") as first:
            key = build.add(first, build.let("range", (), "L", "int"), "row_key")
            state = load_state(lanes.rows(key), self.form, exact)
            for read, (column, _), stored in zip(reads, left, found, strict=True):
                of_rows = self._through if read.near == "K" else self._back
                build.move(stored, build.add(stored, of_rows(state, column, key, first)))
        for read, (_, scales), stored in zip(reads, left, found, strict=True):
            build.move(read.found, build.add(read.found, build.times(stored, *scales)))

    def _through(self, state: Value, column: Value, key: Value, first: Value) -> Value:
        """What a column over K finds in rows of the state."""
        few = self.build.helper(ROWS, column, key, axes="L")
        return self.build.sum(self.build.mul(state, few), "L")

    def _back(self, state: Value, column: Value, key: Value, first: Value) -> Value:
        """What one over V does: of the keys' channels those of the rows."""
        build, rows, all_keys = self.build, self.build.given("ROWS"), self.lanes.key
        found = build.sum(build.mul(state, column), "V")
        place = build.binary("mod", all_keys, rows)
        of_key, of_rows = (build.binary("floordiv", each, rows) for each in (all_keys, first))
        among = build.helper(GATHER, found, place, axes="K")
        return build.where(build.binary("eq", of_key, of_rows), among, 0.0)

    # -- what the token leaves

    def _leave(self) -> None:
        build, lanes = self.build, self.lanes
        lanes.pending(lanes.head if self.single else lanes.group, build.number(-1))
        lanes.find_spots(lanes.count, self.places, inside="spot")
        unit = unit_level(reachable(self.roots), self.single)
        Leaving(lanes, self.token, self.form, self.records, unit).store()
        real = lanes.real("V")
        guard, output = build.every(*real) if real else None, self.token.value(self.form.output)
        out = build.given("out", lanes.head.axes + "V", "pointer")
        build.store(out, build.number(0), output, guard)
