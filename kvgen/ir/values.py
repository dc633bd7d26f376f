"""A kernel before it is text: values with axes, types and names, and the statements they stand in.

A value's elements lie along its axes, in the order that its kernel has them in: V, a tile of value
channels; P, places of the buffer; S, the tokens of a window as those that write; K, key channels;
T, the same tokens as those that read; C, vectors side by side; R, several vectors' tokens, row upon
row; Q, places that places are compared with; G, value heads of a group side by side; L, key
channels of a few rows of the state; F, key channels with one number each where K has two. A product
contracts the last axis of its first factor with the first of its second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from kvgen.functions.function import Function

# the tokens of a window as columns or as rows, a token alone, one on pages, and heads of tokens
# that nothing holds together
WINDOWS, ROWS, TOKEN, PAGES, ITEMS = "VPSKT", "RTSPQKV", "PKVC", "GPLKV", "TKV"
# a token alone, with a state of which each value channel's keys are a row
TURNED = "PVKFC"
# the same tokens, as those that write and as those that read
TOKENS = ("S", "T")

Type = Literal["float", "int", "long", "bool", "stored", "pointer"]

# elementwise operators, of which comparisons give conditions
ARITHMETIC = ("add", "sub", "mul", "div", "floordiv", "mod", "and", "shr")
COMPARISONS = ("lt", "gt", "eq")
Op = Literal[
    "given", "number", "range", "load", "neg", "add", "sub", "mul", "div", "floordiv", "mod", "and",
    "shr", "lt", "gt", "eq", "every", "where", "cast", "function", "total", "scan", "dot", "turned",
    "along", "column", "helper", "part", "either", "variable",
]  # fmt: skip


@dataclass(frozen=True)
class Helper:
    """A function of the module. constants: what it takes last. elementwise: of its arguments."""

    name: str
    constants: tuple[str, ...] = ()
    elementwise: bool = False


@dataclass(frozen=True)
class Sum:
    """Along an axis, or from its end or its beginning to every place of it."""

    axis: str
    from_end: bool = True


@dataclass(frozen=True)
class Part:
    """One of several that a function gives at once."""

    number: int
    count: int


Detail = float | int | str | Helper | Function | Sum | Part | None


class Wish(str):
    """What a value is called if it gets a line for another reason than its name."""


@dataclass(frozen=True, eq=False)
class Value:
    """What a kernel computes once for every place along its axes.

    op, args: how. `given`: what stands before the kernel's own lines, by its name. `number`: a
    constant. `range`: 0, 1, … along its axis. `load`: of a pointer, an offset and, if it has one, a
    mask, beyond which it is 0. `every`: whether all conditions hold. `where`: as in torch. `cast`:
    to its type. `function`: one of the language. `total`, `scan`: along an axis, over all of it and
    from each place to an end. `dot`: of two factors and, if it has one, a summand. `turned`: its
    axes the other way round. `along`: the tokens that read as those that write, or vice versa.
    `column`: a vector as one of several. `helper`: of a function of the module. `part`: one that a
    helper gives. `either`: of two that are there if a constant, its detail, is not 0, and if it is.
    `variable`: what a value begins as that moves.

    type: `stored` is as it lies in memory. name: of its line. note: what a reader should know.
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
    """A value at a pointer and an offset. guard: where it is stored, None for everywhere."""

    pointer: Value
    offset: Value
    value: Value
    guard: Value | None
    note: str | None = None


@dataclass(frozen=True)
class Move:
    """A variable, or what stands before the kernel's own lines, is another value from here on."""

    given: Value
    value: Value
    note: str | None = None


@dataclass(frozen=True)
class Do:
    """What has an effect and no value: a function that is called."""

    called: str


@dataclass(frozen=True)
class When:
    """Statements that are there if a constant of the kernel is above a number, or if it is not."""

    constant: str
    body: Block
    holds: bool = True
    note: str | None = None
    above: int = 0


@dataclass(frozen=True)
class Loop:
    """Statements once for every number below a count, or of a range. stages: how many turns are in
    flight."""

    index: Value
    count: str | Value
    stages: str | None
    body: Block
    note: str | None = None


Statement = Let | Store | Move | Do | When | Loop


@dataclass(frozen=True)
class Block:
    """Statements in order."""

    statements: tuple[Statement, ...] = ()

    def __iter__(self) -> Iterator[Statement]:
        return iter(self.statements)


@dataclass(frozen=True)
class Kernel:
    """A kernel's own lines. given: what stands before them, by name. axes: in their order. parted:
    those of which an element has two numbers, as tensors of the kernel have two dimensions there.
    """

    given: dict[str, Value] = field(default_factory=dict)
    body: Block = Block()
    axes: str = WINDOWS
    parted: str = ""


def used(statement: Statement) -> tuple[Value, ...]:
    """The values that a statement itself looks at."""
    match statement:
        case Let(value):
            return value.args
        case Store(pointer, offset, value, guard):
            return (pointer, offset, value, *(() if guard is None else (guard,)))
        case Move(given, value):
            return (given, value)
        case Loop(_, Value() as count):
            return (count,)
        case Loop() | When() | Do():
            return ()


def inner(statement: Statement) -> Block | None:
    """The statements within a statement."""
    return statement.body if isinstance(statement, Loop | When) else None


def everywhere(block: Block) -> Iterator[Statement]:
    """All statements, those within others after them."""
    for statement in block.statements:
        yield statement
        if (body := inner(statement)) is not None:
            yield from everywhere(body)
