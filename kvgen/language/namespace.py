"""What names mean at one statement of `step`."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Scope:
    """What a name means at one statement."""

    tensors: frozenset[str]
    # declared tensor -> its extra size, None without one
    extras: Mapping[str, int | None]
    sizes: Mapping[str, int]
    # the axes of declared tensors, and which of these are inputs
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inputs: frozenset[str] = frozenset()
    # declared, but wrong in a way that has been reported
    broken: frozenset[str] = frozenset()
    # assigned so far
    assigned: set[str] = field(default_factory=set)
    # assigned anywhere -> its first line
    later: dict[str, int] = field(default_factory=dict)
    # loop variables -> their values now
    loops: dict[str, int] = field(default_factory=dict)
    # loop variables of loops that have ended
    ended: set[str] = field(default_factory=set)

    def known(self) -> list[str]:
        return [*self.loops, *sorted(self.assigned), *sorted(self.tensors), *self.sizes]


def integer(node: ast.expr, values: Mapping[str, int]) -> int | None:
    """The value of integers and named integers under + - *, if it is one and not huge."""
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return value if value < 2**31 else None
        case ast.Name(id=name):
            return values.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = integer(operand, values)
            return None if value is None else -value
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return integer(operand, values)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as op, right=right):
            a, b = integer(left, values), integer(right, values)
            if a is None or b is None:
                return None
            value = a + b if isinstance(op, ast.Add) else a - b
            value = a * b if isinstance(op, ast.Mult) else value
            return value if abs(value) < 2**31 else None
    return None
