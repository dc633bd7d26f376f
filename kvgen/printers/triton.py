"""Kernels as Triton: a line for what has a name or is used again, all else within its user's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from kvgen.functions.function import Function
from kvgen.ir.values import (
    PAGES,
    ROWS,
    Block,
    Do,
    Helper,
    Kernel,
    Let,
    Loop,
    Move,
    Part,
    Statement,
    Store,
    Sum,
    Value,
    When,
    Wish,
    everywhere,
    inner,
    used,
)

TYPES = {"float": "tl.float32", "int": "tl.int32", "long": "tl.int64"}
# a value whose text is longer gets a line of its own
LINE = 88
ATOM, UNARY, PRODUCT, SUM, COMPARISON, AND = 6, 5, 4, 3, 2, 1
OPERATORS = {
    "add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT),
    "floordiv": ("//", PRODUCT), "mod": ("%", PRODUCT), "shr": (">>", COMPARISON),
    "and": ("&", AND), "lt": ("<", COMPARISON), "gt": (">", COMPARISON),
    "eq": ("==", COMPARISON),
}  # fmt: skip
# what is worth a line wherever it is used
LINES = ("dot", "scan")
# what costs nothing wherever it is used
FREE = ("given", "number", "along", "cast")
Written = tuple[str, int]


def _gains(given: Value, value: Value) -> bool:
    return value.op in ("add", "mul") and value.args[0] is given


def printed(
    kernel: Kernel, extents: Mapping[str, str], new: Callable[[str], str], indent: int = 4
) -> list[str]:
    """The kernel's lines. extents: how long each axis is. new: a free name for a wanted one."""
    return _Printer(kernel, extents, new).lines(kernel.body, " " * indent)


class _Printer:
    def __init__(
        self, kernel: Kernel, extents: Mapping[str, str], new: Callable[[str], str]
    ) -> None:
        self.extents, self.new, self.order = extents, new, kernel.axes
        self.parted = kernel.parted
        self.uses = Counter(
            value for statement in everywhere(kernel.body) for value in used(statement)
        )
        self.carried = _carried(kernel.body)
        # what a value is with something more, which takes its place
        self.gained = {
            each.value
            for each in everywhere(kernel.body)
            if isinstance(each, Move) and _gains(each.given, each.value)
        }
        self.written: dict[Value, Written] = {}
        self.named: set[Value] = set()
        # those that stand for the same, by what they are together
        self.sides = {
            arg: each.value
            for each in everywhere(kernel.body)
            if isinstance(each, Let) and each.value.op == "either"
            for arg in each.value.args
        }
        # what a function gives at once, by the whole of it
        self.parts: dict[Value, list[Value | None]] = {}
        for each in everywhere(kernel.body):
            part = each.value.detail if isinstance(each, Let) else None
            if isinstance(each, Let) and isinstance(part, Part):
                parts = self.parts.setdefault(each.value.args[0], [None] * part.count)
                parts[part.number] = each.value

    def lines(self, block: Block, pad: str) -> list[str]:
        found: list[str] = []
        before: Statement | None = None
        # whether that stands behind `else`, after which there is no second one
        otherwise = False
        for statement in block:
            note = statement.value.note if isinstance(statement, Let) else None
            note = statement.note if isinstance(statement, Store | Move | When | Loop) else note
            lines = self.statement(statement, pad)
            if not lines:
                continue
            goes_on = _goes_on(statement, before)
            otherwise = goes_on if otherwise else _is_other(statement, before)
            if goes_on:
                lines = lines[1:]
            elif otherwise:
                lines[0] = f"{pad}else:"
            found += [f"{pad}# {note}", *lines] if note else lines
            before = statement
        return found

    def statement(self, statement: Statement, pad: str) -> list[str]:
        deeper = pad + "    "
        match statement:
            case Let(value):
                line = self.let(value)
                return [pad + line] if line else []
            case Store(pointer, offset, value, guard):
                axes = self.places(pointer, offset)
                args = [self.at(pointer, offset), self.along(value, axes, AND)]
                args += [f"mask={self.along(guard, axes, AND)}"] if guard else []
                return [f"{pad}tl.store({', '.join(args)})"]
            case Do(called):
                return [f"{pad}{called}()"]
            case When(constant, body, holds, _, above):
                condition = f"{constant} > {above}" if above else constant
                header = f"{pad}if {condition}:" if holds else f"{pad}if not {condition}:"
                within = self.lines(body, deeper)
                return [header, *within] if within else []
            case Move(given, value):
                name, (text, binds) = self.of(given)[0], self.of(value)
                if _gains(given, value) and binds < ATOM:
                    sign, other = OPERATORS[value.op][0], value.args[1]
                    return [f"{pad}{name} {sign}= {self.along(other, value.axes, AND)}"]
                return [f"{pad}{name} = {text}"]
            case Loop(index, count, stages, body):
                count = self.of(count)[0] if isinstance(count, Value) else count
                turns = f"tl.range({count}, num_stages={stages})" if stages else f"range({count})"
                return [f"{pad}for {index.detail} in {turns}:", *self.lines(body, deeper)]

    def let(self, value: Value) -> str | None:
        """The value's line, if it has one."""
        if value.op == "either" or value in self.named or value in self.parts:
            return None
        if isinstance(value.detail, Part):
            return self.apart(value.args[0])
        text, binds = self.text(value)
        if value in self.sides:
            return f"{self.called(value)} = {text}"
        plain = value.type in ("int", "long", "bool", "pointer")
        free = value.op in FREE or plain
        again = self.uses[value] > 1 or value in self.carried
        long = len(text) > LINE and not plain and value.op != "load" and value not in self.gained
        named = value.name and not isinstance(value.name, Wish)
        alone = value.op in LINES and not isinstance(value.name, Wish)
        if named or alone or (again and not free) or long:
            return f"{self.called(value)} = {text}"
        self.written[value] = text, binds
        return None

    def called(self, value: Value) -> str:
        """The value's name from here on: of two that stand for the same it is one."""
        both = self.sides.get(value, value)
        self.named.add(value)
        if both not in self.written:
            self.written[both] = self.new(value.name or "term"), ATOM
        return self.written[both][0]

    def apart(self, whole: Value) -> str:
        """The line of all that a function gives at once."""
        names: list[str] = []
        for part in self.parts[whole]:
            names.append(self.called(part) if part else "_")
        several = ", ".join(names)
        # brackets let a line be broken there
        several = f"({several})" if len(several) > LINE else several
        return f"{several} = {self.text(whole)[0]}"

    # -- values

    def of(self, value: Value) -> Written:
        return self.written[value] if value in self.written else self.text(value)

    def inside(self, value: Value, level: int) -> str:
        text, binds = self.of(value)
        return text if binds >= level else f"({text})"

    def along(self, value: Value, axes: str, level: int) -> str:
        """The value among others of more axes."""
        if value.op == "every" and not value.name:
            text, binds = self.every(value, axes)
            return text if binds >= level else f"({text})"
        if not value.axes or value.axes == axes:
            return self.inside(value, level)
        if self.spreads(value):
            text, binds = self.text(value, axes)
            return text if binds >= level else f"({text})"
        places = ", ".join(":" if axis in value.axes else "None" for axis in self.dimensions(axes))
        return f"{self.inside(value, ATOM)}[{places}]"

    def dimensions(self, axes: str) -> str:
        """The axis that each dimension is of."""
        return "".join(axis * 2 if axis in self.parted else axis for axis in axes)

    def spreads(self, value: Value) -> bool:
        """Whether what the value is made of gets its axes: numbers of places, times how far apart
        these are, and what is there or is not as a whole."""
        if value in self.named:
            return False
        whole = value.op == "where" and not value.args[0].axes
        ops = ("mul", "add") if self.order in (ROWS, PAGES) else ("mul",)
        types = ("int", "long") if self.order == ROWS else ("int",)
        return whole or (value.op in ops and value.type in types)

    def text(self, value: Value, among: str | None = None) -> Written:
        """among: the axes of what it stands among."""
        args, axes, detail = value.args, among or value.axes, value.detail
        match value.op:
            case "given":
                return str(detail), ATOM
            case "number":
                assert isinstance(detail, float | int)
                return _number(detail)
            case "range":
                return f"tl.arange(0, {self.extents[axes]})", ATOM
            case "neg":
                return f"-{self.along(args[0], axes, UNARY)}", UNARY
            case op if op in OPERATORS:
                sign, level = OPERATORS[op]
                chain = op == "add" and value.type != "float" and args[1].op == op
                right = level if chain else level + 1
                first, second = self.along(args[0], axes, level), self.along(args[1], axes, right)
                return f"{first} {sign} {second}", level
            case "every":
                return self.every(value, axes)
            case "where":
                chosen, *sides = (self.along(arg, axes, AND) for arg in args)
                return f"tl.where({', '.join([chosen, *sides])})", ATOM
            case "variable":
                return self.of(args[0])
            case "cast":
                kind, inner = TYPES[value.type], self.inside(args[0], ATOM)
                if args[0].op == "number":
                    return f"tl.cast({inner}, {kind})", ATOM
                return f"{inner}.to({kind})", ATOM
            case "function":
                assert isinstance(detail, Function)
                return detail.triton.format(*(self.along(arg, axes, AND) for arg in args)), ATOM
            case "load":
                return self.load(value), ATOM
            case "total" | "scan":
                assert isinstance(detail, Sum)
                place = self.dimensions(args[0].axes).index(detail.axis)
                inner = self.inside(args[0], AND)
                if value.op == "total":
                    if detail.axis in self.parted:
                        inner = f"tl.sum({inner}, {place + 1})"
                    return f"tl.sum({inner}, {place})", ATOM
                end = ", reverse=True" if detail.from_end else ""
                return f"tl.cumsum({inner}, {place}{end})", ATOM
            case "turned":
                return f"tl.trans({self.inside(args[0], AND)})", ATOM
            case "along":
                return self.of(args[0])
            case "column":
                return self.along(args[0], axes, ATOM), ATOM
            case _:
                return self.call(value), ATOM

    def every(self, value: Value, axes: str) -> Written:
        """Conditions of a whole program, then those of its elements. Triton's interpreter takes a
        comparison of scalars for a number, which is no mask: True makes it one."""
        program, args = [arg for arg in value.args if not arg.axes], list(value.args)
        texts = ["True"] if program and axes else []
        if self.order == ROWS and program and len(axes) == 2:
            # a program's conditions with those of its rows, of which there are fewer
            rows = [arg for arg in args if arg.axes in axes[0]]
            texts += [self.along(arg, axes[0], COMPARISON + 1) for arg in rows]
            texts = [f"({' & '.join(texts)})[:, None]"]
            args = [arg for arg in args if arg not in rows]
        texts += [self.along(arg, axes, COMPARISON + 1) for arg in args]
        return " & ".join(texts), ATOM if len(texts) == 1 else AND

    def load(self, value: Value) -> str:
        pointer, offset, *masks = value.args
        at, zero = self.at(pointer, offset), "0" if value.type == "int" else "0.0"
        for mask in masks:
            return f"tl.load({at}, mask={self.along(mask, value.axes, AND)}, other={zero})"
        return f"tl.load({at})"

    def at(self, pointer: Value, offset: Value) -> str:
        if offset.op == "number" and offset.detail == 0:
            return self.inside(pointer, SUM)
        axes = self.places(pointer, offset)
        return f"{self.along(pointer, axes, SUM)} + {self.along(offset, axes, SUM)}"

    def places(self, pointer: Value, offset: Value) -> str:
        """The axes of what lies there."""
        return "".join(axis for axis in self.order if axis in pointer.axes + offset.axes)

    def call(self, value: Value) -> str:
        helper = value.detail
        assert isinstance(helper, Helper)
        axes = [value.axes if helper.elementwise else arg.axes for arg in value.args]
        args = [self.along(arg, each, AND) for arg, each in zip(value.args, axes, strict=True)]
        return f"{helper.name}({', '.join([*args, *helper.constants])})"


def _goes_on(statement: Statement, before: Statement | None) -> bool:
    """Whether a condition that says no more is that of what stands before it."""
    return (
        isinstance(statement, When)
        and isinstance(before, When)
        and replace(statement, body=before.body, note=before.note) == before
        and not statement.note
    )


def _is_other(statement: Statement, before: Statement | None) -> bool:
    """Whether a statement is there just where the one before it is not."""
    return (
        isinstance(statement, When)
        and isinstance(before, When)
        and (before.constant, before.above) == (statement.constant, statement.above)
        and before.holds != statement.holds
    )


def _carried(block: Block) -> set[Value]:
    """Values that a loop looks at and that stand in front of it."""
    found: set[Value] = set()
    for statement in block:
        body = inner(statement)
        if body is None:
            continue
        within = list(everywhere(body))
        own = {each.value for each in within if isinstance(each, Let)}
        found |= {value for each in within for value in used(each) if value not in own}
        found |= _carried(body)
    return found


def _number(value: float) -> Written:
    if isinstance(value, int):
        return str(value), ATOM if value >= 0 else UNARY
    if math.isinf(value):
        return ('float("inf")', ATOM) if value > 0 else ('-float("inf")', UNARY)
    return repr(value), ATOM if value >= 0 else UNARY
