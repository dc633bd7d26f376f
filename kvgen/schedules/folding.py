"""Tokens applied to a tile of the state: a fold's records, and a token of the plain kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records, replay_needs
from kvgen.codegen.levels import boundary
from kvgen.codegen.operands import multiplies
from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.ir.build import Builder
from kvgen.ir.values import TOKEN, Helper, Kernel, Value, Wish
from kvgen.schedules.buffered import Buffered
from kvgen.schedules.loads import RecordLoads
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.state import load_state, offset_in_state, state_mask, store_state
from kvgen.schedules.token import (
    Leaving,
    StepLoads,
    TokenProgram,
    carried_at,
    give_lines,
    names_of,
    newest_sum,
)

DOT = "DOT"
OUTER = Helper("_outer")


def fold(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """The records of a row become its state, and its carried states begin anew. By one product, if
    DOT says so, where records are final."""
    tile = _Tile(form, records, shapes)
    if not form.carries:
        tile.update()
        return tile.build.kernel()
    note = "a negative count: the plain kernel has brought the state up to date already"
    with tile.build.when("count > 0", note=note):
        tile.update()
    tile.begin_carried()
    return tile.build.kernel()


def folded(form: Form, records: Records, shapes: Shapes, stages: str | None = None) -> Kernel:
    """The records alone, of a state that stands before them."""
    tile = _Tile(form, records, shapes)
    tile.fold(stages)
    return tile.build.kernel()


def read(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """The state with the records, stored elsewhere."""
    tile = _Tile(form, records, shapes)
    tile.load()
    tile.fold(None)
    target = tile.build.given("dst", type="pointer")
    tile.build.store(target, offset_in_state(tile.lanes), tile.state, tile.mask)
    return tile.build.kernel()


def load(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """The state, from elsewhere."""
    tile = _Tile(form, records, shapes)
    build = tile.build
    source = build.given("src", type="pointer")
    found = build.load(source, offset_in_state(tile.lanes), tile.mask, type="float")
    build.move(tile.state, found)
    tile.store()
    return build.kernel()


def recurrent(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """What a row still holds, then a token, on the state itself."""
    tile = _Tile(form, records, shapes)
    tile.load()
    token = tile.token()
    tile.fold(None, "what an earlier decode left in the buffer comes first", suffix="_j")
    tile.step(token)
    return tile.build.kernel()


class _Tile:
    """A tile of one value head, whose state the lines change."""

    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        self.form, self.records = form, records
        self.build = build = Builder(TOKEN)
        self.lanes = lanes = TokenProgram(build, shapes, form.spec.ratio, single=True)
        lanes.begun()
        self.names = names_of(form, records)
        self.state = build.given("state", "KV", "float")
        self.mask = state_mask(lanes)

    def load(self) -> None:
        self.build.move(self.state, load_state(self.lanes, self.form, name=None))

    def store(self, note: str | None = None) -> None:
        store_state(self.lanes, self.form, self.state, note)

    def update(self) -> None:
        """The state with its records."""
        self.load()
        if multiplies(self.form):
            with self.build.when(DOT):
                self.multiply()
            with self.build.when(DOT, holds=False):
                self.fold("STAGES")
        else:
            self.fold("STAGES")
        self.store()

    # -- records

    def multiply(self) -> None:
        """All records at once: keys by places times places by values, with what has decayed since
        each place."""
        build, form, lanes = self.build, self.form, self.lanes
        loads = RecordLoads(build, lanes, self.records, lanes.place, lanes.held)
        token = Lowering(build, form.graph, loads, self.names, lanes.masks)
        buffer = Buffered(token, form, self.records, lanes)
        for decay in form.summed_decays:
            buffer.sum_up(decay)
        keys, values = buffer.keys_to_add(), buffer.values_now()
        for left in buffer.kept.values():
            self._times(left)
        for (key, number), value in zip(keys, values, strict=True):
            numbers = [each for each in (buffer.weight, number) if each]
            value = build.mul(value, build.times(*numbers)) if numbers else value
            product = build.helper(OUTER, build.turned(key), value, self.state, axes="KV")
            build.move(self.state, product)
        self._raised()

    def fold(self, stages: str | None, note: str | None = None, suffix: str = "") -> None:
        """The records one after the other, the oldest first. suffix: of their values' names."""
        build, form = self.build, self.form
        with build.loop("j", "count", stages, note) as j:
            record, reads = self._record(j, suffix), self._reads_again()
            needed = replay_needs(form) if self.records.replay else []
            sides = [*form.keys, *(write.d for write in form.writes)]
            factors = self._factors(form.summed_decays)
            for node in [*needed, *factors.values()] if needed else [*sides, *factors.values()]:
                record.value(node)
            self._read(record, reads)
            for node in sides:
                record.value(node)
            skipped, one = build.given("skipped", "", "long"), build.number(1)
            marks = build.binary("and", skipped, one)
            counts = build.binary("eq", marks, build.number(0), "counts")
            build.move(skipped, build.binary("shr", skipped, one))
            note = "a record that does not count leaves the state: it is times 1, and 0 is added"
            self._update(record, form.keys, factors, counts, note)
        self._raised()

    def _raised(self) -> None:
        """Keys that were recorded before their decay get it with the state."""
        if self.form.factored:
            newest = newest_sum(self.build, self.lanes, self.form, self.records)
            self._times(self.build.function(EXP, newest, name=Wish("decayed")))

    def _record(self, j: Value, suffix: str) -> Lowering:
        """A record's values; of a correction that is computed again not the recorded one."""
        stored, replay = self.records.stored, self.records.replay
        exact = tuple(s for s in stored if not (replay and s.node.reads))
        loads = RecordLoads(self.build, self.lanes, Records(exact, replay), j, None)
        graph, masks = self.form.graph, self.lanes.masks
        return Lowering(self.build, graph, loads, self.names, masks, suffix)

    def _reads_again(self) -> list[Node]:
        """What a fold reads of the state: every column of it is among what is recorded."""
        if not self.records.replay:
            return []
        sides = [*self.form.keys, *(write.d for write in self.form.writes)]
        below = set(reachable(sides))
        return [node for node in self.form.reads if node in below]

    # -- a token

    def token(self) -> Lowering:
        """A token of the plain kernel, up to what it reads of the state: on the way while the state
        is, and not behind what the buffer holds."""
        build, form, lanes = self.build, self.form, self.lanes
        inputs = StepLoads(build, lanes, self.names, form, self.records)
        token = Lowering(build, form.graph, inputs, self.names, lanes.masks)
        roots = self._roots()
        _, before_reads = boundary(form.columns, roots, set())
        give_lines(self.names, before_reads)
        for node in token.found(roots):
            token.value(node)
        for node in before_reads:
            token.value(node)
        return token

    def _roots(self) -> list[Node]:
        return [*self.form.roots, *self._factors(self.form.decays).values()]

    def step(self, token: Lowering) -> None:
        """Its output, and the state after it."""
        build, form, lanes = self.build, self.form, self.lanes
        factors = self._factors(form.decays)
        roots = self._roots()
        self._read(token, form.reads)
        for node in roots:
            token.value(node)
        self._update(token, [write.w for write in form.writes], factors)
        leaving = Leaving(lanes, token, form, Records((), False), set())
        leaving.store(at_unit=False)
        leaving.output()
        pointer = build.given("pending_ptr", type="pointer")
        note = "`advance` empties the buffer of a row whose state is up to date"
        build.store(pointer, lanes.slot, build.number(1), None, note)
        self.store(
            "at the end, where no thread waits for what another one computes from a state it may "
            "yet have to load"
        )

    def begin_carried(self) -> None:
        """The carried states after the last record are those before the first."""
        build, lanes = self.build, self.lanes
        build.move(lanes.count, build.helper(Helper("tl.abs"), lanes.count, type="int"))
        for carry in self.form.carries:
            real = lanes.real(carry.axes.channels)
            mask = build.every(*real) if real else None
            pointer, offset = carried_at(lanes, self.form, carry, lanes.count)
            value = build.load(pointer, offset, mask, carry.tensor.name, type="float")
            pointer, offset = carried_at(lanes, self.form, carry, None)
            guards = lanes.once(carry.axes, at_unit=False)
            build.store(pointer, offset, value, build.every(*guards) if guards else None)

    # -- both

    def _factors(self, decays: Iterable) -> dict[str, Node]:
        """A token's decay factors, by channel."""
        return {decay.channel: self.form.graph.exp(decay.log) for decay in decays}

    def _read(self, token: Lowering, reads: Iterable[Node]) -> None:
        for node in reads:
            column = node.args[0]
            product = self.build.mul(self.state, token.clean(column))
            name = self.names.get(node, f"{self.names.get(column, 'column')}_read")
            token.known[node] = self.build.sum(product, column.axes.channels, name + token.suffix)

    def _update(
        self,
        token: Lowering,
        keys: Sequence[Node],
        factors: dict[str, Node],
        counts: Value | None = None,
        note: str | None = None,
    ) -> None:
        """The state after a token. counts: whether it does; None: it does."""
        build = self.build

        def kept(value: Value, otherwise: float) -> Value:
            return build.where(counts, value, otherwise) if counts else value

        for factor in factors.values():
            self._times(kept(token.clean(factor), 1.0), note)
            note = None
        for key, write in zip(keys, self.form.writes, strict=True):
            w, d = (kept(token.clean(node), 0.0) for node in (key, write.d))
            written = build.mul(w, d, Wish("written"))
            build.move(self.state, build.add(self.state, written), note)
            note = None

    def _times(self, factor: Value, note: str | None = None) -> None:
        self.build.move(self.state, self.build.mul(self.state, factor), note)
