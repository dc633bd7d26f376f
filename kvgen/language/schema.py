"""Reads a document's values one by one, each with its own wording of what may be wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from kvgen.diagnostics import Diagnostic, Span, closest, did_you_mean, one_of, quote
from kvgen.language.constants import LARGEST
from kvgen.language.overrides import place_of
from kvgen.language.source import Document, Where

NO_OTHERS: Mapping[str, str] = {}
_INFINITE = {"inf": math.inf, "+inf": math.inf, "-inf": -math.inf}


class Reader:
    """Values by their path in the document; what is wrong is collected, None returned."""

    def __init__(self, document: Document, changed: Mapping[Where, str]) -> None:
        self.document = document
        self.changed = changed
        self.found: list[Diagnostic] = []

    def report(
        self,
        code: str,
        message: str,
        where: Where,
        help: str | None = None,
        *,
        key: bool = False,
        notes: tuple[tuple[str, Span], ...] = (),
    ) -> None:
        """At the value of a path, or at its key; or at the option that has put it there."""
        if option := self.option(where):
            self.found.append(Diagnostic(code, f"{message}, in {option}", None, help, notes))
            return
        place = place_of(self.document, where)
        span = (place.key if key else place.value) if place else None
        self.found.append(Diagnostic(code, message, span, help, notes))

    def option(self, where: Where) -> str | None:
        """The command-line option that has set this value or what it is part of."""
        for length in range(len(where), 0, -1):
            if option := self.changed.get(where[:length]):
                return option
        return None

    def span(self, where: Where, *, key: bool = True) -> Span | None:
        """The key of a path, or its value."""
        place = None if self.option(where) else place_of(self.document, where)
        return (place.key if key else place.value) if place else None

    def value(self, where: Where) -> Any:
        value: Any = self.document.values
        for part in where:
            value = value[part]
        return value

    def keys(
        self, where: Where, required: Iterable[str], optional: Iterable[str] = ()
    ) -> dict[str, Any]:
        """A map's values by its known keys; a slip of a missing key is taken for that key."""
        values, required, optional = self.value(where), list(required), list(optional)
        absent = [each for each in required + optional if each not in values]
        for name in [each for each in values if each not in required + optional]:
            meant = closest(name, absent)
            close = meant or closest(name, required + optional)
            help = f"did you mean '{close}'?" if close else None
            if not close and 0 < len(required + optional) <= 16:
                help = f"the keys are {one_of(required + optional)}"
            self.report("unknown-key", f"unknown key {quote(name)}", (*where, name), help, key=True)
            if meant:
                absent.remove(meant)
                self._rename(where, name, meant)
        for name in (each for each in absent if each in required):
            inside = f" in '{'.'.join(map(str, where))}'" if where else ""
            if where:
                self.report("missing-key", f"the key '{name}' is missing{inside}", where, key=True)
            else:
                self.found.append(
                    Diagnostic("missing-key", f"the key '{name}' is missing", self._start())
                )
        return {each: values[each] for each in required + optional if each in values}

    def _start(self) -> Span | None:
        place = self.document.places.get(())
        return place.value if place else None

    def _rename(self, where: Where, name: str, meant: str) -> None:
        values = self.value(where)
        values[meant] = values.pop(name)
        depth = len(where)
        for old, place in list(self.document.places.items()):
            if old[: depth + 1] == (*where, name):
                self.document.places[(*where, meant, *old[depth + 1 :])] = place

    def table(self, where: Where, what: str) -> bool:
        """Whether a map stands here; an empty value is an empty map."""
        value = self.value(where)
        if value is None:
            self.value(where[:-1])[where[-1]] = {}
            return True
        if not isinstance(value, dict):
            self.report("bad-type", f"'{where[-1]}' must be a map of {what}", where)
            return False
        return True

    def text(self, where: Where, longest: int = 200) -> str | None:
        value = self.value(where)
        if not isinstance(value, str):
            self.report("bad-type", f"'{where[-1]}' must be text", where, "put it in quotes")
        elif "\n" in value.strip() or not value.strip().isprintable():
            self.report("bad-value", f"'{where[-1]}' must be one line of text", where)
        elif len(value) > longest:
            message = f"'{where[-1]}' is longer than {longest} characters"
            self.report("too-long", message, where)
        else:
            return value.strip()
        return None

    def integer(self, where: Where, low: int, high: int, code: str = "bad-value") -> int | None:
        value = self.value(where)
        if isinstance(value, bool) or not isinstance(value, int):
            self.report("bad-type", f"'{where[-1]}' must be an integer", where)
        elif not low <= value <= high:
            self.report(code, f"'{where[-1]}' must be from {low} to {high}", where)
        else:
            return value
        return None

    def number(self, where: Where) -> float | None:
        """A finite number of float32's range, inf or -inf."""
        value = self.value(where)
        if isinstance(value, str):
            value = _INFINITE.get(value, value)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            self.report("bad-type", f"{quote(value)} is not a number", where)
        elif abs(value) > LARGEST and not (isinstance(value, float) and math.isinf(value)):
            self.report("bad-number", f"{quote(value)} is too large for float32", where)
        else:
            return float(value)
        return None

    def choice(
        self, where: Where, options: Iterable[str], others: Mapping[str, str] = NO_OTHERS
    ) -> str | None:
        """others: what options are called elsewhere, for the help."""
        value, options = self.value(where), list(options)
        if isinstance(value, str) and value in options:
            return value
        shown = quote(value) if isinstance(value, str | int | float) else "this"
        meant = others.get(str(value).lower(), str(value))
        help = did_you_mean(meant, options) if isinstance(value, str) else None
        self.report("bad-value", f"{shown} is not one of {one_of(options)}", where, help)
        return None
