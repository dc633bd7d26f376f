"""`--set storage.state=split`: values put over those of a spec's file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvgen.diagnostics import Diagnostic, closest, quote
from kvgen.formats.registry import STATES
from kvgen.language import source
from kvgen.language.source import Document, Place, Value, Where

# what may follow a key: None nothing, a list fixed names, '*' the names that the file declares
SHAPE: dict[str, list[str] | str | None] = {
    "kvgen": None,
    "name": None,
    "title": None,
    "source": None,
    "sizes": "*",
    "inputs": "*",
    "params": "*",
    "state": "*",
    "step": None,
    "storage": ["state", "records", "layout"],
    "buffer": None,
    "sample": "*",
}
TEXTS = ("name", "title", "source")
TENSOR_KEYS = ("axes", "init", "range")
# what makes another recurrence of it, or another layout
TELLING = ("sizes", "inputs", "params", "state", "storage", "buffer")


def apply(
    document: Document, overrides: Mapping[str, str], silent: Mapping[Where, Value]
) -> tuple[dict[Where, str], tuple[tuple[str, str], ...]]:
    """Change the document's values; which paths were changed, and by which option; and the
    overrides that say of the recurrence what the document did not. silent: what it means by a
    value that is not there."""
    changed: dict[Where, str] = {}
    telling: list[tuple[str, str]] = []
    for path, text in overrides.items():
        option = f"--set {path}={text}"
        where = tuple(path.split("."))
        problem = _refusal(document.values, where)
        value, wrong = (None, None) if problem else _value(str(text))
        problem = problem or _no_map(where, value)
        if where[0] in TEXTS and not isinstance(value, str):
            # a line of text needs no quotes here
            value, wrong = str(text), None
        if problem or wrong:
            message, help = problem or (wrong or "", None)
            code = "bad-override"
            document.diagnostics.append(Diagnostic(code, f"{message}, in {option}", None, help))
            continue
        if where[0] in TELLING and value != _said(document.values, where, silent):
            telling.append((path, str(text)))
        _put(document, where, value)
        changed[where] = option
    return changed, tuple(telling)


def _said(values: Any, where: Where, silent: Mapping[Where, Value]) -> Value:
    for part in where:
        values = values.get(part) if isinstance(values, dict) else None
    return silent.get(where) if values is None else values


def _refusal(values: Mapping[str, Any], where: tuple[str, ...]) -> tuple[str, str | None] | None:
    """(message, help) if there is nothing at this path to be set."""
    first, *rest = where
    if first not in SHAPE:
        return _no_first(values, where)
    if first == "step":
        return "step can be changed only in the file", None
    if not rest:
        return None
    shape, section = SHAPE[first], values.get(first)
    if shape is None:
        return f"{quote(first)} has no keys of its own", None
    names = list(shape) if isinstance(shape, list) else []
    if shape == "*":
        names = list(section) if isinstance(section, dict) else []
        names += ["H", "HV", "K", "V"] if first == "sizes" else []
    if first == "sample":
        names += [
            each
            for kind in ("inputs", "params")
            if isinstance(declared := values.get(kind), dict)
            for each in declared
        ]
    if rest[0] not in names:
        return _no_key(where, 1, names)
    if len(rest) == 1:
        return None
    if first in ("inputs", "params", "state") and rest[1] not in TENSOR_KEYS:
        return _no_key(where, 2, list(TENSOR_KEYS))
    if first not in ("inputs", "params", "state") or len(rest) > 2:
        return f"{quote('.'.join(where[:-1]))} has no keys of its own", None
    return None


def _no_first(values: Mapping[str, Any], where: tuple[str, ...]) -> tuple[str, str | None]:
    """A path that begins with what stands inside a section, or with no key at all."""
    inside: dict[str, str] = dict.fromkeys(("H", "HV", "K", "V"), "sizes")
    for section in ("sizes", "storage", "state", "params", "inputs"):
        names = values.get(section)
        shape = SHAPE[section]
        for name in (
            *(names if isinstance(names, dict) else ()),
            *(shape or () if shape != "*" else ()),
        ):
            inside.setdefault(name, section)
    close = closest(where[0], [*inside, *SHAPE])
    if close not in inside:
        return _no_key(where, 0, list(SHAPE))
    right = ".".join([inside[close], close, *where[1:]])
    return f"there is no key {quote(where[0])}", f"did you mean {quote(right)}?"


def _no_map(where: tuple[str, ...], value: Value) -> tuple[str, str | None] | None:
    """A whole section, or a state's axes, that would become a word."""
    section, *rest = where
    if section == "state" and len(rest) == 1 and isinstance(value, str) and value in STATES:
        message = f"{quote('.'.join(where))} are the axes of a state"
        return message, f"did you mean 'storage.state={value}'?"
    if rest or isinstance(value, dict) or value is None or SHAPE.get(section) is None:
        return None
    help = f"set one of its keys, as in {quote(section + '.NAME')}"
    if section == "state":
        help = "did you mean 'storage.state'?"
    return f"{quote(section)} is a map of names", help


def _no_key(where: tuple[str, ...], at: int, names: list[str]) -> tuple[str, str | None]:
    close = closest(where[at], names)
    right = ".".join([*where[:at], close or "", *where[at + 1 :]])
    there = ".".join(where[: at + 1])
    return f"there is no key {quote(there)}", f"did you mean {quote(right)}?" if close else None


def _value(text: str) -> tuple[Value, str | None]:
    """The YAML value of an option's text, and what is wrong with it."""
    if not text.isprintable() or len(text) > source.MAX_LINE:
        return None, "the value is not a line of text"
    document = source.parse(f"value: {text}")
    if document.diagnostics or list(document.values) != ["value"]:
        reason = document.diagnostics[0].message if document.diagnostics else "it is not one value"
        return None, f"the value is not YAML: {reason}"
    return document.values["value"], None


def _put(document: Document, where: tuple[str, ...], value: Value) -> None:
    values: dict[str, Any] = document.values
    for at, part in enumerate(where[:-1], start=1):
        inner = values.get(part)
        if isinstance(inner, list) and at == 2:
            # a tensor that is only its axes becomes a map, its axes where they stand
            inner = {"axes": inner}
            for old, place in list(document.places.items()):
                if old[:2] == where[:2]:
                    document.places[(*where[:2], "axes", *old[2:])] = place
        values[part] = inner if isinstance(inner, dict) else {}
        values = values[part]
    # the key itself still stands in the file
    for old in [each for each in document.places if each[: len(where)] == where != each]:
        del document.places[old]
    values[where[-1]] = value


def place_of(document: Document, where: Where) -> Place | None:
    """The place of a value, or of the nearest thing around it."""
    while where not in document.places and where:
        where = where[:-1]
    return document.places.get(where)
