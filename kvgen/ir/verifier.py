"""What holds of every kernel, before and after each pass."""

from __future__ import annotations

from functools import cache

from kvgen.ir.values import (
    ARITHMETIC,
    COMPARISONS,
    TOKENS,
    Block,
    Helper,
    Kernel,
    Let,
    Loop,
    Move,
    Part,
    Store,
    Sum,
    Value,
    When,
    everywhere,
    used,
)

ELEMENTWISE = (*ARITHMETIC, *COMPARISONS, "neg", "every", "where", "cast", "function")


# values by the constant that they hang on, whether they are there if it is above a number, and that
Conditional = dict[Value, tuple[str, bool, int]]


class Malformed(Exception):
    """A kernel that means nothing; what is wrong with it."""


def verified(kernel: Kernel) -> Kernel:
    """The kernel itself. Raises Malformed."""
    for name, value in kernel.given.items():
        _expect(value.op == "given" and value.detail == name, value, f"not the given {name}")
    _block(kernel.body, set(kernel.given.values()), {}, kernel.axes)
    # most kernels have none
    for statement in everywhere(kernel.body) if kernel.parted else ():
        if isinstance(statement, Let):
            _dimensions(statement.value, kernel.parted)
    return kernel


def _dimensions(value: Value, parted: str) -> None:
    """Numbers along an axis with two dimensions stand before a kernel's lines, and no more is done
    along it than adding up all of it."""
    along = value.detail.axis if isinstance(value.detail, Sum) and value.op == "scan" else ""
    if value.op in ("range", "dot", "turned", "column"):
        along = "".join(arg.axes for arg in (value, *value.args))
    _expect(not {*along} & {*parted}, value, "along an axis with two dimensions")


def _block(block: Block, known: set[Value], within: Conditional, order: str) -> None:
    """known: what stands before the block; what it defines is unknown behind it. within: what is
    there if a constant is above a number or is not. order: the kernel's axes."""
    known, within = set(known), dict(within)
    for statement in block:
        if not (isinstance(statement, Let) and statement.value.op == "either"):
            for value in used(statement):
                there = value in known or value.op == "number"
                _expect(there, value, "used before it stands there")
        match statement:
            case Let(value):
                _expect(value not in known, value, "defined twice")
                _value(value, order)
                if value.op == "either":
                    sides = [within.get(arg) for arg in value.args]
                    wanted = [(value.detail, holds, 0) for holds in (True, False)]
                    _expect(sides == wanted, value, "of what may be there twice, or not at all")
                known.add(value)
            case When(constant, _, holds, _, above):
                _block(statement.body, known | _implied(statement, within), within, order)
                own = (each.value for each in statement.body if isinstance(each, Let))
                within |= {value: (constant, holds, above) for value in own}
            case Store(pointer, offset, value, guard):
                axes = {*pointer.axes, *offset.axes}
                _expect(set(value.axes) <= axes, value, "stored to fewer places than it has")
                if guard is not None:
                    _expect(set(guard.axes) <= axes, guard, "guards more places than are stored to")
                    _expect(guard.type == "bool", guard, "no condition")
            case Move(given, value):
                alike = (given.axes, given.type) == (value.axes, value.type)
                moves = given.op in ("given", "variable")
                _expect(moves and alike, value, "no other value of what moves")
            case Loop(index):
                _block(statement.body, {*known, index}, within, order)
            case _:
                pass


def _implied(when: When, within: Conditional) -> set[Value]:
    """What is there above a lower number is there above a higher one, too."""
    return {
        value
        for value, (constant, holds, least) in within.items()
        if when.holds and holds and constant == when.constant and least <= when.above
    }


def _value(value: Value, order: str) -> None:
    args = value.args
    wrong = _of_no_tile(value.axes, order)
    _expect(not wrong, value, wrong)
    if not _axes(value, order):
        _expect(False, value, f"not the axes of what is made of {[x.axes for x in args]}")
    match value.op:
        case "lt" | "gt" | "eq" | "every":
            _expect(value.type == "bool", value, "a comparison that is no condition")
        case "load":
            _expect(args[0].type == "pointer", value, "loaded from what is no pointer")
            _expect(args[1].type in ("int", "long"), value, "an offset that is no integer")
            _expect(len(args) < 3 or args[2].type == "bool", value, "a mask that is no condition")
        case "where":
            _expect(args[0].type == "bool", value, "chosen by what is no condition")
        case "part":
            _expect(args[0].op == "helper", value, "part of what is one value")
        case "add" | "sub" | "mul" | "div":
            types = {arg.type for arg in args}
            _expect(not types & {"stored", "bool"}, value, "computed of what must be cast first")
        case _:
            pass


@cache
def _of_no_tile(axes: str, order: str) -> str:
    """What is wrong with some axes, whatever has them."""
    if any(axis not in order for axis in axes):
        return "an unknown axis"
    if len(set(axes)) < len(axes):
        return "an axis twice"
    return "no axes of a tile, nor of some side by side" if len({*axes} - {"G"}) > 2 else ""


def _axes(value: Value, order: str) -> bool:
    """Whether the value has the axes that follow from its arguments'."""
    axes, args = value.axes, value.args
    whole = _whole(order, tuple([arg.axes for arg in args]))
    match value.op:
        case op if op in ELEMENTWISE:
            return axes == whole
        case "load":
            return axes == whole and set(axes) == {*args[0].axes, *args[1].axes}
        case "total":
            assert isinstance(value.detail, Sum)
            axis = value.detail.axis
            return axis in args[0].axes and axes == args[0].axes.replace(axis, "")
        case "scan":
            assert isinstance(value.detail, Sum)
            return axes == args[0].axes and value.detail.axis in axes
        case "dot":
            left, right = args[0].axes, args[1].axes
            if not len(left) == len(right) == 2:
                return False
            same = left[1] == right[0] or {left[1], right[0]} == set(TOKENS)
            summand = all(arg.axes == axes for arg in args[2:])
            return same and axes == left[0] + right[1] and summand
        case "turned" | "along":
            before = args[0].axes if value.op == "along" else args[0].axes[::-1]
            pairs = zip(before, axes, strict=True)
            return all(a == b or {a, b} == set(TOKENS) for a, b in pairs)
        case "either" | "variable":
            return all((arg.axes, arg.type) == (axes, value.type) for arg in args)
        case "column":
            return axes == args[0].axes + "C"
        case "part":
            assert isinstance(value.detail, Part)
            return value.detail.number < value.detail.count
        case "helper":
            assert isinstance(value.detail, Helper)
            return axes == whole or not value.detail.elementwise
        case _:
            return True


# found by itself, not as the builder finds it; few axes, asked for each value again
@cache
def _whole(order: str, several: tuple[str, ...]) -> str:
    found = set().union(*several)
    return "".join(axis for axis in order if axis in found)


def _expect(holds: bool, value: Value, wrong: str) -> None:
    if not holds:
        raise Malformed(f"{value.name or value.op} [{value.axes}] {value.type}: {wrong}")
