"""The syntax tree of `step`: statements and expressions with their places in the file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from kvgen.diagnostics import Span

Operator: TypeAlias = Literal["+", "-", "*", "/", "**", "@"]


@dataclass(frozen=True)
class Num:
    """A number, exactly as written."""

    value: Fraction
    span: Span


@dataclass(frozen=True)
class Name:
    """An input, a parameter, a state, a size, or a name assigned before."""

    id: str
    span: Span


@dataclass(frozen=True)
class Neg:
    """-value"""

    value: Expr
    span: Span


@dataclass(frozen=True)
class Bin:
    """left op right"""

    op: Operator
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True)
class Call:
    """func(args), of the functions of the language; `eps` for the norms, None if not given."""

    func: str
    args: tuple[Expr, ...]
    eps: Fraction | None
    span: Span


@dataclass(frozen=True)
class Index:
    """base[index], along the extra axis; of an index below 0 what an input was before."""

    base: Expr
    index: int
    span: Span


@dataclass(frozen=True)
class Bad:
    """A part that has been reported already: whoever meets it stays silent."""

    span: Span


Expr: TypeAlias = Num | Name | Neg | Bin | Call | Index | Bad


@dataclass(frozen=True)
class Stmt:
    """target = value; `source` is its text on one line, `loop` the loop variables' values."""

    target: str
    target_span: Span
    value: Expr
    line: int
    source: str
    loop: tuple[tuple[str, int], ...] = ()


# the identity, where a matrix is multiplied
IDENTITY = "I"
