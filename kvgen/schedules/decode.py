"""A token alone, by one reading of the stored state.

A program goes over tiles of values of a head, or of all value heads of a group where these share
what is computed of keys. That it computes once: the buffer's keys and decays, which need nothing of
the kernels before, then the token's vectors and their scores with the buffer. In a tile there are
left the reads of the state, on tensor cores if DOT says so, what the buffer's values add to them,
and what follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records
from kvgen.codegen.levels import boundary, per_head, unit_level
from kvgen.codegen.operands import component, offered, times_input
from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.ir.build import Builder
from kvgen.ir.values import TOKEN, Helper, Kernel, Value, Wish
from kvgen.schedules.buffered import Buffered
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.state import load_state
from kvgen.schedules.token import Leaving, StepLoads, TokenProgram, give_lines, names_of

TIMES = Helper("_times")


@dataclass
class Read:
    """A read. column: what the state is read with, times what is left of it along that channel.
    scores: with the buffer, for each write; weight: what they are times, if anything."""

    node: Node
    near: str
    far: str
    called: str
    column: Value
    scores: list[Value] = field(default_factory=list)
    weight: Value | None = None


def decode(form: Form, records: Records, shapes: Shapes) -> Kernel:
    return _Decode(form, records, shapes).kernel()


class _Decode:
    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        self.form, self.records, self.shapes = form, records, shapes
        self.build = build = Builder(TOKEN)
        self.single = per_head(form, records)
        self.lanes = lanes = TokenProgram(build, shapes, form.spec.ratio, self.single)
        self.names = names_of(form, records)
        self.inputs = StepLoads(build, lanes, self.names, form, records)
        self.token = Lowering(build, form.graph, self.inputs, self.names, lanes.masks)
        self.buffer = Buffered(self.token, form, records, lanes)
        self.roots = [*form.roots, *(stored.node for stored in records.stored)]
        # what a program computes once
        self.unit = unit_level(reachable([*self.roots, *form.remembered]), self.single)
        self.dots = offered(form)
        # vectors that tensor cores take as they came, and the number that each is still to be times
        self.given: dict[Node, tuple[Value, Node]] = {}
        self.numbers: dict[Node, Value] = {}
        # by the channel that they are over, all columns side by side
        self.columns: dict[str, Value] = {}
        self.reads: dict[Node, Read] = {}

    def kernel(self) -> Kernel:
        build, lanes, form = self.build, self.lanes, self.form
        before_tiles, before_reads = boundary(form.columns, self.roots, self.unit)
        give_lines(self.names, (*before_tiles, *before_reads))
        leaving = Leaving(lanes, self.token, form, self.records, self.unit)
        note = "with one tile a program, its state is on the way before anything else is computed"
        with build.when("EARLY", note=note):
            lanes.begin(lanes.part, "only_")
            early = self._state()
        self._decays(at_unit=True)
        self.keys = self.buffer.keys_now()
        note = "only what this cache alone writes has been read; here all kernels before have ended"
        with build.when("PDL", note=note):
            build.do("tl.extra.cuda.gdc_wait")
            build.do("tl.extra.cuda.gdc_launch_dependents")
        self._given(at_unit=True)
        for node in before_tiles:
            self.token.value(node)
        self._factored()
        self._scores(at_unit=True)
        self._operands(at_unit=True)
        leaving.store(at_unit=True)
        leaving.remember(self.inputs, at_unit=True)
        with build.loop("step", "TILES", "STAGES") as step:
            first = build.mul(lanes.part, build.given("TILES"))
            lanes.begin(build.add(first, step, "tile"))
            with build.when("EARLY", holds=False):
                late = self._state()
            state = build.either("EARLY", early, late)
            self._given(at_unit=False)
            for node in before_reads:
                self.token.value(node)
            self._decays(at_unit=False)
            self.values = self.buffer.values_now()
            self._scores(at_unit=False)
            self._operands(at_unit=False)
            dots = self._on_tensor_cores(state) if self.dots else {}
            for node in form.reads:
                found = dots[node] if node in dots else self._summed(node, state)
                self.token.known[node] = self._read(self.reads[node], found)
            for node in self.roots:
                self.token.value(node)
            leaving.store(at_unit=False)
            leaving.remember(self.inputs, at_unit=False)
            leaving.output()
        return build.kernel()

    def _state(self) -> Value:
        return load_state(self.lanes, self.form, self.records.exact, raw=self.dots)

    # -- what is there before the reads

    def _decays(self, at_unit: bool) -> None:
        for decay in self.form.summed_decays:
            if (self.single and decay.channel != "V") == at_unit:
                self.buffer.sum_up(decay)

    def _factored(self) -> None:
        """Keys that are recorded before their decay have all of it in what reads them."""
        if self.form.factored:
            before = self.token.value(self.form.factored.before)
            self.buffer.kept["K"] = self.build.function(EXP, before, name="kept_key")

    def _given(self, at_unit: bool) -> None:
        """Columns that are an input times a number, but for what decays along their channel."""
        form, token = self.form, self.token
        for column in form.columns if self.dots else ():
            found = times_input(form, column)
            if found is None or column.reads or form.decay(column.axes.channels):
                continue
            raw, number = found
            if (raw in self.unit) == at_unit:
                name = self.names.get(raw, component(raw))
                came = self.inputs.stored(raw, f"{name}_given")
                token.known[raw] = self.build.cast(came, "float", name)
                self.given[column] = came, number

    def _scores(self, at_unit: bool) -> None:
        """What each column is with the buffer's keys, or with its values."""
        build, buffer = self.build, self.buffer
        for node in self.form.reads:
            column, far = node.args[0], node.axes.channels
            if (column in self.unit) != at_unit:
                continue
            near = column.axes.channels
            called = self.names.get(column, "column")
            vector = decayed = self.token.clean(column)
            if near in buffer.kept:
                decayed = build.mul(vector, buffer.kept[near], f"{called}_kept")
            read = self.reads[node] = Read(node, near, far, called, decayed)
            # factored keys hold no decay of their own: the column's serves for all of them
            asked = decayed if near == "K" and self.form.factored else vector
            # heads of a group have scores in common, but no weights
            weight = read.weight = None if at_unit and not self.single else buffer.weight
            name = f"{called}_score"
            for side in self.keys if near == "K" else self.values:
                score = build.sum(build.mul(side, asked), near, None if weight else name)
                read.scores.append(build.times(weight, score, name=name))

    # -- reads

    def _operands(self, at_unit: bool) -> None:
        """Vectors side by side, as early as all of them are there."""
        for near in ("K", "V") if self.dots else ():
            columns = self._through(near)
            if columns and all(column in self.unit for column in columns) == at_unit:
                vectors = [self._operand(column) for column in columns]
                self.columns[near] = self._beside(vectors, near)

    def _on_tensor_cores(self, state: Value) -> dict[Node, Value]:
        """Of every read what it finds in the stored state, there if DOT says so."""
        build = self.build
        with build.when("DOT"):
            dots = self._multiplied(state)
        with build.when("DOT", holds=False):
            wide = build.cast(state, "float", "wide")
            sums = {node: self._summed(node, wide) for node in self.form.reads}
        return {node: build.either("DOT", dots[node], sums[node]) for node in sums}

    def _summed(self, node: Node, state: Value) -> Value:
        read = self.reads[node]
        build, left, name = self.build, self._left(read), f"{read.called}_found"
        product = build.mul(state, read.column)
        found = build.sum(product, read.near, None if left else name)
        return build.times(*left, found, name=name)

    def _left(self, read: Read) -> list[Value]:
        """What is left of the state, but for what its column is times already."""
        kept = self.buffer.kept
        return [kept[each] for each in ("", read.far) if each in kept]

    def _multiplied(self, state: Value) -> dict[Node, Value]:
        """The reads on tensor cores: a tile of the state times all columns side by side."""
        build, found = self.build, {}
        for near, columns in self.columns.items():
            tile = build.turned(state) if near == "K" else state
            through = self._through(near)
            product = build.dot(tile, columns, TIMES, name="found")
            names = [self._through_name(column) for column in through]
            parts = dict(zip(through, self._apart(product, names), strict=True))
            for node in self.form.reads:
                column = node.args[0]
                if column in parts:
                    read, number = self.reads[node], self.numbers.get(column)
                    factors = parts[column], *self._left(read), number
                    found[node] = build.times(*factors, name=f"{read.called}_found")
        return found

    def _through_name(self, column: Node) -> str:
        """What a column's part of a product is called: found, if it is not times anything yet."""
        read = next(read for read in self.reads.values() if read.node.args[0] is column)
        plain = column not in self.numbers and not self._left(read)
        return f"{read.called}_{'found' if plain else 'through'}"

    def _through(self, near: str) -> list[Node]:
        return [column for column in self.form.columns if column.axes.channels == near]

    def _operand(self, column: Node) -> Value:
        """What goes to the tensor cores for a column."""
        if column not in self.given:
            return next(read.column for node, read in self.reads.items() if node.args[0] is column)
        came, number = self.given[column]
        if not number.is_number(1.0):
            self.numbers[column] = self.token.value(number)
        return came

    def _beside(self, vectors: list[Value], near: str) -> Value:
        """As the columns of one operand, a power of two of them: the last stands for those that
        lack."""
        if len(vectors) == 1:
            vector = vectors[0]
            return self.build.let("column", (vector,), f"{near}C", vector.type, name=Wish("column"))
        count = 1 << (len(vectors) - 1).bit_length()
        vectors += vectors[-1:] * (count - len(vectors))
        helper = Helper("_beside" if count == 2 else f"_columns_{count}")
        return self.build.helper(helper, *vectors, axes=f"{near}C", name="columns")

    def _apart(self, product: Value, names: list[str]) -> list[Value]:
        """The columns of a product one by one."""
        if len(names) == 1:
            return [self.build.sum(product, "C", Wish(names[0]))]
        count = 1 << (len(names) - 1).bit_length()
        helper = Helper("tl.split" if count == 2 else f"_apart_{count}")
        whole = self.build.helper(helper, product, axes=product.axes)
        rest = [None] * (count - len(names))
        return self.build.parts(whole, product.axes[0], [*names, *rest])[: len(names)]

    def _read(self, read: Read, found: Value) -> Value:
        """With what the buffer adds."""
        build, buffer = self.build, self.buffer
        name = self.form.graph.names.get(read.node, f"{read.called}_read")
        sides = self.values if read.near == "K" else self.keys
        for number, (side, score) in enumerate(zip(sides, read.scores, strict=True), 1):
            if read.far == "K" and self.form.factored:
                # what comes back over K is a sum of keys that are recorded before their decay
                side = build.mul(side, buffer.kept["K"], "keys_now")
            weight = None if read.weight else buffer.weight
            held = build.sum(build.mul(side, build.times(weight, score)), "P")
            last = number == len(sides)
            found = build.add(found, held, name if last else f"{read.called}_so_far")
        return found
