"""Numbers of tokens that take many instructions are computed in one layout.

Triton computes what leads up to a value again wherever it needs that in another layout, but no sum:
a sum over an axis of length 1 keeps it from that.
"""

from __future__ import annotations

from dataclasses import replace

from kvgen.functions.function import Function
from kvgen.ir.values import (
    TOKENS,
    Block,
    Helper,
    Kernel,
    Let,
    Loop,
    Move,
    Statement,
    Store,
    Value,
    When,
    everywhere,
    used,
)
from kvgen.ir.verifier import ELEMENTWISE

ONCE = Helper("_once", elementwise=True)


def computed_once(kernel: Kernel) -> Kernel:
    """The kernel with such numbers kept where something else than such numbers looks at them."""
    wanted = _wanted(kernel)
    return replace(kernel, body=_block(kernel.body, wanted, {}))


def _wanted(kernel: Kernel) -> set[Value]:
    """Numbers of tokens that are slow, where a chain of such numbers ends or branches."""
    users: dict[Value, list[Value | None]] = {}
    numbers: list[Value] = []
    for statement in everywhere(kernel.body):
        value = statement.value if isinstance(statement, Let) else None
        for arg in used(statement):
            users.setdefault(arg, []).append(value)
        if value is not None and value.axes in TOKENS and value.op in ELEMENTWISE:
            numbers.append(value)
    slow: set[Value] = set()
    found: set[Value] = set()
    for value in numbers:
        # what has been kept is not computed again with its users
        if _is_slow(value) or any(arg in slow - found for arg in value.args):
            slow.add(value)
            if len(users[value]) > 1 or any(user not in numbers for user in users[value]):
                found.add(value)
    return found


def _is_slow(value: Value) -> bool:
    """Whether a thread takes ten instructions or more for it."""
    if isinstance(value.detail, Function):
        return value.detail.slow
    return value.op == "div"


def _block(block: Block, wanted: set[Value], known: dict[Value, Value]) -> Block:
    """known: what stands for a value."""
    found: list[Statement] = []

    def of(value: Value) -> Value:
        return known.get(value, value)

    for statement in block:
        match statement:
            case Let(value):
                again = replace(value, args=tuple(map(of, value.args)))
                if value in wanted:
                    again = replace(again, name=None, note=None)
                found.append(Let(again))
                known[value] = again
                if value in wanted:
                    name, note = value.name, value.note
                    kept = Value("helper", (again,), value.axes, value.type, ONCE, name, note)
                    found.append(Let(kept))
                    known[value] = kept
            case Store(pointer, offset, value, guard):
                args = of(pointer), of(offset), of(value), guard and of(guard)
                found.append(Store(*args, statement.note))
            case Move(given, value):
                found.append(Move(of(given), of(value), statement.note))
            case Loop(_, Value() as count):
                body = _block(statement.body, wanted, known)
                found.append(replace(statement, count=of(count), body=body))
            case Loop() | When():
                found.append(replace(statement, body=_block(statement.body, wanted, known)))
            case _:
                found.append(statement)
    return Block(tuple(found))
