"""Records as text: one JSON document with one record a line, whole or damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kvgen.wisdom.reading import RecordError, from_data
from kvgen.wisdom.record import Record, merge

VERSION = 1
# the first line of a document, which a torn file still has
HEAD = re.compile(r'\{"kvgen_wisdom": (\d{1,9})(?:, "spec": ("[^"\\]*"))?, "records": \[')


@dataclass(frozen=True)
class Document:
    """What could be read. version: as the text says. problem: what is wrong with it, or None."""

    records: tuple[Record, ...]
    version: int = VERSION
    problem: str | None = None

    @property
    def is_future(self) -> bool:
        """Whether a later kvgen wrote it, in a form that this one does not know."""
        return self.version > VERSION


def text_of(records: Iterable[Record], spec: str | None = None) -> str:
    """A document of records, sorted, one a line; of one spec, or each with its own."""
    named = "" if spec is None else f', "spec": {json.dumps(spec)}'
    lines = []
    for record in merge(records, ()):
        data = record.data() if spec is not None else {"spec": record.spec, **record.data()}
        lines.append(json.dumps(data))
    inner = ",\n".join(lines)
    return f'{{"kvgen_wisdom": {VERSION}{named}, "records": [\n{inner}\n]}}\n'


def parsed(data: bytes) -> Document:
    """Read a document. Of a damaged one every record is kept that is whole and legal."""
    try:
        text = data.decode()
        tree = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        return _lines(data.decode(errors="replace"), _why(error))
    version = tree.get("kvgen_wisdom") if isinstance(tree, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        return Document((), problem="it is no kvgen wisdom")
    if version > VERSION:
        return Document((), version)
    if not isinstance(tree.get("records"), list):
        return Document((), problem="it has no list of records")
    return _records([(i, each) for i, each in enumerate(tree["records"], 1)], tree.get("spec"))


def _records(items: list[tuple[int, Any]], spec: Any) -> Document:
    found: list[Record] = []
    problem = None
    for number, item in items:
        try:
            found.append(from_data(item, spec))
        except RecordError as error:
            problem = problem or f"record {number}: {error}"
    return Document(tuple(merge(found, ())), problem=problem)


def _lines(text: str, problem: str) -> Document:
    """A document that is no JSON, for example because it was torn: the lines that are whole."""
    head = HEAD.match(text)
    if head is None:
        return Document((), problem=problem)
    if int(head[1]) > VERSION:
        return Document((), int(head[1]))
    items = []
    for number, line in enumerate(text.splitlines()[1:], 1):
        try:
            items.append((number, json.loads(line.strip().rstrip(","), object_pairs_hook=_once)))
        except (ValueError, RecursionError):
            continue
    spec = json.loads(head[2]) if head[2] else None
    return Document(_records(items, spec).records, problem=problem)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table, of which no name stands there twice: either value might be meant."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in a table"[:100])
    return table


def _why(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"line {error.lineno}: {error.msg}"
        case UnicodeDecodeError():
            return "it is no UTF-8 text"
        case RecursionError():
            return "it is nested too deeply"
    return str(error)
