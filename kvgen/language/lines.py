"""The text of `step` -> logical lines that Python's parser may safely be given.

A logical line is a statement with its comments gone and its brackets closed. Splitting before
parsing lets one broken statement leave the others readable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kvgen.diagnostics import Diagnostic, Span
from kvgen.language.names import spell

MAX_STEP = 16 * 1024
MAX_STATEMENT = 2000
MAX_BRACKETS = 32

Report = Callable[[Diagnostic], None]

_STARTS = re.compile(r"\s*(for\b|(?!eps\b)[A-Za-z_]\w*\s*=(?!=))")
_PREFIXES = re.compile(r"(?:[-+~]\s*){9,}")
_WORD = re.compile(r"\w+")
_CLOSES = {")": "(", "]": "[", "}": "{"}
_SYMBOLS = {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{MIDDLE DOT}": "*",
    "\N{DOT OPERATOR}": "*",
    "\N{CIRCLED DOT OPERATOR}": "*",
    "\N{ASTERISK OPERATOR}": "*",
    "\N{CIRCLED TIMES}": "outer(x, y)",
    "\N{DIVISION SIGN}": "/",
    "\N{DIVISION SLASH}": "/",
    "\N{SUPERSCRIPT TWO}": "**2",
    "\N{SUPERSCRIPT THREE}": "**3",
    "\N{MODIFIER LETTER CAPITAL T}": "x @ S",
    "\N{DOWN TACK}": "x @ S",
    "\N{LEFTWARDS ARROW}": "=",
}


@dataclass
class Line:
    """One statement or loop header; `rows` are the file's (line, column) of each row of text."""

    indent: int
    text: str = ""
    rows: list[tuple[int, int]] = field(default_factory=list)
    bad: bool = False

    @property
    def number(self) -> int:
        return self.rows[0][0]

    @property
    def source(self) -> str:
        """The text on one line."""
        return " ".join(self.text.split())

    def span(self, row: int, column: int, end_row: int, end: int) -> Span:
        """From 0-based rows and columns of the text; to the end of the first row at most."""
        number, first = self.rows[row]
        if end_row != row:
            end = len(self.text.split("\n")[row])
        return Span(number, first + column, first + max(end, column + 1))

    @property
    def whole(self) -> Span:
        return self.span(0, 0, 0, len(self.text.split("\n")[0]))


def split(block: list[tuple[int, int, str]], report: Report) -> list[Line]:
    """Logical lines of the (line, column, text) rows of `step`."""
    if sum(len(text) for _, _, text in block) > MAX_STEP:
        number, column, text = block[0]
        span = Span(number, column, column + max(len(text), 1))
        report(Diagnostic("too-long", f"step is longer than {MAX_STEP} characters", span))
        return []
    splitter = _Splitter(report)
    for number, column, text in block:
        splitter.row(number, column, text)
    splitter.close()
    return splitter.lines


class _Splitter:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.lines: list[Line] = []
        self.line: Line | None = None
        self.open: list[tuple[str, Span]] = []

    def row(self, number: int, column: int, text: str) -> None:
        code = text.split("#")[0].rstrip()
        if not code.strip():
            return
        if self.open and _STARTS.match(code):
            self.close()
        if self.line is None:
            indent = len(code) - len(code.lstrip())
            self.line, code, column = Line(indent), code[indent:], column + indent
            self.lines.append(self.line)
        else:
            self.line.text += "\n"
        self.line.text += code
        self.line.rows.append((number, column))
        self._check(self.line, number, column, code)
        if not self.open:
            self.close()

    def close(self) -> None:
        """End the statement; brackets still open are its mistake."""
        if self.open and self.line and not self.line.bad:
            bracket, span = self.open[-1]
            self._bad("bad-syntax", f"the '{bracket}' is never closed", span)
        if self.line and not self.line.bad and len(self.line.text) > MAX_STATEMENT:
            message = f"the statement is longer than {MAX_STATEMENT} characters"
            self._bad("too-long", message, self.line.whole, "name parts of it")
        self.open, self.line = [], None

    def _bad(self, code: str, message: str, span: Span, help: str | None = None) -> None:
        self.report(Diagnostic(code, message, span, help))
        if self.line:
            self.line.bad = True

    def _check(self, line: Line, number: int, column: int, code: str) -> None:
        if found := _PREFIXES.search(code):
            span = Span(number, column + found.start(), column + found.end())
            self._bad("too-deep", "so many signs in a row", span, "one is enough")
        at = 0
        while at < len(code):
            each, span = code[at], Span(number, column + at, column + at + 1)
            at += 1
            if not each.isascii():
                at = at if line.bad else self._foreign(code, at - 1, number, column)
            elif each in "([{":
                self.open.append((each, span))
                if len(self.open) == MAX_BRACKETS + 1 and not line.bad:
                    message = f"brackets nest deeper than {MAX_BRACKETS}"
                    self._bad("too-deep", message, span, "name parts of the expression")
            elif each in _CLOSES:
                self._closing(each, span)
            elif each in "'\"" and not line.bad:
                self._bad("unsupported", "text has no place in step", span)
            elif each == "\\" and not line.bad:
                help = "a statement goes on over lines inside parentheses"
                self._bad("unsupported", "a backslash has no place in step", span, help)

    def _closing(self, each: str, span: Span) -> None:
        assert self.line
        if self.open and self.open[-1][0] == _CLOSES[each]:
            self.open.pop()
        elif not self.line.bad:
            opened = f"'{self.open[-1][0]}'" if self.open else "nothing"
            self._bad("bad-syntax", f"this '{each}' closes {opened}", span)

    def _foreign(self, code: str, at: int, number: int, column: int) -> int:
        """Report what is not ASCII; the position after it."""
        assert self.line
        starts = [found for found in _WORD.finditer(code) if found.start() <= at < found.end()]
        if code[at] in _SYMBOLS or not starts:
            end, word = at + 1, code[at]
            help = f"write '{_SYMBOLS[word]}'" if word in _SYMBOLS else None
            code_, message = "bad-syntax", f"'{word}' has no place in step"
        else:
            end, word = starts[0].end(), starts[0][0]
            at = starts[0].start()
            code_, message, help = "bad-name", f"the name '{word}' is not ASCII", spell(word)
        if not self.line.bad:
            self._bad(code_, message, Span(number, column + at, column + end), help)
        return end
