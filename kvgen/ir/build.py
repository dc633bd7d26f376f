"""Kernels built line by line: a value that is there already is not made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

from kvgen.functions.function import Function
from kvgen.ir.values import (
    COMPARISONS,
    TOKENS,
    WINDOWS,
    Block,
    Detail,
    Do,
    Helper,
    Kernel,
    Let,
    Loop,
    Move,
    Op,
    Part,
    Statement,
    Store,
    Sum,
    Type,
    Value,
    When,
    Wish,
)


class Builder:
    """Appends to a kernel. order: of its axes. parted: those with two dimensions."""

    def __init__(self, order: str = WINDOWS, parted: str = "") -> None:
        self.order, self.parted = order, parted
        self.leaves: dict[str, Value] = {}
        self.numbers: dict[tuple[Type, float], Value] = {}
        # blocks that are open, each with the values that stand in it
        self.open: list[tuple[list[Statement], dict[object, Value]]] = [([], {})]

    def kernel(self) -> Kernel:
        ((statements, _),) = self.open
        return Kernel(self.leaves, Block(tuple(statements)), self.order, self.parted)

    def together(self, values: Sequence[Value]) -> str:
        """The axes of what is made of values element by element."""
        return _together(self.order, tuple([each.axes for each in values]))

    # -- leaves

    def given(self, name: str, axes: str = "", type: Type = "int") -> Value:
        """What stands before the kernel's own lines."""
        if name not in self.leaves:
            self.leaves[name] = Value("given", (), axes, type, name)
        return self.leaves[name]

    def number(self, value: float) -> Value:
        # one for all blocks, for it stands in none of them
        kind: Type = "int" if isinstance(value, int) else "float"
        key = (kind, value)
        return self.numbers.setdefault(key, Value("number", (), "", kind, value))

    # -- values

    def let(
        self,
        op: Op,
        args: tuple[Value, ...],
        axes: str,
        type: Type,
        detail: Detail = None,
        name: str | None = None,
        note: str | None = None,
    ) -> Value:
        key = (op, args, axes, type, detail)
        for _, known in reversed(self.open):
            if key in known:
                return known[key]
        value = Value(op, args, axes, type, detail, name, note)
        statements, known = self.open[-1]
        known[key] = value
        if not value.is_leaf:
            statements.append(Let(value))
        return value

    def binary(self, op: Op, x: Value, y: Value, name: str | None = None) -> Value:
        types = (x.type, y.type)
        type: Type = next(t for t in ("pointer", "float", "long", "int", "bool") if t in types)
        if op in COMPARISONS:
            type = "bool"
        return self.let(op, (x, y), self.together((x, y)), type, None, name)

    def add(self, x: Value, y: Value, name: str | None = None) -> Value:
        return self.binary("add", x, y, name)

    def mul(self, x: Value, y: Value, name: str | None = None) -> Value:
        return self.binary("mul", x, y, name)

    def times(self, *factors: Value | None, name: str | None = None) -> Value:
        """The product of those that are there."""
        (found, *more) = [factor for factor in factors if factor is not None]
        for place, factor in enumerate(more, 1):
            found = self.mul(found, factor, name if place == len(more) else None)
        return found

    def total(self, terms: Sequence[Value]) -> Value:
        """The sum of all, 0 of none."""
        found = terms[0] if terms else self.number(0)
        for term in terms[1:]:
            found = self.add(found, term)
        return found

    def where(self, chosen: Value, x: Value, y: Value | float, name: str | None = None) -> Value:
        other = y if isinstance(y, Value) else self.number(y)
        args = (chosen, x, other)
        kind = other.type if x.op == "number" else x.type
        return self.let("where", args, self.together(args), kind, None, name)

    def every(self, *conditions: Value, name: str | None = None) -> Value:
        """Those of a whole program come first."""
        args = tuple(sorted(conditions, key=lambda each: bool(each.axes)))
        return self.let("every", args, self.together(args), "bool", None, name)

    def cast(self, x: Value, type: Type, name: str | None = None) -> Value:
        return x if x.type == type else self.let("cast", (x,), x.axes, type, None, name)

    def function(self, function: Function, *args: Value, name: str | None = None) -> Value:
        return self.let("function", args, self.together(args), "float", function, name)

    def load(
        self,
        pointer: Value,
        offset: Value,
        mask: Value | None,
        name: str | None = None,
        note: str | None = None,
        type: Type = "stored",
    ) -> Value:
        args = (pointer, offset) if mask is None else (pointer, offset, mask)
        axes = self.together((pointer, offset))
        return self.let("load", args, axes, type, None, name, note)

    def sum(self, x: Value, axis: str, name: str | None = None) -> Value:
        left = "".join(each for each in x.axes if each != axis)
        return self.let("total", (x,), left, x.type, Sum(axis), name)

    def scan(
        self, x: Value, axis: str, name: str | None, note: str | None, from_end: bool = True
    ) -> Value:
        return self.let("scan", (x,), x.axes, x.type, Sum(axis, from_end), name, note)

    def dot(
        self,
        x: Value,
        y: Value,
        helper: Helper,
        onto: Value | None = None,
        name: str | None = None,
        note: str | None = None,
    ) -> Value:
        args = (x, y) if onto is None else (x, y, onto)
        return self.let("dot", args, x.axes[0] + y.axes[1], "float", helper, name, note)

    def turned(self, x: Value, name: str | None = None) -> Value:
        """Tokens that write, by keys, as keys by tokens that read."""
        axes = "".join(other(axis) for axis in reversed(x.axes))
        return self.let("turned", (x,), axes, x.type, None, name)

    def along(self, x: Value, tokens: str) -> Value:
        """With its tokens as those that read, T, or that write, S."""
        axes = "".join(tokens if axis in TOKENS else axis for axis in x.axes)
        return x if axes == x.axes else self.let("along", (x,), axes, x.type)

    def helper(
        self,
        helper: Helper,
        *args: Value,
        axes: str | None = None,
        type: Type = "float",
        name: str | None = None,
        note: str | None = None,
    ) -> Value:
        whole = self.together(args) if axes is None else axes
        return self.let("helper", args, whole, type, helper, name, note)

    def parts(
        self,
        whole: Value,
        axes: str | Sequence[str],
        names: Sequence[str | None],
        types: Sequence[Type] | None = None,
    ) -> list[Value]:
        """What a helper gives at once, one by one; None: what nothing looks at. axes: of all, or of
        each. types: of each, where they differ."""
        count = len(names)
        several = [axes] * count if isinstance(axes, str) else axes
        kinds = types or [whole.type for _ in names]
        return [
            self.let("part", (whole,), each, kind, Part(number, count), name)
            for number, (each, kind, name) in enumerate(zip(several, kinds, names, strict=True))
        ]

    def zeros(self, axes: str, extents: Sequence[str]) -> Value:
        """A tile of its own, to stand within what looks at it."""
        helper = Helper("tl.zeros", (f"[{', '.join(extents)}]", "tl.float32"))
        return self.again(self.helper(helper, axes=axes, name=Wish("zeros")))

    def variable(self, value: Value, name: str) -> Value:
        """What begins as a value, and moves."""
        started = Value("variable", (value,), value.axes, value.type, None, name)
        self.open[-1][0].append(Let(started))
        return started

    def again(self, value: Value) -> Value:
        """The same once more, with what stands within it, to stand within what looks at it."""
        copies: dict[Value, Value] = {}
        left = [value]
        while left:
            each = left[-1]
            waiting = [arg for arg in each.args if _within(each) and arg not in copies]
            if waiting:
                left += waiting
                continue
            left.pop()
            if each in copies:
                continue
            copies[each] = each
            if _within(each):
                copies[each] = replace(each, args=tuple(copies[arg] for arg in each.args))
                self.open[-1][0].append(Let(copies[each]))
        return copies[value]

    def either(self, constant: str, first: Value, second: Value) -> Value:
        """The first, if it is there, which hangs on the constant; else the second."""
        return self.let("either", (first, second), first.axes, first.type, constant)

    # -- statements

    def store(
        self,
        pointer: Value,
        offset: Value,
        value: Value,
        guard: Value | None = None,
        note: str | None = None,
    ) -> None:
        self.open[-1][0].append(Store(pointer, offset, value, guard, note))

    def move(self, given: Value, value: Value, note: str | None = None) -> None:
        """What was computed of the given, or of the variable, before stays as it is."""
        self.open[-1][0].append(Move(given, value, note))

    def do(self, called: str) -> None:
        self.open[-1][0].append(Do(called))

    @contextmanager
    def when(
        self, constant: str, holds: bool = True, note: str | None = None, above: int = 0
    ) -> Iterator[None]:
        self.open.append(([], {}))
        yield
        statements, _ = self.open.pop()
        self.open[-1][0].append(When(constant, Block(tuple(statements)), holds, note, above))

    @contextmanager
    def loop(
        self, index: str, count: str | Value, stages: str | None, note: str | None = None
    ) -> Iterator[Value]:
        turn = Value("given", (), "", "int", index)
        self.open.append(([], {}))
        yield turn
        statements, _ = self.open.pop()
        self.open[-1][0].append(Loop(turn, count, stages, Block(tuple(statements)), note))

    @contextmanager
    def outside(self, depth: int) -> Iterator[None]:
        """What is built stands in the block that so many are open around, as far as that is."""
        inner = self.open[depth:]
        del self.open[depth:]
        yield
        self.open += inner

    @contextmanager
    def section(self) -> Iterator[None]:
        """What is built stands behind all that is put into the block around it meanwhile."""
        self.open.append(([], {}))
        yield
        statements, _ = self.open.pop()
        self.open[-1][0].extend(statements)


# of few axes, asked for each value again
@cache
def _together(order: str, several: tuple[str, ...]) -> str:
    return "".join(axis for axis in order if any(axis in axes for axes in several))


def other(axis: str) -> str:
    """Tokens that write for those that read, and vice versa."""
    return {"S": "T", "T": "S"}.get(axis, axis)


def _within(value: Value) -> bool:
    """Whether it stands within what looks at it, as it has no name."""
    return not (value.is_leaf or (value.name and not isinstance(value.name, Wish)))
