"""Printing: results on stdout, everything else on stderr, and no control characters of a spec."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from kvgen import streams

# seconds between lines of progress, where nobody looks at a terminal
PAUSE = 10.0


def printable(text: str) -> str:
    """Escape control characters: text from a spec must not steer the terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def say(text: str) -> None:
    click.echo(printable(text.rstrip("\n")))


def note(text: str) -> None:
    try:
        click.echo(printable(text.rstrip("\n")), err=True)
    except OSError:
        # what nobody hears keeps nothing from being done
        streams.drop(2)


def fail(text: str) -> NoReturn:
    note(text)
    raise SystemExit(1)


def print_json(data: Any) -> None:
    click.echo(json.dumps(legal_json(data), indent=2))


def legal_json(data: Any) -> Any:
    """JSON has no nan and no inf: they become strings."""
    match data:
        case float() if not math.isfinite(data):
            return str(data)
        case dict():
            return {str(key): legal_json(value) for key, value in data.items()}
        case list() | tuple():
            return [legal_json(value) for value in data]
    return data


def print_table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> None:
    """Print aligned columns, never cut off where nobody looks at a terminal."""
    if not rows:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(head))
    for i in range(len(rows[0])):
        is_number = any(isinstance(row[i], int | float) for row in rows)
        right = is_number and not any(isinstance(row[i], bool) for row in rows)
        table.add_column(head[i] if head else "", justify="right" if right else "left")
    for row in rows:
        table.add_row(*(Text(cell(value), style(value)) for value in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "ok" if value else "FAILED"
        case float():
            return f"{value:.3g}"
    return printable(str(value))


def style(value: Any) -> str:
    return {True: "green", False: "bold red"}[value] if isinstance(value, bool) else ""


def seldom(say: Callable[[str], None], seconds: float = PAUSE) -> Callable[[str], None]:
    """Of many lines of progress one in so many seconds, where nobody looks at a terminal."""
    said = time.monotonic()

    def once(text: str) -> None:
        nonlocal said
        if sys.stderr.isatty() or time.monotonic() - said >= seconds:
            said = time.monotonic()
            say(text)

    return once


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what is being done: a spinner on a terminal, else a line for each step."""
    if not sys.stderr.isatty():
        note(f"{what} ...")
        yield note
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(what)) as status:
        yield lambda text: status.update(Text(f"{what}: {printable(text)}"))
