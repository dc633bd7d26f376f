"""A short chain of drafts as a step of several tokens: a decode with more columns.

A token's values are numbers and vectors of their own, as a decode has them for its one. What reads
the stored state, and the buffer, is side by side the columns of one operand: a tile of the state is
multiplied with them once, and so are the buffer's keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

from kvgen.algebra.chain import MOST_SUMS, chained
from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records
from kvgen.codegen.shapes import Shapes
from kvgen.functions.registry import reduces
from kvgen.ir.values import Helper, Kernel, Value, Wish
from kvgen.schedules.one_pass import OnePass
from kvgen.schedules.token import Leaving, StepLoads, names_of, to_token


def chain(form: Form, records: Records, shapes: Shapes) -> Kernel:
    return _Chain(form, records, shapes).kernel()


@dataclass
class ChainLoads(StepLoads):
    """Every token's inputs, 0 for those beyond the window; and what is there before them. number:
    which token's, where it is asked for one."""

    number: int = 0

    def stored(self, node: Node, name: str | None = None) -> Value:
        if node.op != "at":
            return super().stored(node, name)
        return replace(self, number=int(node.value or 0)).stored(node.args[0], name)

    def _of_token(self, called: str, channel: str) -> tuple[list[Value], list[Value]]:
        build, number = self.build, self.number
        within = build.binary("gt", build.given("WINDOW"), build.number(number))
        return to_token(build, number, f"{called}_token"), [within] if number else []

    def _loaded(
        self, node: Node, pointer: Value, offset: Value, real: list[Value], name: str | None
    ) -> Value:
        # WINDOW is a constant of the kernel: a condition on it alone is a mask as it stands
        if self.number and len(real) == 1:
            return self.build.load(pointer, offset, real[0], name)
        return super()._loaded(node, pointer, offset, real, name)


@dataclass
class Columns:
    """Those over a channel. asked: as the buffer's places meet them, kept: as the stored state
    does; scores: with each write's side over the channel, where they are known before the tiles."""

    nodes: list[Node]
    asked: Value
    kept: Value
    scores: list[Value]


class _Chain(OnePass):
    # values of all tokens fill the registers
    oldest_last = True

    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        self.chain = chain = chained(form)
        called = {node: Wish(name) for node, name in chain.called.items()}
        names = {**names_of(form, records), **called, **form.graph.names}
        recorded = [stored.node for stored in records.stored]
        roots = [*chain.roots, *(values[node] for values in chain.tokens for node in recorded)]
        super().__init__(form, records, shapes, names, ChainLoads, roots, chain.columns, raw=True)
        # beside a state that is read in 16 bits, the buffer is read with little more
        rough = form.spec.storage.state.narrow and not records.exact
        self.product = Helper("_through", ("rough=True",) if rough else ())
        self.asked: dict[str, Columns] = {}

    # -- before the tiles

    def find_keys(self) -> None:
        whole = self.buffer.keys_whole
        self.keys = self.buffer.keys_given(lambda key: not (whole or key.reads))

    def wait(self) -> None:
        super().wait()
        self.lanes.pending(self.lanes.head if self.single else self.lanes.group)

    def vectors(self, nodes: Iterable[Node]) -> None:
        for sums in self._turns():
            self._summed(sums)
        super().vectors(nodes)

    def _turns(self) -> Iterator[list[Node]]:
        """The sums that are known before the tiles, as many at once as do not need each other."""
        depths: dict[Node, int] = {}
        turns: dict[int, list[Node]] = {}
        for node in reachable(self.roots):
            if node in self.unit:
                depths[node] = max((depths[arg] for arg in node.args), default=0)
                if reduces(node):
                    turns.setdefault(depths[node], []).append(node)
                    depths[node] += 1
        for sums in turns.values():
            for first in range(0, len(sums), MOST_SUMS):
                yield sums[first : first + MOST_SUMS]

    def _summed(self, sums: list[Node]) -> None:
        if len(sums) > 1:
            vectors = [self.token.clean(node.args[0]) for node in sums]
            whole = self.build.helper(Helper(f"_sums_{len(sums)}"), *vectors, axes="")
            names = [str(self.token.name(node) or "sum") for node in sums]
            parts = self.build.parts(whole, "", names)
            self.token.known |= dict(zip(sums, parts, strict=True))

    def once(self) -> None:
        for near in ("K", "V"):
            nodes = self.through(near)
            if nodes and all(node in self.unit for node in nodes):
                self._ask(near, nodes)
        self._leave(at_unit=True)

    def _ask(self, near: str, nodes: list[Node]) -> None:
        build, kept = self.build, self.buffer.kept
        vectors = [
            self.given[node].came if node in self.given else self.token.clean(node)
            for node in nodes
        ]
        asked = decayed = self.beside(vectors, near)
        if near in kept:
            decayed = build.mul(asked, kept[near], "columns_kept")
        if near == "K" and self.form.factored:
            # factored keys hold no decay of their own: the columns' serves for all of them
            asked = decayed
        scores = [self._score(*key, asked) for key in self.keys] if near == "K" else []
        self.asked[near] = Columns(nodes, asked, decayed, scores)
        for node in nodes:
            self.number(node)

    def _score(self, side: Value, number: Value | None, asked: Value) -> Value:
        score = self.build.dot(side, asked, self.product, name="scores")
        return self.build.times(score, number, name=Wish("scaled_scores"))

    # -- in a tile

    def begin(self) -> None:
        planes = self.form.planes
        for plane in planes if self.records.exact else planes[:1]:
            self.lanes.plane(plane)
        for stored in self.records.stored:
            if any(values[stored.node] not in self.unit for values in self.chain.tokens):
                self.lanes.at(stored)

    def of_tile(self, state: Value) -> None:
        self.values = [self._values(index) for index in range(len(self.buffer.writes))]
        for near in ("K", "V"):
            nodes = self.through(near)
            if nodes and near not in self.asked:
                self._ask(near, nodes)
            if nodes:
                self._read(near, self.asked[near], state)
        self._leave(at_unit=False)

    def _values(self, index: int) -> Value:
        """A write's values at all places, as they lie there if they do."""
        buffer, value = self.buffer, self.buffer.writes[index][1]
        if value in buffer.whole and "V" not in buffer.kept:
            return buffer.as_recorded(value)
        return buffer.value_now(index)

    def _read(self, near: str, columns: Columns, state: Value) -> None:
        """All columns over one channel through the stored state and the buffer."""
        build, buffer, far = self.build, self.buffer, "V" if near == "K" else "K"
        tile = build.turned(state) if near == "K" else state
        found = build.dot(tile, columns.kept, self.product, name="from_state")
        terms = [build.times(found, *self.left(far))]
        scores, sides = columns.scores, self.values
        if near == "V":
            scores = [self._score(value, None, columns.asked) for value in self.values]
            sides = [key for key, _ in self.keys]
        for side, score in zip(sides, scores, strict=True):
            if far == "K" and self.form.factored:
                # what comes back over K is a sum of keys that are recorded before their decay
                side = build.mul(side, buffer.kept["K"], "keys_now")
            weighted = build.times(score, buffer.weight, name=Wish("weighted"))
            held = build.dot(build.turned(side), weighted, self.product, name="from_buffer")
            terms.append(held)
        *first, last = terms
        found = build.add(build.total(first), last, "found") if first else last
        reads = {read.args[0]: read for read in self.chain.reads}
        names = [self._part(node, reads[node]) for node in columns.nodes]
        for node, part in zip(columns.nodes, self.apart(found, names), strict=True):
            read = reads[node]
            called = self.chain.called[read]
            self.token.known[read] = build.times(part, self.number(node), name=called)

    def _part(self, column: Node, read: Node) -> str:
        """What is found with a column is called after what went through, if that is its input."""
        number = self.number(column)
        return f"{self.given[column].called}_through" if number else self.chain.called[read]

    # -- what is left

    def _leave(self, at_unit: bool) -> None:
        """What each token leaves, as far as the window reaches."""
        form, records = self.form, self.records
        asked = [form.output, *form.roots, *(stored.node for stored in records.stored)]
        for number, values in enumerate(self.chain.tokens):
            leaving = Leaving(self.lanes, self.token, form, records, self.unit, number, values)
            with self.build.when("WINDOW", above=number) if number else nullcontext():
                if at_unit:
                    leaving.store(at_unit)
                    continue
                for node in asked:
                    self.token.value(values[node])
                leaving.store(at_unit)
                leaving.output()
