"""docs/performance-windows.md, which is written by hand, says what the figures in docs/data say."""

from __future__ import annotations

import json

import pytest
from places import ROOT

DOCS = ROOT / "docs"
PAGE = DOCS / "performance-windows.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the pages are in the repository only")


def figures(name: str) -> list[dict[str, object]]:
    return json.loads((DOCS / "data" / name).read_text(encoding="utf-8"))["rows"]


def test_drafts_as_columns() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for row in figures("h200-chunks.json"):
        cells = " | ".join(f"{row[name]:.2f}" for name in ("decode", "today", "columns"))
        assert f"| {row['batch']} | {cells} |" in text


def test_prompts() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for row in figures("h200-prompts.json"):
        assert f"{row['us']:,.0f} ± {row['spread']:.0f}" in text, row


def test_prompts_in_blocks() -> None:
    """Of all that was tried the fastest, beside the tree before and FLA."""
    text = PAGE.read_text(encoding="utf-8")
    times: dict[tuple[object, ...], dict[str, dict[str, object]]] = {}
    for row in figures("h200-blocks.json"):
        if "us" in row:
            prompt = row["spec"], row["rows"], row["tokens"]
            times.setdefault(prompt, {})[str(row["which"])] = row
    for found in times.values():
        ours = [each for which, each in found.items() if which not in ("old", "FLA")]
        best = min(ours, key=lambda each: float(str(each["us"])))
        cells = (
            f"{each['us']:,.0f} ± {each['spread']:.0f}"
            for each in (found["old"], best, found["FLA"])
        )
        assert f"| {' | '.join(cells)} |" in text, best
