"""Plain text in lines: equations, tables, paragraphs, none too wide."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence

from kvgen.explaining.notation import Line

WIDTH = 98
PARAGRAPH, EQUATION = 3, 6
# a long spec's lists are cut, not the facts below them
MOST_LINES = 200


def equations(lines: Iterable[Line], axes: bool = True) -> list[str]:
    """Lines with their equal signs below each other, and the axes to the right."""
    lines = list(lines)
    left = max((len(line.name) for line in lines if len(line.name) <= 16), default=0)
    texts = [f"{line.name:<{left if axes else 0}} = {line.text}" for line in lines]
    if not axes:
        return texts
    right = max((len(text) for text in texts if len(text) <= 74), default=0)
    return [f"{text:<{right}}    {line.axes}" for text, line in zip(texts, lines, strict=True)]


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Aligned columns; those in `right`, and those headed 'bytes', end below each other."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = [place in right or name == "bytes" for place, name in enumerate(rows[0])]
    return [
        "  ".join(
            cell.rjust(width) if end else cell.ljust(width)
            for cell, width, end in zip(row, widths, ends, strict=True)
        )
        for row in rows
    ]


def wrapped(text: str, hang: int = 0) -> list[str]:
    return fit(" " * PARAGRAPH + text, PARAGRAPH + hang) if text else []


def indented(lines: Iterable[str], indent: int = EQUATION) -> list[str]:
    return [piece for line in lines for piece in fit(" " * indent + line, indent + 4)]


def fit(line: str, hang: int) -> list[str]:
    """The line, broken at spaces where it is too long."""
    if len(line) <= WIDTH:
        return [line]
    body = line.lstrip(" ")
    indent = " " * (len(line) - len(body))
    return textwrap.wrap(
        body,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * hang,
        break_long_words=True,
        break_on_hyphens=False,
    )


def cut(lines: list[str], most: int = MOST_LINES) -> list[str]:
    """The first of too many, and how many more there are."""
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"… {len(lines) - most + 1} more"]


def tidy(lines: Iterable[str]) -> list[str]:
    """No trailing spaces, and nothing that a terminal or an editor would take for a control."""
    cleaned = ("".join(c if c.isprintable() else "�" for c in line) for line in lines)
    return [line.rstrip() for line in cleaned]


def count(value: float) -> str:
    return f"{round(value):,}"
