"""A tile of the state, and what a prepared block of a prompt does with it."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.algebra.naming import value_names
from kvgen.algebra.records import Records
from kvgen.algebra.solving import solve
from kvgen.codegen.operands import component, few_bits, input_of, times_input
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import Helper, Kernel, Value
from kvgen.schedules.loads import INPUTS, Lanes, TokenLoads
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.prepared import Item, Places, Prepared

# of what hangs on the state, with inputs, and with what is prepared
PRODUCT, PREPARED = Helper("_product_of_state"), Helper("_product_with_prepared")
VECTORS = Helper("_product_with_vectors")
NOTHING = Helper("_no_reads", ("TILE",))
# of a float32 in as many bfloat16 as hold all of it
PARTS = 3


class Sweep:
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
        parts = (1, vector_parts) if few else (PARTS, PARTS)
        self.prepared = Prepared(form, shapes.span("K"), *parts)
        self.places = Places(build, lanes, shapes, self.prepared)
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

    def __call__(self, node: Node, name: str | None) -> Value:
        if node.axes.channels:
            return self.inputs(node, name)
        return self._number(Item("value", node), name)

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
        if by_channel or input_of(column) is None:
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
        raw = input_of(node)
        assert raw is not None
        return self.inputs.stored(raw, f"{self.names.get(raw, component(raw))}_rows")

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
        raw = input_of(node)
        called = "vector" if raw is None else self.names.get(raw, component(raw))
        return self.names.get(node, called)

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
            if by_channel or input_of(key) is None:
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
