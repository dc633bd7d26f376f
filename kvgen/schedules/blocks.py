"""A prompt in blocks of tokens: what they are to each other is prepared for all blocks side by
side, then the state goes through one block after the other.

A block is a window whose tokens are columns, as in `chunk`, on a state that is at hand. Of its
tokens' numbers for a head, and of what is solved of their scores, nothing hangs on the state: a
first kernel computes them, with a program for each block and head, and leaves them in memory. To
the other are left products: the state times the block's columns, what each token writes of itself
times what is solved, and what that adds to the state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.algebra.naming import value_names
from kvgen.algebra.records import Records
from kvgen.algebra.solving import solve
from kvgen.codegen.kernels import Shapes
from kvgen.codegen.operands import component, few_bits, times_input
from kvgen.functions.exp import EXP
from kvgen.ir.build import Builder
from kvgen.ir.values import Helper, Kernel, Value
from kvgen.kernels.sweep import BLOCK
from kvgen.schedules.loads import INPUTS, Lanes, TokenLoads
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.triangle import Triangle

BEFORE, BEHIND = Helper("_logs_before"), Helper("_logs_behind")
BETWEEN = Helper("_logs_in_order")
INVERSE = Helper("_inverse_of_block")
SQUARE = Helper("_product_in_block")
DIAGONAL = Helper("_own_scores")
# of what hangs on the state, with inputs, and with what is prepared
PRODUCT, PREPARED = Helper("_product_of_state"), Helper("_product_with_prepared")
VECTORS = Helper("_product_with_vectors")
NOTHING = Helper("_no_reads", ("TILE",))
# where every key channel has a decay of its own
KEPT, REST = Helper("_kept_by_channel"), Helper("_rest_by_channel")
SCORES = Helper("_scores_by_channel")
# of a float32 in as many bfloat16 as hold all of it
PARTS = 3


class Item(NamedTuple):
    """What is prepared. node: what it is of. write: which write it is for. factor: of a read, what
    it is times wherever it is used."""

    what: str
    node: Node | None = None
    write: int = 0
    factor: Node | None = None


@dataclass
class Prepared:
    """What one kernel leaves for the other of a block: numbers of its tokens; matrices, tokens by
    tokens, and behind these vectors, tokens by keys, each in so many parts, bfloat16 numbers of
    which they are the sum."""

    parts: int
    vector_parts: int
    numbers: list[Item] = field(default_factory=list)
    matrices: list[Item] = field(default_factory=list)
    vectors: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class Blocks:
    """The two kernels, and how much of a block the first leaves for the second."""

    prepare: Kernel
    sweep: Kernel
    prepared: Prepared


def blocks(form: Form, records: Records, shapes: Shapes) -> Blocks:
    """An extend of a form that `chunks`."""
    sweep = _Sweep(form, records, shapes)
    kernel = sweep.kernel()
    return Blocks(_Prepare(form, records, shapes).kernel(sweep.prepared), kernel, sweep.prepared)


class _Places:
    """Where what is prepared of a block lies: a pointer and an offset. turn: the number of the head
    among those of a program, where it has several."""

    def __init__(
        self,
        build: Builder,
        lanes: Lanes,
        shapes: Shapes,
        prepared: Prepared,
        turn: Value | None = None,
    ) -> None:
        self.build, self.lanes, self.shapes, self.prepared = build, lanes, shapes, prepared
        self.turn, self.tokens = turn, build.given("TOKENS")

    def _pointer(self, name: str, size: str) -> Value:
        """Where the first head's lie, or those of the head whose turn it is."""
        pointer = self.build.given(name, type="pointer")
        if self.turn is None:
            return pointer
        return self.build.add(pointer, self.build.mul(self.turn, self.build.given(size)))

    def number(self, item: Item, axes: str = "T") -> tuple[Value, Value]:
        """Of every token, or of the block."""
        index = self.build.number(_index(self.prepared.numbers, item))
        start = self.build.mul(index, self.tokens)
        if axes == "K":
            # as many numbers as there are keys
            for more in range(1, -(-self.shapes.span("K") // BLOCK)):
                _index(self.prepared.numbers, item._replace(what="", write=more))
            return self._pointer("numbers_at", "NUMBERS"), self.build.add(start, self.lanes.key)
        offset = self.build.add(start, self.lanes.token) if axes else start
        return self._pointer("numbers_at", "NUMBERS"), offset

    def matrix(self, item: Item, part: int) -> tuple[Value, Value]:
        pointer = self._pointer("matrices_at", "HALVES")
        rows = self._rows(_index(self.prepared.matrices, item) * self.prepared.parts + part)
        return pointer, self.build.add(self.build.mul(rows, self.tokens), self.lanes.token)

    def vectors(self, item: Item, part: int) -> tuple[Value, Value]:
        pointer = self._pointer("vectors_at", "HALVES")
        rows = self._rows(_index(self.prepared.vectors, item) * self.prepared.vector_parts + part)
        span = self.build.number(self.shapes.span("K"))
        return pointer, self.build.add(self.build.mul(rows, span), self.lanes.key)

    def _rows(self, place: int) -> Value:
        start = self.build.mul(self.build.number(place), self.tokens)
        return self.build.add(start, self.build.along(self.lanes.token, "S"))


def _index(items: list[Item], item: Item) -> int:
    if item not in items:
        items.append(item)
    return items.index(item)


class _Prepare(Triangle):
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
            self._head(_Places(build, lanes, self.shapes, prepared, turn))
        return build.kernel()

    def _head(self, places: _Places) -> None:
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


class _Sweep:
    """The tile of the state is `state`; in front of its lines stand the block's tokens, and the
    lanes of the tile."""

    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        self.form, self.shapes = form, shapes
        self.build = build = Builder()
        self.lanes = lanes = Lanes(build, shapes, form.spec.ratio)
        lanes.value = build.given("value", "V")
        if shapes.masks_v:
            lanes.masks["V"] = build.given("real_value", "V", "bool")
        self.names = {**value_names(form, records), **form.graph.names}
        self.inputs = TokenLoads(build, lanes, self.names)
        # of keys that read and write what is alike, what both are rounded by must not add up
        vector_parts = 2 if form.writes_read else 1
        few = few_bits(form)
        self.prepared = Prepared(1 if few else PARTS, vector_parts if few else PARTS)
        self.places = _Places(build, lanes, shapes, self.prepared)
        self.token = Lowering(build, form.graph, self, self.names, lanes.masks)
        self.factors = solve(form).factors or {}
        # by what is computed of a node
        self.users: dict[Node, list[Node]] = {}
        for node in reachable([form.output, *(write.d for write in form.writes)]):
            for arg in dict.fromkeys(node.args):
                self.users.setdefault(arg, []).append(node)

    # -- what is there without being computed

    @property
    def tokens(self) -> tuple[str, str]:
        return self.inputs.tokens

    def has(self, node: Node) -> bool:
        return leaf_of(node).op in INPUTS or not (node.axes.channels or node.is_const)

    def __call__(self, node: Node) -> Value:
        if node.axes.channels:
            return self.inputs(node)
        return self._number(Item("value", node), self.names.get(node))

    def _number(self, item: Item, name: str | None = None, axes: str = "T") -> Value:
        return self.build.load(*self.places.number(item, axes), None, name, type="float")

    def _with(self, value: Value, item: Item, onto: Value, name: str, result: str) -> Value:
        """A product with a matrix that is prepared, added to what is given."""
        parts = [
            self.build.load(*self.places.matrix(item, part), None, name if part == 0 else None)
            for part in range(self.prepared.parts)
        ]
        return self.build.helper(PREPARED, value, onto, *parts, axes="VT", name=result)

    # -- a block

    def kernel(self) -> Kernel:
        build, form = self.build, self.form
        sides = [write.d for write in form.writes]
        solved = list(dict.fromkeys(solve(form).unknown)) if self.factors else []
        unknown = sides.index(solved[0]) if solved else None
        self.writes = {
            index: self._of_tokens(self.token.value(node))
            for index, node in enumerate(sides)
            if index != unknown
        }
        alone = None
        if unknown is not None:
            reads = {self._whole(read)[0]: self._read(read) for read in self.factors}
            value = self.token.again("_alone", reads).value(sides[unknown])
            alone = self._of_tokens(value, "alone")
            name = self.names.get(sides[unknown], "write")
            onto = build.along(alone, "T")
            found = self._with(alone, Item("from others"), onto, "from_others", name)
            self.token.known[sides[unknown]] = found
            self.writes[unknown] = build.along(found, "S")
        shown = reachable([form.output], self.token.known)
        for read in (node for node in shown if node.op == "read"):
            found, column = self._read(read), read.args[0]
            if alone is not None:
                called = self._called(column)
                item = Item("mixed", column, factor=self._whole(read)[1])
                found = self._with(alone, item, found, f"{called}_mixed", f"{called}_read")
            self.token.known[self._whole(read)[0]] = found
        self._output(self.token.value(form.output))
        self._update()
        return build.kernel()

    def _read(self, read: Node) -> Value:
        """What a token reads of the state as it was in front of the block, and of what the block
        writes without reading."""
        build, column = self.build, read.args[0]
        called = self._called(column)
        state = build.given("state", "VK", "float")
        factor, by_channel = self._whole(read)[1], self.form.decay("K") is not None
        if by_channel or times_input(self.form, column) is None:
            # only where vectors are prepared for that are they times what they are to be
            wanted = Item("kept", column, factor=factor) if by_channel else Item("kept", column)
            columns = [build.turned(each) for each in self._parts(wanted, f"{called}_rows")]
            nothing = build.helper(NOTHING, columns[0], axes="VT")
            found = build.helper(
                VECTORS, state, nothing, *columns, axes="VT", name=f"{called}_found"
            )
        else:
            columns = build.turned(self._rows(column), f"{called}_columns")
            found = build.dot(state, columns, PRODUCT, name=f"{called}_found")
        if not by_channel and (self.form.decays or self._scaled(column) or factor):
            lead = self._number(Item("lead", column, factor=factor), f"{called}_lead")
            found = build.mul(found, lead)
        for index, write in self.writes.items():
            if self.form.writes[index].d.reads:
                continue
            item = Item("scores", column, index, factor)
            found = self._with(write, item, found, f"{called}_scores", f"{called}_base")
        return found

    def _whole(self, read: Node) -> tuple[Node, Node | None]:
        """A read with the numbers that it is times wherever it is used, and their product."""
        graph, node, factor = self.form.graph, read, None
        ends = (self.form.output, *(write.d for write in self.form.writes))
        while node not in ends:
            users = self.users.get(node, [])
            others = [arg for arg in users[0].args if arg is not node] if len(users) == 1 else []
            if len(others) != 1 or users[0].op != "mul" or others[0].axes.channels:
                return node, factor
            (node,), (other,) = users, others
            factor = other if factor is None else graph.mul(factor, other)
        return node, factor

    def _rows(self, node: Node) -> Value:
        """An input's vector of every token, as it came."""
        found = times_input(self.form, node)
        assert found is not None
        return self.inputs.stored(found[0], f"{self.names.get(found[0], component(found[0]))}_rows")

    def _parts(self, item: Item, name: str) -> list[Value]:
        """Prepared vectors of every token, in parts."""
        return [
            self.build.load(*self.places.vectors(item, part), None, name if part == 0 else None)
            for part in range(self.prepared.vector_parts)
        ]

    def _scaled(self, node: Node) -> bool:
        """Whether a vector is an input times a number."""
        found = times_input(self.form, node)
        return found is not None and not found[1].is_number(1.0)

    def _called(self, node: Node) -> str:
        found = times_input(self.form, node)
        raw = self.names.get(found[0], component(found[0])) if found else "vector"
        return self.names.get(node, raw)

    def _of_tokens(self, value: Value, name: str | None = None) -> Value:
        """Of tokens that write, with zeros for those that only fill the block up."""
        value = self.build.where(self.lanes.real_token, value, 0.0, name)
        return self.build.along(value, "S")

    def _update(self) -> None:
        build, form = self.build, self.form
        state = build.given("state", "VK", "float")
        found, by_channel = state, form.decay("K") is not None
        if form.decays:
            axes = "K" if by_channel else ""
            found = build.mul(state, self._number(Item("lasting"), "lasting", axes))
        for index, key in enumerate(form.keys):
            value = self.writes[index]
            if by_channel or times_input(form, key) is None:
                rows = self._parts(Item("rest", key, index), "rest_rows")
                found = build.helper(VECTORS, value, found, *rows, axes="VK")
                continue
            if form.decays or self._scaled(key):
                rest = self._number(Item("rest", None, index), "rest")
                value = build.mul(value, build.along(rest, "S"))
            found = build.dot(value, self._rows(key), PRODUCT, found)
        build.move(state, found)

    def _output(self, value: Value) -> None:
        build, lanes = self.build, self.lanes
        token = build.mul(lanes.long_token, build.given("out_token", "", "long"))
        offset = build.add(token, lanes.channel("V"))
        masks = [lanes.masks["V"]] if "V" in lanes.masks else []
        wanted = build.given("wanted", "T", "bool")
        value = build.where(lanes.real_token, value, 0.0)
        build.store(
            build.given("out_at", type="pointer"), offset, value, build.every(wanted, *masks)
        )
