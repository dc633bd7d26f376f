"""Values as Python's literals in the text of a module."""

from __future__ import annotations

from collections.abc import Iterable


def tuple_text(names: Iterable[str]) -> str:
    names = list(names)
    return "(" + ", ".join(f'"{name}"' for name in names) + ("," if len(names) == 1 else "") + ")"


def literal(value: float) -> str:
    if value in (float("inf"), -float("inf")):
        return f'float("{value}")'
    return repr(float(value))


def quoted(text: str) -> str:
    return f'"{escaped(text)}"'


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def text_literal(text: str) -> str:
    """A multi-line text as a parenthesised literal, one line of it a line."""
    lines = text.splitlines(keepends=True)
    inner = "".join(f'    {quoted(line[:-1])[:-1]}\\n"\n' for line in lines if line.endswith("\n"))
    rest = "".join(f"    {quoted(line)}\n" for line in lines if not line.endswith("\n"))
    return f"(\n{inner}{rest})"
