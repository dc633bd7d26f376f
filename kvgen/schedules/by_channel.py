"""A window's tokens as columns, where channels of K decay.

A column's scores with keys are then sums over channels that each decay by themselves. Columns and
keys are scaled for one product to bring that: between tokens of a window each from the middle of
its block, before the state and the buffer by all that has decayed in the window before a token.
Keys that are recorded before their decay need no scales but one for a column.

Vectors over K lie with their channels first: a thread has all tokens of its channels, so what runs
along tokens is added up in its registers.
"""

from __future__ import annotations

from kvgen.algebra.form import Decay, Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.operands import component
from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.functions.maximum import MAXIMUM
from kvgen.functions.registry import reduces
from kvgen.ir.passes.once import ONCE
from kvgen.ir.values import Helper, Kernel, Value
from kvgen.schedules.buffered import KEPT, SINCE, TOTAL, Buffered
from kvgen.schedules.chunk import Chunk
from kvgen.schedules.loads import RecordLoads, TokenLoads
from kvgen.schedules.triangle import Vector

OF_TOKENS = Helper("_of_tokens", ("WINDOW=WINDOW", "TOKENS=TOKENS"))
OF_PLACES = Helper("_of_places", ("SPAN=SPAN",))
SINCE_PLACES = Helper("_since_places")
SETTLED = {"K": Helper("_settled", ("1",)), "P": Helper("_settled", ("0",))}
PRODUCT = Helper("_product_of_channels")
BEFORE = Helper("_logs_of_path", ("TREE",))
WITHIN, BETWEEN = Helper("_scores_within"), Helper("_scores_between")


def chunk_by_channel(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """A verify of a form that `chunks`, of which channels of K decay."""
    return ByChannel(form, records, shapes).kernel()


class ByChannel(Chunk):
    tokens = "T"

    def loads(self) -> TokenLoads:
        return ColumnLoads(self.build, self.lanes, self.names, ("T", "T"))

    def _buffered(self) -> Buffered:
        return ColumnsBuffered(self.token, self.form, self.records, self.lanes)

    def find_vectors(self) -> None:
        build, form, token = self.build, self.form, self.token
        nodes = dict.fromkeys((*form.columns, *form.keys))
        self._own_products([*form.roots, *nodes])
        decay = form.decay("K")
        assert decay is not None
        log = build.function(MAXIMUM, token.clean(decay.log), build.number(-1e30))
        self.log = build.where(self.lanes.real_token, log, 0.0, "log_key")
        self.ancestors = self._above()
        before = build.helper(BEFORE, self.log, self.ancestors, axes="KT", name="path_key")
        if form.factored:
            before = build.add(before, self._newest(), "decay_sum_before")
            token.known[form.factored.before] = before
        self.since = build.function(EXP, before, name="since_start")
        for node in nodes:
            given = component(node) if leaf_of(node).op == "input" else "vector"
            called = self.name(node, given)
            value = self._whole(token.clean(node))
            rows = build.turned(self._settled(value), f"{called}_rows")
            self.vectors[node] = Vector(called, rows, value)

    def _own_products(self, roots: list[Node]) -> None:
        """What a token's own vectors give with each other, a number in every thread, as one number
        for what follows from it."""
        token = self.token
        for node in reachable(roots):
            if reduces(node) and node not in self.form.late:
                found = self.build.sum(token.clean(node.args[0]), str(node.value))
                once = found.axes and self.build.helper(ONCE, found, name=token.name(node))
                token.known[node] = once or found

    def _newest(self) -> Value:
        """The sum of log decays up to the newest record, 0 in an empty buffer."""
        build = self.build
        assert self.form.factored is not None
        after = self.form.factored.after
        (stored,) = (each for each in self.records.stored if each.node is after)
        count, one = build.given("count"), build.number(1)
        held = build.binary("lt", build.number(0), count)
        return self.buffer.recorded(stored, build.binary("sub", count, one), held)

    def _window(self) -> None:
        build, form = self.build, self.form
        self.find_decays()
        path, weights = self.path, self.weights
        kept, left = self.buffer.kept.get(""), self.buffer.kept.get("K")
        since: dict[Node, Value] = {}
        for column, vector in ((each, self.vectors[each]) for each in form.columns):
            whole = build.mul(vector.columns, self.since, f"{vector.called}_since")
            asked = whole if left is None else build.mul(whole, left, f"{vector.called}_kept")
            since[column], self.asked[column] = self._settled(whole), self._settled(asked)
            self.kept[column] = self.times(path, kept)
        # products of the same keys one after the other: as operands these take many registers
        for index, key in enumerate(form.keys):
            for column, score in self._near(self.vectors[key], since).items():
                name = f"{self.vectors[column].called}_scores"
                score = build.where(self.ancestors, build.times(score, weights), 0.0, name)
                self.scores[column, index] = score
            if not self.buffer.keys:
                continue
            keys, scale = self.buffer.keys[index]
            keys, held = self._settled(keys), self.times(self.buffer.weight, scale)
            for column in form.columns:
                called = f"{self.vectors[column].called}_held_scores"
                score = build.dot(keys, since[column], PRODUCT)
                self.buffer_scores[column, index] = build.times(score, held, path, name=called)

    def _near(self, key: Vector, since: dict[Node, Value]) -> dict[Node, Value]:
        """Every column's scores with keys of the window."""
        build, columns = self.build, self.form.columns
        if self.form.factored:
            return {each: build.dot(key.rows, since[each], PRODUCT) for each in columns}
        args = {each: (key.columns, self.vectors[each].columns, self.log) for each in columns}
        names = {each: f"{self.vectors[each].called}_within" for each in columns}
        within = {
            each: build.helper(WITHIN, *args[each], axes="ST", name=names[each]) for each in columns
        }
        return {
            each: build.helper(BETWEEN, within[each], *args[each], axes="ST") for each in columns
        }

    def _settled(self, value: Value) -> Value:
        """What a product takes."""
        return self.build.helper(SETTLED[value.axes[0]], value)

    def _whole(self, value: Value) -> Value:
        """For every token and channel, also of what is the same for all."""
        if value.axes == "KT":
            return value
        whole = self.build.where(self.lanes.real_token, value, 0.0)
        if "K" not in whole.axes:
            zero = self.build.let("cast", (self.lanes.key,), "K", "float")
            whole = self.build.add(whole, self.build.mul(zero, self.build.number(0.0)))
        return whole


class ColumnLoads(TokenLoads):
    """Inputs over K with channels first and all tokens of a channel in one thread."""

    def _of_token(self, called: str, channel: str) -> tuple[list[Value], list[Value]]:
        return ([], []) if channel == "K" else super()._of_token(called, channel)

    def _loaded(
        self, node: Node, pointer: Value, offset: Value, real: list[Value], name: str | None
    ) -> Value:
        leaf, build = leaf_of(node), self.build
        if leaf.op != "input" or node.axes.channels != "K":
            return super()._loaded(node, pointer, offset, real, name)
        stride = build.given(f"{leaf.value}_token", type="long")
        args = (build.add(pointer, offset), stride, *real)
        return build.helper(OF_TOKENS, *args, axes="KT", type="stored", name=name)


class ColumnsBuffered(Buffered):
    """Records over K with all places of a channel in one thread. Keys are as far decayed as they
    are by now."""

    def load(self) -> None:
        self.newest_first = False
        for decay in self.decays:
            self.sum_up(decay)
        pairs = zip(self.writes, self.strays, strict=True)
        self.keys = [self._decayed(*self._key(key, stray)) for (key, _), stray in pairs]

    def _decayed(self, key: Value, scale: Value | None) -> tuple[Value, Value | None]:
        if "K" not in self.since:
            return key, scale
        build = self.build
        left = build.function(EXP, self.since["K"])
        return build.mul(build.cast(key, "float"), left, "keys_now"), scale

    def sum_up(self, decay: Decay, oldest_last: bool = False) -> None:
        channel = decay.channel
        if channel != "K":
            super().sum_up(decay, oldest_last)
            return
        build, places = self.build, self._at(self.lanes.place, self.lanes.held, "s")
        log = self._held(places, decay.log)
        note = "what has decayed since each place"
        since = build.helper(SINCE_PLACES, log, axes="PK", name=SINCE[channel], note=note)
        total = build.sum(log, "P", TOTAL[channel])
        self.since[channel] = since
        self.kept[channel] = build.function(EXP, total, name=KEPT[channel])

    def _records(self, place: Value | None, held: Value | None) -> RecordLoads:
        return PlaceLoads(self.build, self.lanes, self.records, place, held)


class PlaceLoads(RecordLoads):
    def stored(self, stored: Stored, name: str | None = None) -> Value:
        build, lanes = self.build, self.lanes
        if stored.channel != "K" or self.place is not lanes.place:
            return super().stored(stored, name)
        at = build.add(lanes.at(stored), lanes.key)
        far, marks = build.number(lanes.shapes.size("K")), build.given("marks")
        kind = "stored" if stored.dtype.narrow else "float"
        args = (at, far, marks, *lanes.real("K"))
        return build.helper(OF_PLACES, *args, axes="PK", type=kind, name=name)
