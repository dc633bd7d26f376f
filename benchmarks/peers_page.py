"""docs/performance.md and performance-peers-h200.md: tuned times beside other libraries' and the
goals.

    python benchmarks/peers_page.py docs/data/h100-peers.json      the page from kept figures
    python benchmarks/peers_page.py docs/data/h200-peers.json --out docs/performance-peers-h200.md

peers.py measures. The figures are those of `kvgen bench --json`, a report for each spec and state.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pages
from benchmarks.pages import level, method, wrapped
from kvgen.benching.page import figures
from kvgen.benching.report import OURS, Report, Row

DOCS = Path(__file__).resolve().parent.parent / "docs"

# microseconds for a layer, by batch
Goals = Mapping[tuple[str, str], Mapping[int, float]]


@dataclass(frozen=True)
class Page:
    """What is a GPU's own of a page. figure: the file's name in docs/figures. goals: by spec and
    state."""

    title: str
    figure: str
    goals: Goals


USUAL = Page(
    "Performance",
    "peers",
    {
        ("gated_deltanet", "split"): {1: 2.4, 4: 3.7, 16: 9.5, 64: 36, 256: 135},
        ("gated_deltanet", "bfloat16"): {1: 2.2, 4: 3.3, 16: 8.5, 64: 32, 256: 122},
    },
)
# by what stands in a GPU's name
PAGES = {
    "H200": Page(
        "Performance on an H200, beside other libraries",
        "peers-h200",
        {
            ("gated_deltanet", "split"): {1: 2.6, 4: 4.2, 16: 8.6, 64: 28, 256: 99},
            ("gated_deltanet", "bfloat16"): {1: 2.2, 4: 3.8, 16: 7.8, 64: 25, 256: 90},
            ("kimi_delta_attention", "bfloat16"): {1: 2.7, 4: 4.4, 16: 9.0, 64: 28, 256: 101},
        },
    )
}

HEADER = """# {title}

The recurrences that are served most, {tuned}, beside the decode kernels of other libraries.
All recurrences, before and after tuning, are in [performance-family.md](performance-family.md),
drafts and prompts in [performance-drafts.md](performance-drafts.md), errors over thousands of
tokens in [drift.md](drift.md).

![time of a layer against batch, {spec}: ours, other libraries' kernels, floor]({figure})

{method}- Other libraries: {libraries}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kept", type=Path, help="figures as peers.py has written them")
    parser.add_argument("--out", type=Path, default=DOCS / "performance.md")
    args = parser.parse_args()
    write(args.out, *read(args.kept))


def read(path: Path) -> tuple[list[Report], str]:
    """The reports, and the command that made them."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return [Report.of(each) for each in data["reports"]], data["command"]


def write(path: Path, reports: Sequence[Report], command: str) -> None:
    """The page; its figure is figures.py's."""
    path.write_text(page(level(list(reports)), command), encoding="utf-8")


def page_of(report: Report) -> Page:
    return next((page for gpu, page in PAGES.items() if gpu in report.device), USUAL)


def page(reports: Sequence[Report], command: str) -> str:
    """The whole page; the reports have floors at one bandwidth."""
    parts = [heading(reports, command)]
    for report in reports:
        by = "tuned" if report.tuned else "by rules of thumb"
        parts.append(f"## {report.spec}, {report.storage} state, buffer {report.buffer}, {by}\n")
        parts.append(table(report))
        left_out = [f"Not here: {each.peer} ({each.reason})." for each in report.absent]
        parts += [textwrap.fill(" ".join(left_out), 100) + "\n"] if left_out else []
    return "\n".join(parts)


def heading(reports: Sequence[Report], command: str) -> str:
    first = reports[0]
    versions = {peer.library: peer.version for report in reports for peer in report.peers}
    named = [f"{figures.TITLES[library]} {version}" for library, version in versions.items()]
    tuned = "tuned" if all(report.tuned for report in reports) else "not all of them tuned"
    return HEADER.format(
        tuned=tuned,
        spec=first.spec,
        title=page_of(first).title,
        figure=f"figures/{page_of(first).figure}.svg",
        method=method(
            device=first.device,
            versions=first.versions,
            once=f"once, on {first.date}",
            command=wrapped([command]),
            layers=first.layers,
            least=min(row.layers for report in reports for row in report.rows),
            copy=max(report.copy_gbs for report in reports),
        ),
        libraries=", ".join(named) or "none",
    )


def table(report: Report) -> str:
    """A line for each batch, and one of errors."""
    found = {each.name: {row.batch: row for row in each.rows} for each in figures.series(report)}
    own = [name for name, rows in found.items() if library(rows) == OURS]
    others = [name for name in found if name not in own]
    goals = page_of(report).goals.get((report.spec, report.storage), {})
    head = ["batch", *(name.removeprefix(f"{OURS}, ") for name in own)]
    head += ["goal"] if goals else []
    head += ["floor", "share", *others, *(["ahead"] if others else [])]
    lines = [head, ["---:"] * len(head)]
    for batch in figures.batches(report):
        mine = [found[name][batch] for name in own]
        theirs = {name: found[name].get(batch) for name in others}
        fastest = min(mine, key=lambda row: row.us)
        cells = [f"**{row.us:.2f}**" if row is fastest else f"{row.us:.2f}" for row in mine]
        cells += [f"{goals[batch]:g}" if batch in goals else "–"] if goals else []
        buffered = next(row for row in mine if row.kernel == "decode")
        cells += [f"{buffered.floor_us:.2f}", f"{buffered.share:.0%}"]
        cells += [f"{row.us:.2f}" if row else "–" for row in theirs.values()]
        cells += [ahead(fastest, theirs)] if others else []
        lines.append([str(batch), *cells])
    last = ["error", *(error(found[name]) for name in own)]
    last += [""] * (2 + bool(goals)) + [error(found[name]) for name in others]
    lines.append(last + [""] * bool(others))
    return pages.table(lines)


def library(rows: dict[int, Row]) -> str:
    return next(iter(rows.values())).library


def error(rows: dict[int, Row]) -> str:
    return f"{next(iter(rows.values())).error:.1e}"


def ahead(fastest: Row, theirs: dict[str, Row | None]) -> str:
    """How many times as fast ours is; the other's name where that is faster."""
    times = {name: row.us for name, row in theirs.items() if row}
    if not times:
        return "–"
    name = min(times, key=lambda name: times[name])
    ratio = f"{times[name] / fastest.us:.2f}"
    return ratio if times[name] >= fastest.us else f"{ratio}: **{name} is ahead**"


if __name__ == "__main__":
    main()
