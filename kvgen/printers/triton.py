"""Kernels as Triton: a line for what has a name or is used again, all else within its user's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

from kvgen.functions.function import Function
from kvgen.ir.values import (
    Block,
    Do,
    Helper,
    Kernel,
    Let,
    Loop,
    Statement,
    Store,
    Sum,
    Value,
    When,
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
    "mod": ("%", PRODUCT), "lt": ("<", COMPARISON), "eq": ("==", COMPARISON),
}  # fmt: skip
# what is worth a line wherever it is used
LINES = ("dot", "scan")
# what costs nothing wherever it is used
FREE = ("given", "number", "along", "cast")
Written = tuple[str, int]


def printed(
    kernel: Kernel, extents: Mapping[str, str], new: Callable[[str], str], indent: int = 4
) -> list[str]:
    """The kernel's lines. extents: how long each axis is. new: a free name for a wanted one."""
    return _Printer(kernel, extents, new).lines(kernel.body, " " * indent)


class _Printer:
    def __init__(
        self, kernel: Kernel, extents: Mapping[str, str], new: Callable[[str], str]
    ) -> None:
        self.extents, self.new = extents, new
        self.uses = Counter(
            value for statement in everywhere(kernel.body) for value in used(statement)
        )
        self.carried = _carried(kernel.body)
        self.written: dict[Value, Written] = {}
        # those that stand for the same, by what they are together
        self.sides = {
            arg: each.value
            for each in everywhere(kernel.body)
            if isinstance(each, Let) and each.value.op == "either"
            for arg in each.value.args
        }

    def lines(self, block: Block, pad: str) -> list[str]:
        found: list[str] = []
        for statement in block:
            note = statement.value.note if isinstance(statement, Let) else None
            note = statement.note if isinstance(statement, Store) else note
            lines = self.statement(statement, pad)
            found += [f"{pad}# {note}", *lines] if note and lines else lines
        return found

    def statement(self, statement: Statement, pad: str) -> list[str]:
        deeper = pad + "    "
        match statement:
            case Let(value):
                line = self.let(value)
                return [pad + line] if line else []
            case Store(pointer, offset, value, guard):
                at = f"{self.inside(pointer, SUM)} + {self.inside(offset, SUM)}"
                mask = self.along(guard, offset.axes, ATOM if guard.op != "every" else AND)
                value = self.along(value, offset.axes, AND)
                return [f"{pad}tl.store({at}, {value}, mask={mask})"]
            case Do(called):
                return [f"{pad}{called}()"]
            case When(constant, body, holds):
                header = f"{pad}if {constant}:" if holds else f"{pad}if not {constant}:"
                return [header, *self.lines(body, deeper)]
            case Loop(index, count, stages, body):
                turns = f"tl.range({count}, num_stages={stages})"
                return [f"{pad}for {index.detail} in {turns}:", *self.lines(body, deeper)]

    def let(self, value: Value) -> str | None:
        """The value's line, if it has one."""
        if value.op == "either":
            return None
        text, binds = self.text(value)
        both = self.sides.get(value)
        if both is not None:
            if both not in self.written:
                self.written[both] = self.new(value.name or "term"), ATOM
            return f"{self.written[both][0]} = {text}"
        plain = value.type in ("int", "long", "bool", "pointer")
        free = value.op in FREE or plain
        again = self.uses[value] > 1 or value in self.carried
        long = len(text) > LINE and not plain and value.op != "load"
        if value.name or value.op in LINES or (again and not free) or long:
            name = self.new(value.name or "term")
            self.written[value] = name, ATOM
            return f"{name} = {text}"
        self.written[value] = text, binds
        return None

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
        places = ", ".join(":" if axis in value.axes else "None" for axis in axes)
        return f"{self.inside(value, ATOM)}[{places}]"

    def text(self, value: Value) -> Written:
        args, axes, detail = value.args, value.axes, value.detail
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
                right = level if op in ("add", "mul") and value.type != "float" else level + 1
                first, second = self.along(args[0], axes, level), self.along(args[1], axes, right)
                return f"{first} {sign} {second}", level
            case "every":
                return self.every(value, axes)
            case "where":
                chosen, *sides = (self.along(arg, axes, AND) for arg in args)
                return f"tl.where({', '.join([chosen, *sides])})", ATOM
            case "cast":
                return f"{self.inside(args[0], ATOM)}.to({TYPES[value.type]})", ATOM
            case "function":
                assert isinstance(detail, Function)
                return detail.triton.format(*(self.along(arg, axes, AND) for arg in args)), ATOM
            case "load":
                return self.load(value), ATOM
            case "total" | "scan":
                assert isinstance(detail, Sum)
                place = args[0].axes.index(detail.axis)
                inner = self.inside(args[0], AND)
                if value.op == "total":
                    return f"tl.sum({inner}, {place})", ATOM
                end = ", reverse=True" if detail.from_end else ""
                return f"tl.cumsum({inner}, {place}{end})", ATOM
            case "turned":
                return f"tl.trans({self.inside(args[0], AND)})", ATOM
            case "along":
                return self.of(args[0])
            case _:
                return self.called(value), ATOM

    def every(self, value: Value, axes: str) -> Written:
        """Conditions of a whole program, then those of its elements. Triton's interpreter takes a
        comparison of scalars for a number, which is no mask: True makes it one."""
        program = [arg for arg in value.args if not arg.axes]
        texts = ["True"] if program and axes else []
        texts += [self.along(arg, axes, COMPARISON + 1) for arg in value.args]
        return " & ".join(texts), ATOM if len(texts) == 1 else AND

    def load(self, value: Value) -> str:
        pointer, offset, *masks = value.args
        at = f"{self.inside(pointer, SUM)} + {self.inside(offset, SUM)}"
        if offset.op == "number" and offset.detail == 0:
            at = self.inside(pointer, SUM)
        for mask in masks:
            return f"tl.load({at}, mask={self.along(mask, offset.axes, AND)}, other=0.0)"
        return f"tl.load({at})"

    def called(self, value: Value) -> str:
        helper = value.detail
        assert isinstance(helper, Helper)
        axes = [value.axes if helper.elementwise else arg.axes for arg in value.args]
        args = [self.along(arg, each, AND) for arg, each in zip(value.args, axes, strict=True)]
        return f"{helper.name}({', '.join([*args, *helper.constants])})"


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
