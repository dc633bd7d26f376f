"""A kernel before it is text: values with axes, types and names, and the statements they stand in.

A value's elements lie along its axes, in the order of AXES: V, a tile of value channels; P, places
of the buffer; S, the tokens of a window as those that write; K, key channels; T, the same tokens as
those that read. A product contracts the last axis of its first factor with the first of its second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from kvgen.functions.function import Function

AXES = "VPSKT"
# the same tokens, as those that write and as those that read
TOKENS = ("S", "T")

Type = Literal["float", "int", "long", "bool", "stored", "pointer"]

# elementwise operators of numbers, of which comparisons give conditions
ARITHMETIC = ("add", "sub", "mul", "div", "mod")
COMPARISONS = ("lt", "eq")
Op = Literal[
    "given", "number", "range", "load", "neg", "add", "sub", "mul", "div", "mod", "lt", "eq",
    "every", "where", "cast", "function", "total", "scan", "dot", "turned", "along", "helper",
    "either",
]  # fmt: skip


@dataclass(frozen=True)
class Helper:
    """A function of the module. constants: what it takes after its arguments. elementwise: whether
    its value has the axes of its arguments together."""

    name: str
    constants: tuple[str, ...] = ()
    elementwise: bool = False


@dataclass(frozen=True)
class Sum:
    """Along an axis, or from its end or its beginning to every place of it."""

    axis: str
    from_end: bool = True


# of a value: its number, its name, the function that it is, …
Detail = float | int | str | Helper | Function | Sum | None


@dataclass(frozen=True, eq=False)
class Value:
    """What a kernel computes once for every place along its axes.

    op, args: how. `given`: what stands before the kernel's own lines, by its name. `number`: a
    constant. `range`: 0, 1, … along its axis. `load`: of a pointer, an offset and, if it has one, a
    mask, beyond which it is 0. `every`: whether all conditions hold. `where`: as in torch. `cast`:
    to its type. `function`: one of the language. `total`, `scan`: along an axis, over all of it and
    from each place to an end. `dot`: of two factors and, if it has one, a summand. `turned`: its
    axes the other way round. `along`: the tokens that read as those that write, or vice versa.
    `helper`: of a function of the module. `either`: of two in statements that are there if a
    constant, its detail, is not 0, and if it is.

    type: `stored` is as it lies in memory. name: what it is called where it gets a line. note: what
    a reader of the line should know.
    """

    op: Op
    args: tuple[Value, ...]
    axes: str
    type: Type
    detail: Detail = None
    name: str | None = None
    note: str | None = None

    @property
    def is_leaf(self) -> bool:
        return self.op in ("given", "number")


@dataclass(frozen=True)
class Let:
    """A value, from here on."""

    value: Value


@dataclass(frozen=True)
class Store:
    """A value at a pointer and an offset. guard: where it is stored."""

    pointer: Value
    offset: Value
    value: Value
    guard: Value
    note: str | None = None


@dataclass(frozen=True)
class Do:
    """What has an effect and no value: a function that is called."""

    called: str


@dataclass(frozen=True)
class When:
    """Statements that are there if a constant of the kernel is not 0, or if it is."""

    constant: str
    body: Block
    holds: bool = True


@dataclass(frozen=True)
class Loop:
    """Statements once for every number below a constant. stages: how many turns are in flight."""

    index: Value
    count: str
    stages: str
    body: Block


Statement = Let | Store | Do | When | Loop


@dataclass(frozen=True)
class Block:
    """Statements in order."""

    statements: tuple[Statement, ...] = ()

    def __iter__(self) -> Iterator[Statement]:
        return iter(self.statements)


@dataclass(frozen=True)
class Kernel:
    """A kernel's own lines. given: what stands before them, by name."""

    given: dict[str, Value] = field(default_factory=dict)
    body: Block = Block()


def used(statement: Statement) -> tuple[Value, ...]:
    """The values that a statement itself looks at."""
    match statement:
        case Let(value):
            return value.args
        case Store(pointer, offset, value, guard):
            return (pointer, offset, value, guard)
        case Loop() | When() | Do():
            return ()


def inner(statement: Statement) -> Block | None:
    """The statements within a statement."""
    return statement.body if isinstance(statement, Loop | When) else None


def everywhere(block: Block) -> Iterator[Statement]:
    """All statements, those within others after them."""
    for statement in block:
        yield statement
        body = inner(statement)
        if body is not None:
            yield from everywhere(body)
