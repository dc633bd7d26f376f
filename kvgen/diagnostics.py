"""Spans, diagnostics and their rendering in the style of the Rust compiler."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

SHOWN_WIDTH = 100
SHOWN_ERRORS = 50
# a tab is seen, and as wide as it would be in most editors
TAB = "\N{RIGHTWARDS ARROW}   "


@dataclass(frozen=True, order=True)
class Span:
    """A stretch of one line: 1-based, in characters, `end` exclusive."""

    line: int
    column: int
    end: int


@dataclass(frozen=True)
class Diagnostic:
    """An error or a warning: a stable code, what is wrong, where, and what to write instead."""

    code: str
    message: str
    span: Span | None
    help: str | None = None
    notes: tuple[tuple[str, Span], ...] = ()
    severity: Literal["error", "warning"] = "error"


def warning(
    code: str,
    message: str,
    span: Span | None,
    help: str | None = None,
    notes: tuple[tuple[str, Span], ...] = (),
) -> Diagnostic:
    """What will disappoint, though the spec compiles."""
    return Diagnostic(code, message, span, help, notes, "warning")


class SpecWarning(UserWarning):
    """What is said of a spec that compiles, as one report."""


class SpecError(Exception):
    """All that is wrong with one spec."""

    def __init__(self, diagnostics: Iterable[Diagnostic], path: str, text: str) -> None:
        self.diagnostics = tidy(diagnostics)
        self.path = path
        self.text = text
        super().__init__(self.diagnostics, path, text)

    def __str__(self) -> str:
        return render(self.diagnostics, self.path, self.text)


def tidy(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sort by position and drop repetitions, which unrolled loops bring."""
    seen: set[tuple[object, ...]] = set()
    kept: list[Diagnostic] = []
    for found in diagnostics:
        key = (found.code, found.span, found.message)
        if key not in seen:
            seen.add(key)
            kept.append(found)
    return tuple(sorted(kept, key=_position))


def _position(found: Diagnostic) -> tuple[bool, int, int, int]:
    """Errors of a whole file come before all places, warnings of a whole recurrence after them."""
    if found.span is None:
        return (found.severity == "warning", 0, 0, 0)
    return (False, found.span.line, found.span.column, found.span.end)


def closest(name: str, options: Iterable[str]) -> str | None:
    """The option that `name` was probably meant to be."""
    # difflib is quadratic in the length, and no long word is a slip of a short one
    if len(name) > 64:
        return None
    options = list(options)
    folded = [option for option in options if option.lower() == name.lower()]
    if folded:
        return folded[0]
    found = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, options: Iterable[str]) -> str | None:
    """The help line for a slip of the pen, or None."""
    option = closest(name, options)
    return f"did you mean '{option}'?" if option else None


def quote(text: object) -> str:
    """User text inside a message: one line, printable, short."""
    shown = _printable(str(text))
    return f"'{shown if len(shown) <= 60 else shown[:57] + '...'}'"


def one_of(options: Iterable[str]) -> str:
    """'a', 'b' or 'c'."""
    names = [f"'{option}'" for option in options]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def render(diagnostics: Iterable[Diagnostic], path: str, text: str) -> str:
    """The report on one spec: each with its source line and a caret, then the counts."""
    found = tidy(diagnostics)
    lines = text.split("\n")
    label = _printable(path)
    blocks = [_block(each, label, lines) for each in found[:SHOWN_ERRORS]]
    if len(found) > SHOWN_ERRORS:
        blocks.append(f"... and {len(found) - SHOWN_ERRORS} more")
    counts = [(sum(each.severity == what for each in found), what) for what in ("error", "warning")]
    count = ", ".join(f"{many} {what}{'s' * (many > 1)}" for many, what in counts if many)
    return "\n\n".join([*blocks, f"{label}: {count}"])


def _block(found: Diagnostic, path: str, lines: list[str]) -> str:
    out = [f"{found.severity}[{found.code}]: {_printable(found.message)}"]
    span = found.span
    number = str(span.line) if span else ""
    gutter = " " * len(number)
    if span:
        out.append(f"{gutter}--> {path}:{span.line}:{span.column}")
        source = lines[span.line - 1] if 0 < span.line <= len(lines) else ""
        shown, caret = _frame(source, span)
        out += [f"{gutter} |", f"{number} | {shown}".rstrip(), f"{gutter} | {caret}"]
    if found.help:
        out.append(f"{gutter} = help: {_printable(found.help)}")
    for note, where in found.notes:
        out.append(f"{gutter} = note: {_printable(note)} at {path}:{where.line}:{where.column}")
    return "\n".join(out)


def _frame(source: str, span: Span) -> tuple[str, str]:
    """The source line, cut to a readable width, and the carets under the span."""
    start, end = span.column - 1, max(span.end - 1, span.column)
    first = 0
    if len(source) > SHOWN_WIDTH:
        first = max(0, min(start - SHOWN_WIDTH // 3, len(source) - SHOWN_WIDTH))
    last = first + SHOWN_WIDTH
    head = "..." if first else ""
    tail = "..." if last < len(source) else ""
    before, under, after = (
        _printable(part.replace("\t", TAB))
        for part in (source[first:start], source[start : min(end, last)], source[end:last])
    )
    pad, carets = len(head) + _width(before), max(1, _width(under))
    return head + before + under + after + tail, " " * pad + "^" * carets


def _printable(text: str) -> str:
    """Text without characters that move the cursor or reorder what is shown."""
    # one for one, so that columns stay right
    shown = text.replace("\t", TAB[0])
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in shown)


def _width(text: str) -> int:
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )
