"""A token alone, by one reading of the stored state: on tensor cores if DOT says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of
from kvgen.algebra.records import Records
from kvgen.codegen.operands import offered, parts_keys
from kvgen.codegen.shapes import Shapes
from kvgen.ir.values import Helper, Kernel, Value
from kvgen.schedules.one_pass import EARLY, OnePass
from kvgen.schedules.token import Leaving, StepLoads, names_of

TIMES, FLAT = Helper("_times"), Helper("_flat")
# whether a program has all value channels of a head, so that it finishes outputs
FINISH = "FINISH"


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


class _Decode(OnePass):
    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        roots = [*form.whole, *(stored.node for stored in records.stored)]
        self.dots = dots = offered(form)
        names = names_of(form, records)
        super().__init__(
            form, records, shapes, names, StepLoads, roots, form.columns, dots, parts_keys(form)
        )
        self.leaving = Leaving(self.lanes, self.token, form, records, self.unit)
        self.numbers: dict[Node, Value] = {}
        # by the channel that they are over, all columns side by side
        self.operands: dict[str, Value] = {}
        self.reads: dict[Node, Read] = {}

    def find_keys(self) -> None:
        found = self.token.found(self.roots)
        past = [node for node in found if leaf_of(node).op == "past"]
        for node in past:
            if node in self.unit:
                self.token.value(node)
        self.keys = self.buffer.keys_apart()
        self._records_ahead([node for node in past if node not in self.unit])

    def vectors(self, nodes: Iterable[Node]) -> None:
        nodes = list(nodes)
        for node in self.token.found(nodes):
            self.token.value(node)
        self._inputs_ahead()
        super().vectors(nodes)

    def _records_ahead(self, past: list[Node]) -> None:
        """What a program's only tile needs of what a cache alone writes: of the buffer decays of
        its head, and values, and what inputs were."""
        buffer = self.buffer
        logs = [decay.log for decay in self.summed_decays(at_unit=False)]
        values = buffer.buffered.found([d for _, d in buffer.writes])
        if not (buffer.writes or past):
            return
        note = "so is what it needs of the buffer, and then of the token"
        with self.build.when(EARLY, note=note):
            self.token.load_ahead(past, EARLY)
            for side in (buffer.newer, buffer.first) if logs else ():
                side.load_ahead(side.found(logs), EARLY)
            buffer.buffered.load_ahead([each for each in values if each not in self.unit], EARLY)

    def _inputs_ahead(self) -> None:
        """What it needs of the token."""
        given = {raw for _, raw, _ in self.columns_given(at_unit=False)}
        found, there = self.token.found(self.roots), {*self.unit, *given, *self.token.ahead}
        with self.build.when(EARLY):
            self.token.load_ahead([each for each in found if each not in there], EARLY)

    def begin(self) -> None:
        self.leaving.begin()

    def once(self) -> None:
        self._scores(at_unit=True)
        self._operands(at_unit=True)
        self.leaving.store(at_unit=True)
        self.leaving.remember(at_unit=True)

    def of_tile(self, state: Value) -> None:
        self.values = self.buffer.values_now()
        self._scores(at_unit=False)
        self._operands(at_unit=False)
        dots = self._on_tensor_cores(state) if self.dots else {}
        for node in self.form.reads:
            found = dots[node] if node in dots else self._summed(node, state)
            self.token.known[node] = self._read(self.reads[node], found)
        for node in self.roots:
            if node is not self.form.finish:
                self.token.value(node)
        self.leaving.store(at_unit=False)
        self.leaving.remember(at_unit=False)
        self._output()

    def _output(self) -> None:
        finish = self.form.finish
        if finish is None:
            self.leaving.output()
            return
        with self.build.when(FINISH):
            self.leaving.output(finish)
        with self.build.when(FINISH, holds=False):
            self.leaving.output()

    # -- what is there before the reads

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
            for side, number in self.keys if near == "K" else [(x, None) for x in self.values]:
                score = build.sum(build.mul(side, asked), near, None if weight or number else name)
                read.scores.append(build.times(weight, score, number, name=name))

    # -- reads

    def _operands(self, at_unit: bool) -> None:
        """Vectors side by side, as early as all of them are there."""
        for near in ("K", "V") if self.dots else ():
            columns = self.through(near)
            if columns and all(column in self.unit for column in columns) == at_unit:
                vectors = [self._flat(self._operand(column)) for column in columns]
                self.operands[near] = self.beside(vectors, vectors[0].axes)

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
        build, left, name = self.build, self.left(read.far), f"{read.called}_found"
        product = build.mul(state, read.column)
        found = build.sum(product, read.near, None if left else name)
        return build.times(*left, found, name=name)

    def _multiplied(self, state: Value) -> dict[Node, Value]:
        """The reads on tensor cores: a tile of the state times all columns side by side."""
        build, found = self.build, {}
        for near, columns in self.operands.items():
            tile = state if (near == "K") == self.turned else build.turned(state)
            tile = self._flat(tile)
            through = self.through(near)
            product = build.dot(tile, columns, TIMES, name="found")
            names = [self._through_name(column) for column in through]
            parts = dict(zip(through, self.apart(product, names), strict=True))
            for node in self.form.reads:
                column = node.args[0]
                if column in parts:
                    read, number = self.reads[node], self.numbers.get(column)
                    factors = parts[column], *self.left(read.far), number
                    found[node] = build.times(*factors, name=f"{read.called}_found")
        return found

    def _through_name(self, column: Node) -> str:
        """What a column's part of a product is called: found, if it is not times anything yet."""
        read = next(read for read in self.reads.values() if read.node.args[0] is column)
        plain = column not in self.numbers and not self.left(read.far)
        return f"{read.called}_{'found' if plain else 'through'}"

    def _operand(self, column: Node) -> Value:
        """What goes to the tensor cores for a column."""
        if column not in self.given:
            return next(read.column for node, read in self.reads.items() if node.args[0] is column)
        number = self.number(column)
        if number:
            self.numbers[column] = number
        return self.given[column].came

    def _flat(self, x: Value) -> Value:
        """As tensor cores take it, with one number for each key."""
        if not self.parted or "K" not in x.axes:
            return x
        axes = "".join("F" if axis == "K" else axis for axis in x.axes)
        return self.build.helper(FLAT, x, axes=axes, type=x.type)

    def _read(self, read: Read, found: Value) -> Value:
        """With what the buffer adds."""
        build, buffer = self.build, self.buffer
        name = self.form.graph.names.get(read.node, f"{read.called}_read")
        sides = self.values if read.near == "K" else [key for key, _ in self.keys]
        for number, (side, score) in enumerate(zip(sides, read.scores, strict=True), 1):
            if read.far == "K" and self.form.factored:
                # what comes back over K is a sum of keys that are recorded before their decay
                side = build.mul(side, buffer.kept["K"], "keys_now")
            weight = None if read.weight else buffer.weight
            held = build.sum(build.mul(side, build.times(weight, score)), "P")
            last = number == len(sides)
            found = build.add(found, held, name if last else f"{read.called}_so_far")
        return found
