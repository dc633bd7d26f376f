"""YAML 1.2 text -> plain values, with the place of every key and value.

Only what a spec needs of YAML: no anchors, aliases, tags, merge keys or second documents. The
events of ruamel.yaml are read one by one, so that a text that nests too deep stops being read.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from kvgen.diagnostics import Diagnostic, Span, quote

MAX_BYTES = 64 * 1024
MAX_LINE = 2000
MAX_NODES = 4000
MAX_DEPTH = 8

Value: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"
Where: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True)
class Place:
    """Where a key and its value stand; an item of a list has only the value."""

    key: Span
    value: Span
    # the style of a scalar: '' plain, '|' literal, '>' folded, quotes
    style: str = ""
    # how many lines it takes
    lines: int = 1


@dataclass
class Document:
    """The values of one YAML text and their places."""

    text: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Where, Place] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def block(self, where: Where) -> list[tuple[int, int, str]]:
        """The lines of a literal block or of a one-line scalar: (line, column, text)."""
        place, value = self.places[where], self._value(where)
        if place.style == "":
            return [(place.value.line, place.value.column, value)]
        lines = self.text.split("\n")
        out: list[tuple[int, int, str]] = []
        # the block begins on the line after its indicator, whatever is blank or indented in it
        for number, line in enumerate(value.split("\n"), start=place.value.line + 1):
            width = len(lines[number - 1]) if number <= len(lines) else 0
            out.append((number, max(width - len(line), 0) + 1, line))
        return out

    def _value(self, where: Where) -> Any:
        value: Any = self.values
        for part in where:
            value = value[part]
        return value


class _Stop(Exception):
    """The text is not worth reading further."""


def open_text(path_or_text: str | Path) -> tuple[str, str, list[Diagnostic]]:
    """(path to show, text, what went wrong); a string with a line break is a text."""
    if isinstance(path_or_text, str) and "\n" in path_or_text:
        # a lone surrogate cannot be encoded, and is refused as a character later on
        raw, path = path_or_text.encode("utf-8", "surrogatepass"), "<spec>"
    else:
        path = str(path_or_text)
        try:
            with Path(path_or_text).open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return path, "", [Diagnostic("unreadable", f"cannot read the spec: {reason}", None)]
    if len(raw) > MAX_BYTES:
        message = f"the spec is longer than {MAX_BYTES} bytes"
        return path, "", [Diagnostic("too-long", message, None)]
    found: list[Diagnostic] = []
    try:
        text = raw.decode("utf-8", "surrogatepass" if path == "<spec>" else "strict")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace").split("\n")
        span = Span(len(before), len(before[-1]) + 1, len(before[-1]) + 2)
        message, help = "the spec is not UTF-8", "save the file as UTF-8"
        found = [Diagnostic("unreadable", message, span, help)]
        text = raw.decode("utf-8", "replace")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    return path, text, found or _check_characters(text)


def shown(path: str | Path) -> str:
    """As much of a file as a spec may have, for messages about it. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(MAX_BYTES).decode("utf-8", "replace")


def _check_characters(text: str) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > MAX_LINE:
            span = Span(number, MAX_LINE + 1, MAX_LINE + 2)
            message = f"the line is longer than {MAX_LINE} characters"
            found.append(Diagnostic("too-long", message, span))
        if line.isprintable():
            continue
        column, each = next(
            (column, each) for column, each in enumerate(line, start=1) if not each.isprintable()
        )
        span = Span(number, column, column + 1)
        found.append(Diagnostic("bad-character", *_character(each, span)))
    return found


def _character(each: str, span: Span) -> tuple[str, Span, str]:
    if each == "\t":
        return "a tab has no place in a spec", span, "indent with spaces"
    name = unicodedata.name(each, "").lower()
    shown = f"U+{ord(each):04X}" + (f", {name}," if name else "")
    return f"the character {shown} cannot be seen", span, "remove it, or write a plain space"


def parse(text: str) -> Document:
    """Read a YAML text; what is wrong with it stands in `diagnostics`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    document = Document(text)
    reader = _Reader(document)
    try:
        events = YAML(typ="safe", pure=True).parse(text)
        reader.read(iter(events))
    except MarkedYAMLError as error:
        problem = (error.problem or error.context or "not YAML").split("\n")[0]
        context, begun = error.context or "", error.context_mark
        mark, notes = error.problem_mark or begun, ()
        if begun and "simple key" in context:
            # what was read on for a colon begins here
            mark = begun
        elif begun and "flow" in context:
            notes = ((f"'{reader.character(begun)}' stands", reader.span(begun, begun)),)
        span = reader.span(mark, mark) if mark else None
        help = _yaml_help(problem) or (reader.comment_above(mark) if mark else None)
        reader.report("bad-yaml", _plain(problem), span, help, notes)
    except _Stop:
        pass
    except Exception:
        # slips of the library on odd texts, such as a version that is not a number
        reader.report("bad-yaml", "the text is not YAML", None)
    return document


def _plain(problem: str) -> str:
    return problem.replace("could not find expected ':'", "expected ':'").replace('"', "'")


def _yaml_help(problem: str) -> str | None:
    if "mapping values are not allowed" in problem:
        return "one 'key: value' a line; quote a text that holds ': '"
    if "cannot start any token" in problem:
        return "quote a text that begins with a special character"
    if "could not find expected ':'" in problem:
        return "'key: value', with a space behind the colon"
    return None


class _Reader:
    """Builds a document from the stream of events."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.lines = document.text.split("\n")
        self.nodes = 0

    def report(
        self,
        code: str,
        message: str,
        span: Span | None,
        help: str | None = None,
        notes: tuple[tuple[str, Span], ...] = (),
    ) -> None:
        self.document.diagnostics.append(Diagnostic(code, message, span, help, notes))

    def span(self, start: Any, end: Any) -> Span:
        """From start to end, or to the end of the first line."""
        line = min(start.line, len(self.lines) - 1)
        width = len(self.lines[line].rstrip())
        column = min(start.column, len(self.lines[line]))
        last = min(end.column, width) if end.line == start.line else width
        return Span(line + 1, column + 1, max(last, column + 1) + 1)

    def character(self, mark: Any) -> str:
        """What stands at a mark."""
        return self.lines[mark.line][mark.column : mark.column + 1]

    def comment_above(self, mark: Any) -> str | None:
        """Of a line that belongs to nothing: a comment above it may have ended its block."""
        above = [line for line in self.lines[: mark.line] if line.strip()]
        if above and above[-1].startswith("#") and self.lines[mark.line].startswith(" "):
            return "the comment above ends the block that it stands in: indent it as the block is"
        return None

    def read(self, events: Iterator[Any]) -> None:
        from ruamel.yaml import events as kinds

        started = 0
        for event in events:
            match event:
                case kinds.DocumentStartEvent():
                    started += 1
                    if event.version or event.tags:
                        self._feature("a directive", self.span(event.start_mark, event.end_mark))
                    if started > 1:
                        self._feature(
                            "a second document", self.span(event.start_mark, event.end_mark)
                        )
                        raise _Stop
                    first = next(events)
                    value = self._node(first, events, (), None, 0)
                    if isinstance(value, dict):
                        self.document.values = value
                    elif not self.document.diagnostics:
                        span = self.document.places[()].value
                        self.report(
                            "bad-type", "a spec is a map of keys to values", span, "kvgen: 1"
                        )
                case _:
                    pass
        if not started:
            self.report("bad-yaml", "the spec is empty", None, "begin with 'kvgen: 1'")

    def _feature(self, what: str, span: Span) -> None:
        self.report("yaml-feature", f"{what} has no place in a spec", span, "write it out in full")

    def _node(
        self, event: Any, events: Iterator[Any], where: Where, key: Span | None, depth: int
    ) -> Value:
        from ruamel.yaml import events as kinds

        span = self.span(event.start_mark, event.end_mark)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self.report("too-many", f"the spec has more than {MAX_NODES} values", span)
            raise _Stop
        if depth > MAX_DEPTH:
            self.report("too-deep", f"lists and maps nest deeper than {MAX_DEPTH}", span)
            raise _Stop
        if isinstance(event, kinds.AliasEvent):
            self._feature("an alias", span)
            self.document.places[where] = Place(key or span, span)
            return None
        if event.anchor is not None:
            self._feature("an anchor", span)
        if getattr(event, "tag", None) is not None:
            self._feature("a tag", span)
        match event:
            case kinds.ScalarEvent():
                if event.value == "" and not event.style:
                    span = key or span
                style = event.style or ""
                lines = event.end_mark.line - event.start_mark.line + 1
                self.document.places[where] = Place(key or span, span, style, lines)
                return event.value if style else self._plain_scalar(event.value, span)
            case kinds.SequenceStartEvent():
                self.document.places[where] = Place(key or span, span)
                items: list[Value] = []
                while not isinstance(item := next(events), kinds.SequenceEndEvent):
                    items.append(self._node(item, events, (*where, len(items)), None, depth + 1))
                self._close(where, event, item)
                return items
            case _:
                self.document.places[where] = Place(key or span, span)
                return self._map(event, events, where, depth)

    def _close(self, where: Where, start: Any, end: Any) -> None:
        if start.flow_style:
            place = self.document.places[where]
            self.document.places[where] = Place(
                place.key, self.span(start.start_mark, end.end_mark)
            )

    def _map(self, start: Any, events: Iterator[Any], where: Where, depth: int) -> dict[str, Any]:
        from ruamel.yaml import events as kinds

        out: dict[str, Any] = {}
        while not isinstance(event := next(events), kinds.MappingEndEvent):
            span = self.span(event.start_mark, event.end_mark)
            name = self._key(event, events, where, span, depth)
            value = next(events)
            if name is None:
                self._node(value, events, (*where, -1), span, depth + 1)
                continue
            if name in out:
                first = self.document.places[(*where, name)].key
                self.report(
                    "duplicate-key",
                    f"the key {quote(name)} stands here a second time",
                    span,
                    notes=((f"{quote(name)} stands first", first),),
                )
                # under a name of its own, so that the places of the first stay
                self._node(value, events, (*where, -1), span, depth + 1)
                continue
            out[name] = self._node(value, events, (*where, name), span, depth + 1)
        self._close(where, start, event)
        return out

    def _key(
        self, event: Any, events: Iterator[Any], where: Where, span: Span, depth: int
    ) -> str | None:
        from ruamel.yaml import events as kinds

        # read as a value, for its checks
        value = self._node(event, events, (*where, -1), span, depth + 1)
        if not isinstance(event, kinds.ScalarEvent):
            if not isinstance(event, kinds.AliasEvent):
                self.report("bad-type", "a key is a name", span)
            return None
        if event.value == "<<" and not event.style:
            self._feature("a merge key", span)
            return None
        if not isinstance(value, str):
            self.report("bad-type", f"a key is a name, {quote(event.value)} is not", span)
            return None
        return event.value

    def _plain_scalar(self, text: str, span: Span) -> Value:
        value = resolve(text)
        if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
            self.report("bad-number", f"the number {quote(text)} is too large", span)
        return value


_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")


def resolve(text: str) -> Value:
    """The value of a plain scalar, by the core schema of YAML 1.2."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        # int() refuses, or takes long for, thousands of digits
        return int(text) if len(text) <= 40 else float(text)
    if _BASED.fullmatch(text):
        return int(text, 0) if len(text) <= 40 else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if found := _INFINITE.fullmatch(text):
        return -math.inf if found[1] == "-" else math.inf
    if text in (".nan", ".NaN", ".NAN"):
        return math.nan
    return text
