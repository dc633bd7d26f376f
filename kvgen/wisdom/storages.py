"""How the forms of records keep their state, in words: a form's hash tells nobody."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from kvgen.analysis import Analysis
from kvgen.diagnostics import SpecError
from kvgen.language.storage import CHOICES, Storage
from kvgen.shipped import SPECS
from kvgen.wisdom.identity import form_hash
from kvgen.wisdom.record import Record

Analyse = Callable[[Path, dict[str, str]], Analysis]
# spec, form
Whose = tuple[str, str]


def storages(records: Iterable[Record], analyse: Analyse) -> dict[Whose, Mapping[str, str]]:
    """What records say of it or, where they say nothing, which storage of a shipped spec has their
    form; nothing where none has."""
    found: dict[Whose, Mapping[str, str]] = {}
    for record in records:
        whose = record.spec, record.key.form
        if not found.get(whose):
            found[whose] = record.storage or _tried(record, analyse)
    return found


def words(storage: Mapping[str, str]) -> str:
    """The state's, and what else is not as specs have it that say nothing."""
    usual = Storage().said
    rest = (name for name in storage if name != "state" and storage[name] != usual.get(name))
    return ", ".join([storage.get("state", "?"), *(f"{name} {storage[name]}" for name in rest)])


def _tried(record: Record, analyse: Analyse) -> Mapping[str, str]:
    path = SPECS / f"{record.spec}.yaml"
    if not path.is_file():
        return {}
    shape = record.key.shape
    sizes = {f"sizes.{name}": str(getattr(shape, name)) for name in ("H", "HV", "K", "V")}
    for values in itertools.product(*CHOICES.values()):
        chosen = dict(zip(CHOICES, values, strict=True))
        overrides = sizes | {f"storage.{name}": value for name, value in chosen.items()}
        try:
            analysis = analyse(path, overrides)
        except SpecError:
            continue
        if form_hash(analysis) == record.key.form:
            return analysis.spec.storage.said
    return {}
