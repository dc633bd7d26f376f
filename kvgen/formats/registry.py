"""All formats by name, in the order in which a spec's author is told of them."""

from __future__ import annotations

import importlib
import pkgutil
from operator import attrgetter
from types import ModuleType
from typing import Any

from kvgen.formats import records, states
from kvgen.formats.record import RecordFormat
from kvgen.formats.state import StateFormat


def _formats(folder: ModuleType) -> dict[str, Any]:
    """The object of every file of a folder: a format is known by its file alone."""
    names = [each.name for each in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}.")]
    found = [importlib.import_module(name).FORMAT for name in names]
    return {each.name: each for each in sorted(found, key=attrgetter("rank"))}


STATES: dict[str, StateFormat] = _formats(states)
RECORDS: dict[str, RecordFormat] = _formats(records)
# what a spec means that names none
STATE = next(iter(STATES.values()))
RECORD = next(iter(RECORDS.values()))
