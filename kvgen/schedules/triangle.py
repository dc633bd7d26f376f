"""What tokens that follow each other, or of a tree, are to each other: their vectors over K, what
has decayed between them, their scores, and what is solved of these.

All of it is T × T numbers for a head, whatever the value channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.naming import value_names
from kvgen.algebra.records import Records
from kvgen.algebra.solving import solve
from kvgen.codegen.operands import component, input_of, times_input
from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.functions.registry import reduces
from kvgen.ir.build import Builder
from kvgen.ir.values import Helper, Value
from kvgen.schedules.loads import Lanes, TokenLoads
from kvgen.schedules.lowering import Lowering

EXACT = Helper("_product")


@dataclass
class Vector:
    """A vector over K of every token. called: its name. rows: by tokens that write. columns: by
    tokens that read. number: what it is still to be times, where the rows are an input as it
    came."""

    called: str
    rows: Value
    columns: Value
    number: Value | None = None


class Triangle:
    """between, inverse_of, square, diagonal: the functions that sum logs between tokens, solve a
    triangle, multiply what is solved, and take every token's score with itself. numbers: along
    which tokens the last one's lie.

    ancestors: whether a row's token comes before a column's. path, weights: what has decayed before
    each token, and between two, None where nothing decays. factors: of the reads in the one write
    that follows from them, whose number is unknown, or None where there is none.
    """

    between: Helper
    inverse_of: Helper
    square: Helper
    diagonal: Helper
    numbers: str = "T"
    ancestors: Value
    path: Value | None = None
    weights: Value | None = None

    def __init__(self, form: Form, records: Records, shapes: Shapes) -> None:
        self.form, self.records, self.shapes = form, records, shapes
        self.build = build = Builder()
        self.lanes = lanes = Lanes(build, shapes, form.spec.ratio)
        self.names = {**value_names(form, records), **form.graph.names}
        self.inputs = self.loads()
        self.token = Lowering(build, form.graph, self.inputs, self.names, lanes.masks)
        solved = solve(form)
        self.factors = solved.factors or {}
        sides = [write.d for write in form.writes]
        self.unknown = sides.index(solved.unknown[0]) if self.factors else None
        self.raw: dict[Node, Vector] = {}
        self.vectors: dict[Node, Vector] = {}
        self.scores: dict[tuple[Node, int], Value] = {}

    def loads(self) -> TokenLoads:
        return TokenLoads(self.build, self.lanes, self.names)

    def find_vectors(self) -> None:
        """The tokens' vectors over K: inputs as they came, as far as they are one times a number,
        for 16 bits multiply without rounding."""
        build, form, token = self.build, self.form, self.token
        nodes = list(dict.fromkeys((*form.columns, *form.keys)))
        given = {node: found for node in nodes if (found := times_input(form, node))}
        for raw, scale in given.values():
            called = self.name(raw, component(raw))
            if token.name(scale) is None:
                self.names[scale] = f"{called}_scale"
            rows = self.inputs.stored(raw, f"{called}_rows")
            self.raw[raw] = Vector(called, rows, build.turned(rows, f"{called}_columns"))
            token.known[raw] = build.cast(rows, "float", called)
        self._own_products([*form.roots, *nodes, *(scale for _, scale in given.values())])
        for node in nodes:
            if node in given:
                raw, scale = given[node]
                number = None if scale.is_number(1.0) else self.each(token.value(scale))
                near = self.raw[raw]
                called = self.name(node, near.called)
                self.vectors[node] = Vector(called, near.rows, near.columns, number)
            else:
                rows = self.each(token.clean(node), "SK")
                called = self.name(node, "vector")
                far = build.turned(rows, f"{called}_columns")
                self.vectors[node] = Vector(called, rows, far)

    def _own_products(self, roots: list[Node]) -> None:
        """What a token's own vectors give with each other, of the products of all tokens' vectors:
        a key is then as long as its products with keys like it say, however those are rounded, and
        what stays of a write that it erases does not add up."""
        build, token = self.build, self.token
        for node in reachable(roots):
            if not reduces(node) or node.args[0].op != "mul":
                continue
            if any(input_of(side) not in self.raw for side in node.args[0].args):
                continue
            sides = [times_input(self.form, side) for side in node.args[0].args]
            (first, scale), (second, other) = (side or (node, node) for side in sides)
            if any(key is second for key, _ in self._given_keys()):
                first, second = second, first
            scores = self._product(self.raw[first], self.raw[second])
            numbers = [token.value(each) for each in (scale, other) if not each.is_number(1.0)]
            axes, name = self.numbers, token.name(node)
            own = build.helper(self.diagonal, scores, axes=axes, name=None if numbers else name)
            token.known[node] = build.times(build.along(own, "T"), *numbers, name=name)

    def _given_keys(self) -> Iterator[tuple[Node, Node]]:
        """The inputs that keys are, each with its number."""
        for key in self.form.keys:
            found = times_input(self.form, key)
            if found is not None:
                yield found

    def _product(self, near: Vector, far: Vector) -> Value:
        """Every token's row with every token's column."""
        name = f"{near.called}_by_{far.called}"
        return self.build.dot(near.rows, far.columns, EXACT, name=name)

    def find_decays(self) -> None:
        """What a head has decayed along a token's path."""
        build, decay = self.build, self.form.decay("")
        if decay is not None:
            log = build.along(self.each(self.token.value(decay.log)), "S")
            above = build.sum(build.where(self.ancestors, log, 0.0), "S")
            self.path = build.function(EXP, above, name="path")
            between = build.helper(self.between, self.ancestors, log, axes="ST")
            self.weights = build.function(EXP, between, name="weights")

    def lead(self, column: Node) -> Value | None:
        """What a column's read of the state as it was is still to be times."""
        vector = self.vectors[column]
        return self.times(vector.number, self.path, name=f"{vector.called}_lead")

    def score(self, column: Node, index: int) -> Value:
        """A column with the key of a write of every token before it."""
        build, vector, near = self.build, self.vectors[column], self.vectors[self.form.keys[index]]
        number = near.number and build.along(near.number, "S")
        score = build.times(self._product(near, vector), number, vector.number, self.weights)
        name = f"{vector.called}_scores"
        self.scores[column, index] = build.where(self.ancestors, score, 0.0, name)
        return self.scores[column, index]

    def solve(self) -> None:
        """What follows for each token from what all that it reads write of themselves."""
        build = self.build
        self.inverse, self.mixed = None, {}
        if self.unknown is None:
            return
        terms = [
            build.times(self.token.value(factor), self.scores[read.args[0], self.unknown])
            for read, factor in self.factors.items()
        ]
        total = terms[0]
        for term in terms[1:]:
            total = build.add(total, term)
        lower = build.where(self.ancestors, total, 0.0, "corrected")
        note = "what a row's token writes of itself, in what a column's writes"
        self.inverse = build.helper(
            self.inverse_of, lower, self.lanes.token, name="inverse", note=note
        )
        for column in self.form.columns:
            name = f"{self.vectors[column].called}_mixed"
            scores = self.scores[column, self.unknown]
            self.mixed[column] = build.dot(self.inverse, scores, self.square, name=name)

    def name(self, node: Node, otherwise: str) -> str:
        return self.names.get(node, otherwise)

    def each(self, value: Value, axes: str = "T") -> Value:
        """For every token, also of what is the same for all."""
        if value.axes == axes:
            return value
        return self.build.where(self.build.along(self.lanes.real_token, axes[0]), value, 0.0)

    def times(self, *factors: Value | None, name: str | None = None) -> Value | None:
        there = [factor for factor in factors if factor is not None]
        return self.build.times(*there, name=name) if there else None
