"""What the pages of measured times share: their method, floors at one bandwidth, commands."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from kvgen.bench import Report, Row
from kvgen.timing.drafts import DraftRow

AnyRow = TypeVar("AnyRow", Row, DraftRow)

METHOD = """\
## Method

Measured on {device} ({versions}), {once}, by

    {command}

[method.md](method.md) says how times, floors and errors are taken, and what the columns are. Here:

- {layers} layers{fewer}; floors at this GPU's copy bandwidth of {copy:.0f} GB/s read and written.
"""


def report_of(data: dict[str, Any]) -> Report:
    rows = tuple(Row(**row) for row in data["rows"])
    drafts = tuple(DraftRow(**row) for row in data.get("drafts", ()))
    return Report(**{**data, "rows": rows, "drafts": drafts})


def level(reports: Sequence[Report]) -> list[Report]:
    """The reports with floors at one bandwidth, the highest of them: a copy is at times slower."""
    best = max(report.copy_gbs for report in reports)
    found: list[Report] = []
    for report in reports:
        ratio = report.copy_gbs / best
        rows = tuple(lowered(row, ratio) for row in report.rows)
        drafts = tuple(lowered(row, ratio) for row in report.drafts)
        found.append(replace(report, rows=rows, drafts=drafts))
    return found


def lowered(row: AnyRow, ratio: float) -> AnyRow:
    return replace(row, floor_us=row.floor_us * ratio, share=row.share * ratio)


def method(
    *, device: str, versions: str, once: str, command: str, layers: int, least: int, copy: float
) -> str:
    """What a page says of its own run. least: layers of the row with the fewest."""
    fewer = f" ({least} where memory is short)" if least < layers else ""
    return METHOD.format(
        device=device, versions=versions, once=once, command=command, layers=layers, fewer=fewer,
        copy=copy,
    )  # fmt: skip


def table(lines: Sequence[Sequence[str]]) -> str:
    """Cells as Markdown has them; the second line is that of dashes."""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def wrapped(words: Sequence[str]) -> str:
    """A command on several lines, as a shell takes it."""
    return " \\\n      ".join(textwrap.wrap(" ".join(words), 88, break_on_hyphens=False))
