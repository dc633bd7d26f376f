"""What a spec loses by the formats that it asks for."""

from __future__ import annotations

from collections.abc import Iterator

from kvgen.diagnostics import Diagnostic, warning
from kvgen.language.storage import Storage


def warnings(storage: Storage) -> Iterator[Diagnostic]:
    """A warning for each, where the file says so."""
    if storage.records.warning is not None:
        message, help = storage.records.warning
        yield warning("rounded-records", message, storage.span, help)
