"""Long lines of a module, broken where brackets are open: the same program."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

WIDTH = 120
# where an expression may break once its commas do not do: before these
OPERATORS = (" + ", " | ", " & ", " * ", " if ", " else ")
OPEN, CLOSE = "([{", ")]}"


def wrapped(line: str) -> list[str]:
    """A line as several, where it is too long and no comment or text of its own."""
    code = line.strip()
    text = code.startswith('"') and code.endswith('"')
    if len(line) <= WIDTH or text or code.startswith("#"):
        return [line]
    start = _value(line)
    if start is not None and _is_term(line[start:]):
        # brackets of their own leave a sum or a product whole
        line = f"{line[:start]}({line[start:]})"
    groups = list(_groups(line))
    if not groups:
        return [line]
    first, last = max(groups, key=lambda group: group[1] - group[0])
    indent = " " * (len(line) - len(line.lstrip()))
    inner = [f"{indent}    {part}" for part in _parts(line[first + 1 : last], len(indent) + 4)]
    head, tail = line[: first + 1], f"{indent}{line[last:]}"
    return [each for part in (head, *inner, tail) for each in wrapped(part)]


def _value(line: str) -> int | None:
    """Where the value begins that a line assigns or returns."""
    assigned = next(_outer(line, "= "), None)
    if assigned is not None:
        return assigned + 2
    return line.index("return ") + 7 if line.lstrip().startswith("return ") else None


def _is_term(text: str) -> bool:
    """Whether operators stand outside of all brackets."""
    return any(at >= 0 for operator in OPERATORS for at in _outer(text, operator))


def _groups(text: str) -> Iterator[tuple[int, int]]:
    """Where brackets open and close that stand in no others."""
    depth, start = 0, 0
    for at, character in _code(text):
        if character in OPEN:
            depth, start = depth + 1, at if depth == 0 else start
        elif character in CLOSE and depth:
            depth -= 1
            if depth == 0:
                yield start, at


def _code(text: str) -> Iterator[tuple[int, str]]:
    """The characters outside of strings."""
    quote = ""
    for at, character in enumerate(text):
        if quote:
            if character == quote and text[at - 1] != "\\":
                quote = ""
        elif character in "\"'":
            quote = character
        else:
            yield at, character


def _parts(inner: str, indent: int) -> list[str]:
    """What stands in brackets, as many items a line as there is room for."""
    items = _split(inner, [at + 1 for at in _outer(inner, ",")])
    if len(items) == 1:
        for operator in OPERATORS:
            items = _split(inner, list(_outer(inner, operator)))
            if len(items) > 1:
                break
    lines: list[str] = []
    for item in items:
        if lines and indent + len(lines[-1]) + 1 + len(item) <= WIDTH:
            lines[-1] += f" {item}"
        else:
            lines.append(item)
    return lines


def _outer(text: str, what: str) -> Iterator[int]:
    """Where something stands in no brackets."""
    if what not in text:
        return
    depth = 0
    for at, character in _code(text):
        if character in OPEN:
            depth += 1
        elif character in CLOSE:
            depth -= 1
        if depth == 0 and text.startswith(what, at):
            yield at


def _split(text: str, places: list[int]) -> list[str]:
    bounds = [0, *places, len(text)]
    parts = (text[a:b].strip() for a, b in pairwise(bounds))
    return [part for part in parts if part]
