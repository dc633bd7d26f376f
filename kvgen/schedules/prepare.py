"""What the tokens of a block of a prompt are to each other, and nothing of the state."""

from __future__ import annotations

from kvgen.algebra.graph import Node
from kvgen.functions.exp import EXP
from kvgen.ir.values import Helper, Kernel, Value
from kvgen.schedules.prepared import Item, Places, Prepared
from kvgen.schedules.triangle import Triangle

BEFORE, BEHIND = Helper("_logs_before"), Helper("_logs_behind")
BETWEEN = Helper("_logs_in_order")
INVERSE = Helper("_inverse_of_block")
SQUARE = Helper("_product_in_block")
DIAGONAL = Helper("_own_scores")
# where every key channel has a decay of its own
KEPT, REST = Helper("_kept_by_channel"), Helper("_rest_by_channel")
SCORES = Helper("_scores_by_channel")


class Prepare(Triangle):
    between, inverse_of, square, diagonal = BETWEEN, INVERSE, SQUARE, DIAGONAL
    numbers = "S"
    log: Value

    def find_decays(self) -> None:
        build = self.build
        if self.by_channel:
            (decay,) = self.form.decays
            real = build.along(self.lanes.real_token, "S")
            self.log = build.where(real, self.token.value(decay.log), 0.0, "log")
            return
        for decay in self.form.decays:
            log = build.where(self.lanes.real_token, self.token.value(decay.log), 0.0, "log")
            self.log = log
            self.path = build.function(EXP, build.helper(BEFORE, log), name="path")
            # any product tells how the logs are to lie in registers
            products = self._product(
                self.vectors[self.form.keys[0]], self.vectors[self.form.columns[0]]
            )
            between = build.helper(BETWEEN, self.ancestors, log, products, axes="ST")
            self.weights = build.function(EXP, between, name="weights")

    @property
    def by_channel(self) -> bool:
        return self.form.decay("K") is not None

    def score(self, column: Node, index: int) -> Value:
        if not self.by_channel:
            return super().score(column, index)
        build, vector, near = self.build, self.vectors[column], self.vectors[self.form.keys[index]]
        rows = [build.cast(each.rows, "float") for each in (vector, near)]
        score = build.helper(SCORES, *rows, self.log, self.lanes.token, axes="ST")
        number = near.number and build.along(near.number, "S")
        score = build.times(score, number, vector.number)
        name = f"{vector.called}_scores"
        self.scores[column, index] = build.where(self.ancestors, score, 0.0, name)
        return self.scores[column, index]

    def _vector(self, item: Item) -> Value:
        """A vector over K, as it lies in memory before it is parted."""
        build = self.build
        if item.what == "rest":
            vector, scale = self.vectors[self.form.keys[item.write]], REST
        else:
            assert item.node is not None
            vector, scale = self.vectors[item.node], KEPT
        number = vector.number and build.along(vector.number, "S")
        factor = self._factor(item)
        found = build.times(build.cast(vector.rows, "float"), number)
        found = build.times(found, factor and build.along(factor, "S"))
        if self.by_channel:
            found = build.mul(found, build.helper(scale, self.log, self.lanes.token, axes="SK"))
        return found

    def kernel(self, prepared: Prepared) -> Kernel:
        """What is the same for all heads of a program comes in front of the loop over them."""
        build, lanes = self.build, self.lanes
        with build.loop("turn", "HEADS", "1") as turn:
            lanes.head = build.add(build.given("first_head"), turn, "head")
            self._head(Places(build, lanes, self.shapes, prepared, turn))
        return build.kernel()

    def _head(self, places: Places) -> None:
        build, form, lanes, prepared = self.build, self.form, self.lanes, places.prepared
        self.find_vectors()
        before = build.binary("lt", build.along(lanes.token, "S"), lanes.token)
        self.ancestors = build.let(
            "every", (before, lanes.real_token), "ST", "bool", None, "ancestors",
            "whether a row's token comes before a column's",
        )  # fmt: skip
        self.find_decays()
        for column in form.columns:
            for index in range(len(form.keys)):
                self.score(column, index)
        self.solve()
        for item in (item for item in prepared.numbers if item.what):
            value = self._number(item)
            build.store(*places.number(item, value.axes), value)
        for item in prepared.matrices:
            for part in range(prepared.parts):
                build.store(*places.matrix(item, part), self._part(self._matrix(item), part))
        for item in prepared.vectors:
            for part in range(prepared.vector_parts):
                rows = self._part(self._vector(item), part)
                build.store(*places.vectors(item, part), rows)

    def _part(self, value: Value, part: int) -> Value:
        return self.build.helper(Helper("_part", (str(part),), elementwise=True), value)

    def _number(self, item: Item) -> Value:
        if item.what == "lasting":
            total = self.build.sum(self.log, "S" if self.by_channel else "T")
            return self.build.function(EXP, total, name="lasting")
        if item.what == "rest":
            found = self._rest(item.write)
        else:
            assert item.node is not None
            found = self.lead(item.node) if item.what == "lead" else self.token.value(item.node)
            found = self.times(found, self._factor(item))
        assert found is not None
        return self.each(found)

    def _matrix(self, item: Item) -> Value:
        if item.what == "from others":
            # what a token writes of itself is no product, and so not rounded
            assert self.inverse is not None
            return self.build.where(self.ancestors, self.inverse, 0.0)
        assert item.node is not None
        mixed = item.what == "mixed"
        found = self.mixed[item.node] if mixed else self.scores[item.node, item.write]
        return self.build.times(found, self._factor(item))

    def _factor(self, item: Item) -> Value | None:
        return self.token.value(item.factor) if item.factor else None

    def _rest(self, index: int) -> Value | None:
        """What a write is still to be times in the state behind the block."""
        build, rest = self.build, None
        if self.form.decays:
            rest = build.function(EXP, build.helper(BEHIND, self.log), name="rest")
        return self.times(self.vectors[self.form.keys[index]].number, rest)
