"""A window's tokens as the columns of one product.

What the state, the buffer's keys and the window's own keys are multiplied with are the tokens'
columns, side by side. Scores, and what is solved of them, are T × T numbers for a head, so a
program, which has one head, computes them once, before it goes over its tiles of the state. In a
tile there are left: the state times the columns, the buffer's values times their scores, and what
each token writes of itself, times what follows from the triangle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.names import local
from kvgen.codegen.operands import component
from kvgen.codegen.shapes import Shapes
from kvgen.ir.values import Helper, Kernel, Value
from kvgen.schedules.buffered import Buffered
from kvgen.schedules.triangle import EXACT, Triangle

# products with 16 bits of a float32 are as good where the state is read in 16 bits
ROUGH = Helper("_product", ("rough=True",))
WRITTEN = Helper("_product_of_tokens")
SQUARE = Helper("_product_of_squares")
ABOVE = Helper("_above", ("TREE",))
BETWEEN = Helper("_logs_between")
INVERSE = Helper("_inverse_by_halves")
DIAGONAL = Helper("_diagonal")


def chunk(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """A verify of a form that `chunks`, of which no channel decays by itself."""
    return Chunk(form, records, shapes).kernel()


class Chunk(Triangle):
    """asked, kept: the columns that the state is multiplied with, and what comes of it is still to
    be times. buffer_scores: of each column with each write in the buffer.
    """

    between, inverse_of, square, diagonal = BETWEEN, INVERSE, SQUARE, DIAGONAL
    # how vectors over K lie: by tokens that write
    tokens = "S"

    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        super().__init__(form, records, shapes)
        self.product = ROUGH if form.spec.storage.state.narrow else EXACT
        self.buffer = self._buffered()
        self.asked: dict[Node, Value] = {}
        self.kept: dict[Node, Value | None] = {}
        self.buffer_scores: dict[tuple[Node, int], Value] = {}

    def _buffered(self) -> Buffered:
        return Buffered(self.token, self.form, self.records, self.lanes)

    def kernel(self) -> Kernel:
        build = self.build
        early = self._early(self._cached)
        self.buffer.load()
        with build.when("PDL"):
            # what is read in front of this only the cache itself writes
            build.do("tl.extra.cuda.gdc_wait")
            build.do("tl.extra.cuda.gdc_launch_dependents")
        early += self._early(self._inputs)
        self.lanes.pending(self.lanes.head)
        self.find_vectors()
        self._window()
        self.solve()
        self._store(stored for stored in self.records.stored if stored.channel != "V")
        with build.loop("step", "TILES", "STAGES") as step:
            self._tile(step, early)
        return build.kernel()

    # -- what is the same for all tiles

    def _window(self) -> None:
        """Decays along a token's path, and its scores with what comes before it."""
        build, form = self.build, self.form
        self.ancestors = self._above()
        self.find_decays()
        for column in form.columns:
            vector = self.vectors[column]
            called = vector.called
            lead = self.lead(column)
            self.asked[column] = vector.columns
            self.kept[column] = self.times(lead, self.buffer.kept.get(""), name=f"{called}_kept")
            for index in range(len(form.keys)):
                self.score(column, index)
                if not self.buffer.keys:
                    continue
                keys, scale = self.buffer.keys[index]
                score = build.dot(keys, vector.columns, self.product, name=f"{called}_by_held")
                held = self.times(self.buffer.weight, scale)
                score = build.times(score, held, lead, name=f"{called}_held_scores")
                self.buffer_scores[column, index] = score

    def _above(self) -> Value:
        build, lanes = self.build, self.lanes
        strides = [build.given(f"parents_{each}", "", "long") for each in ("row", "token")]
        row, token_at = (
            build.mul(index, stride)
            for index, stride in zip((lanes.row, lanes.long_token), strides, strict=True)
        )
        parents = build.add(build.given("parents_ptr", type="pointer"), build.add(row, token_at))
        return build.helper(
            ABOVE, parents, lanes.token, lanes.real_token, axes="ST", type="bool",
            name="ancestors", note="whether a row's token comes before a column's",
        )  # fmt: skip

    # -- a tile

    def _early(self, loaded: Callable[[], list[Value]]) -> list[Value]:
        """Of a program's only tile what is loaded is on the way before anything is computed."""
        self._begin(self.lanes.part, "only_")
        with self.build.when("EARLY"):
            return loaded()

    def _begin(self, tile: Value, called: str = "") -> None:
        self.lanes.tile(self.build.mul(tile, self.build.given("TILE")), called)

    def _cached(self) -> list[Value]:
        """What a tile needs of the cache: the state, and values as they are recorded."""
        return [self._state(), *map(self.buffer.as_recorded, self.buffer.whole)]

    def _inputs(self) -> list[Value]:
        """What a tile needs of the tokens."""
        return [
            self.inputs.stored(node, f"{self.name(node, component(node))}_given")
            for node in self._values_given()
        ]

    def _values_given(self) -> list[Node]:
        """The inputs over V."""
        roots = [*self.form.roots, *(stored.node for stored in self.records.stored)]
        leaves = (node for node in reachable(roots) if leaf_of(node).op == "input")
        whole = [node for node in leaves if node.axes.channels == "V" and not node.axes.extra]
        return list(dict.fromkeys(whole))

    def _tile(self, step: Value, early: list[Value]) -> None:
        build, form, lanes = self.build, self.form, self.lanes
        tile = build.add(build.mul(lanes.part, build.given("TILES")), step)
        self._begin(tile)
        with build.when("EARLY", holds=False):
            late = [*self._cached(), *self._inputs()]
        pairs = zip(early, late, strict=True)
        state, *loaded = (build.either("EARLY", *pair) for pair in pairs)
        recorded = dict(zip(self.buffer.whole, loaded, strict=False))
        given = loaded[len(recorded) :]
        for node, value in zip(self._values_given(), given, strict=True):
            name = self.name(node, component(node))
            self.token.known[node] = build.cast(value, "float", name)
        values = [
            recorded[d] if d in recorded else self.buffer.values(index)
            for index, (_, d) in enumerate(self.buffer.writes)
        ]
        base: dict[Node, Value] = {}
        for read in form.reads:
            column = read.args[0]
            vector = self.vectors[column]
            called, asked = f"{vector.called}_base", self.asked[column]
            found = build.dot(state, asked, self.product, name=f"{vector.called}_found")
            found = build.times(found, self.kept[column])
            for index, each in enumerate(values):
                score = self.buffer_scores[column, index]
                found = build.dot(each, score, self.product, found, name=called)
            base[read] = found
        known = self._known_writes()
        reads = {read: self._after(read, found, known) for read, found in base.items()}
        if self.unknown is not None:
            node = form.writes[self.unknown].d
            alone = self.token.again("_alone", reads).value(node)
            alone = build.along(build.where(lanes.real_token, alone, 0.0, "alone"), "S")
            assert self.inverse is not None
            name = self.name(node, "write")
            self.token.known[node] = build.dot(alone, self.inverse, WRITTEN, name=name)
            for read, found in reads.items():
                mixed = self.mixed[read.args[0]]
                name = self.name(read, f"{self.vectors[read.args[0]].called}_read")
                reads[read] = build.dot(alone, mixed, WRITTEN, found, name=name)
        self.token.known |= reads
        self._store(stored for stored in self.records.stored if stored.channel == "V")
        self._output(self.token.value(form.output))

    def _state(self) -> Value:
        """What is read of a tile of the state."""
        build, lanes, spec = self.build, self.lanes, self.form.spec
        if spec.storage.layout == "vk":
            offset = lanes.within(lanes.channel("V"), "K")
        else:
            offset = lanes.within(lanes.key, "V")
        pointer = build.given(f"{local(self.form.planes[0])}_at", type="pointer")
        masks = [mask for channel in "VK" if (mask := lanes.masks.get(channel))]
        mask = build.every(*masks) if masks else None
        kind = "stored" if spec.storage.state.narrow else "float"
        return build.load(pointer, offset, mask, "state", type=kind)

    def _known_writes(self) -> dict[int, Value]:
        """What tokens write that needs no read."""
        build, found = self.build, {}
        for index, write in enumerate(self.form.writes):
            if index != self.unknown:
                value = build.where(self.lanes.real_token, self.token.value(write.d), 0.0)
                found[index] = build.along(value, "S")
        return found

    def _after(self, read: Node, found: Value, known: dict[int, Value]) -> Value:
        """A read with what its ancestors write that needs no read."""
        for index, value in known.items():
            found = self.build.dot(value, self.scores[read.args[0], index], WRITTEN, found)
        return found

    # -- what is left

    def _store(self, records: Iterator[Stored]) -> None:
        build, lanes = self.build, self.lanes
        for stored in records:
            node, channel = stored.node, stored.channel
            tokens = self.tokens if channel == "K" else "T"
            value = self.raw[node].rows if node in self.raw else self.token.value(node)
            offset = lanes.within(build.along(lanes.spot, tokens), channel)
            guards = [*lanes.once(node.axes), build.along(lanes.fits, tokens)]
            pointer = build.given(f"{local(stored.name)}_at", type="pointer")
            build.store(pointer, offset, value, build.every(*guards))

    def _output(self, value: Value) -> None:
        build, lanes = self.build, self.lanes
        row, token, head = (
            build.mul(index, build.given(f"out_{axis}", "", "long"))
            for index, axis in (
                (lanes.row, "row"),
                (lanes.long_token, "token"),
                (build.cast(lanes.head, "long"), "head"),
            )
        )
        offset = build.add(build.add(build.add(row, token), head), lanes.channel("V"))
        masks = [lanes.masks["V"]] if "V" in lanes.masks else []
        guard = build.every(lanes.real_token, *masks)
        build.store(build.given("out_ptr", type="pointer"), offset, value, guard)
