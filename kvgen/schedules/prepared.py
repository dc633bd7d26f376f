"""What one kernel of a prompt's blocks leaves for the other, and where it lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node
from kvgen.codegen.operands import times_input
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import Value
from kvgen.kernels.sweep import BLOCK, flight
from kvgen.schedules.loads import Lanes


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
    which they are the sum. span: of a vector's keys."""

    form: Form
    span: int
    parts: int
    vector_parts: int
    numbers: list[Item] = field(default_factory=list)
    matrices: list[Item] = field(default_factory=list)
    vectors: list[Item] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, int]:
        """What the host is to know of it, as `kvgen.runtime.blocks.Blocks` calls that."""
        form, by_channel = self.form, self.form.decay("K") is not None
        matrices = self.parts * len(self.matrices)
        vectors = self.vector_parts * len(self.vectors)
        halves = BLOCK * (BLOCK * matrices + self.span * vectors)
        if not by_channel:
            # beside what is prepared a turn loads inputs
            given = [times_input(form, x) for x in (*form.columns, *form.keys)]
            vectors += len({each[0] for each in given if each})
        return {
            "tokens": BLOCK,
            "numbers": BLOCK * len(self.numbers),
            "halves": halves,
            # products of a block have as many rows as four warps take; vectors that are scaled
            # channel by channel are more than these hold
            "warps": 8 if by_channel else 4,
            # beside a solve there are no registers to keep what heads have in common
            "heads": 1 if form.writes_read else form.spec.ratio,
            **flight(form, self.span * vectors, matrices)._asdict(),
        }


class Places:
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
