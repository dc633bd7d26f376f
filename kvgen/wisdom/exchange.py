"""Wisdom from and for other machines: files and folders of it, read whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from kvgen import files
from kvgen.wisdom.document import VERSION, Document, parsed, text_of
from kvgen.wisdom.record import Record, merge


class ExchangeError(Exception):
    """A file that is no wisdom, or is damaged, or is of a later version: none of it is used."""


def read(path: Path) -> list[Record]:
    """The records of a file, or of all files of a folder of the store. Raises ExchangeError."""
    if not path.is_dir():
        return list(_whole(path, files.read_given).records)
    paths = sorted(p for p in path.rglob("*.json") if not p.name.startswith("."))
    if not paths:
        raise ExchangeError(f"'{path}' holds no wisdom")
    return merged(_whole(each, files.read).records for each in paths)


def merged(sources: Iterable[Iterable[Record]]) -> list[Record]:
    """Of each key the best record of all sources, whatever their order."""
    found: list[Record] = []
    for records in sources:
        found = merge(found, records)
    return found


def write(path: Path, records: Iterable[Record]) -> None:
    """A file for another machine. Raises ExchangeError and OSError, and changes nothing then."""
    try:
        there = parsed(files.read(path))
    except (FileNotFoundError, files.NotPlainError):
        there = Document(())
    if there.is_future:
        raise ExchangeError(f"'{path}' is of wisdom version {there.version} and stays as it is")
    files.write(path, text_of(records).encode())


def _whole(path: Path, read: Callable[[Path], bytes]) -> Document:
    try:
        document = parsed(read(path))
    except OSError as error:
        raise ExchangeError(f"cannot read '{path}': {error.strerror}") from None
    if document.is_future:
        known = f"this kvgen reads version {VERSION}"
        raise ExchangeError(f"'{path}' is of wisdom version {document.version}; {known}")
    if document.problem is not None:
        raise ExchangeError(f"'{path}' is broken: {document.problem}")
    return document
