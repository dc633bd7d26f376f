"""The table of even steps in docs/serving.md has the figures that were measured."""

from __future__ import annotations

import json
import re

from places import ROOT

NAMES = {"Gated DeltaNet": "gated_deltanet", "Kimi delta attention": "kimi_delta_attention"}
ROW = re.compile(r"\| ([\w ]+), (\w+) \| (\d+) \|(.*)\|")


def test_the_table_has_the_figures_that_were_measured() -> None:
    data = json.loads((ROOT / "docs/data/h200-even.json").read_text(encoding="utf-8"))
    kept = {(r["spec"], r["state"], r["batch"], r["fold"]): r for r in data["rows"]}
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    found = 0
    for name, state, batch, cells in ROW.findall(page):
        shown = [cell.strip() for cell in cells.split("|")]
        wanted: list[str] = []
        for fold in ("parts", "row"):
            row = kept.pop((NAMES[name], state, int(batch), fold))
            wanted += [f"{row['median']:.1f} / {row['slowest']:.1f}", f"{row['ratio']:.2f}"]
        assert shown == wanted, (name, state, batch)
        found += 1
    assert found and not kept
