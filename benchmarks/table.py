"""Write docs/performance-served.md: shipped specs' buffered and plain decode on this machine's GPU.

    python benchmarks/table.py [--states float32,split] [--batches 1,16,64,256] [SPEC…]
    python benchmarks/table.py --from docs/data/h100.json      the page again, from kept figures

Times are `kvgen bench`'s: see kvgen/bench.py for the method. Figures are figures.py's. Beside other
libraries' kernels, in docs/performance.md, times are peers.py's.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kvgen import compiler, shipped
from kvgen.bench import Report, Row, bench
from kvgen.timing.drafts import DraftRow

AnyRow = TypeVar("AnyRow", Row, DraftRow)

TIMED = """\
- **What is timed**: whole model steps, replayed as a CUDA graph: {layers} layers{fewer} with
  distinct states, so that a step finds none in the cache unless all fit into it; slots in random
  order, inputs random and bfloat16. Times are microseconds for one layer, with its share of the
  `advance` that ends the step. Layers stand back to back: the projections and convolutions that a
  model has between them are not there."""

HEADER = """# {title}

{intro}

![{alt}](figures/{figure})

## Method

Measured on {device} ({versions}), once, by

    {command}

{timed}
- **Folds are included**: cursors are staggered over the buffer's phases and move inside the graph.
  *buffered* is the median of seven runs of whole cycles of the buffer, ± the spread of the middle
  five. *worst* is the one step in which every row folds at once.
- *plain* is the module's own `recurrent`, which reads and writes the state for every token, timed
  in the same process. No other library is in these tables. *gain* is plain over buffered.
- *floor* is the time of the fewest bytes a step can move (the state read once and written once in
  L tokens, records at their mean length, inputs and output) at this GPU's copy bandwidth,
  {copy:.0f} GB/s read and written: the fastest of the copies timed beside the tables, of which the
  slowest had {slowest:.0f}. *share* is floor over buffered. Launches are not counted in a floor.
- *error* is ‖x − x*‖₂ / ‖x*‖₂ of a row's outputs against float64, the worst of 40 tokens and two
  rows; rounding the output to bfloat16 alone makes 1.7e-03 of it.
- **Configurations are rules of thumb**, chosen by batch; nothing has been tuned.

**At small batches** a step is bound by latency, not by bytes: by loads that wait for each other
and by sums over the buffer, of which the plain kernel has fewer. It is ahead today at batch 1 for
almost every recurrence, at 4 for some, and at 16 still for a few. Where it is, call `recurrent`,
which works on the same cache; the buffer pays where the bytes of the states decide.
"""

SERVED = "performance-served.md"

# what stands over the tables of a page: title, introduction, figure, its text
PAGES = {
    SERVED: (
        "Performance of what is served most",
        "The four recurrences that are served most, in three storage modes. The other recurrences "
        "are in\n[performance-family.md](performance-family.md), errors over thousands of tokens "
        "in [drift.md](drift.md).",
        "time.svg",
        "time of a layer against batch: buffered with a float32 and a split state, plain kernel, "
        "floor",
    ),
    "performance-family.md": (
        "Performance of the whole family",
        "Every other shipped recurrence with a float32 state. The four that are served most, in "
        f"more storage\nmodes, are in [{SERVED}]({SERVED}).",
        "gain.svg",
        "gain of the buffered decode over the plain kernel for every shipped recurrence",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", metavar="SPEC")
    parser.add_argument("--states", default="float32,split,bfloat16")
    parser.add_argument("--batches", default="1,4,16,64,256")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--out", type=Path, default=Path("docs", SERVED))
    parser.add_argument("--json", type=Path, help="write the figures too")
    parser.add_argument(
        "--from", dest="kept", type=Path, help="write the page from such figures; measure nothing"
    )
    args = parser.parse_args()
    if args.kept:
        write(args.out, read(args.kept), args.kept)
        return
    names = args.specs or [found.name for found in shipped.shipped()]
    batches = [int(batch) for batch in args.batches.split(",")]
    started = time.time()
    reports: list[Report] = []
    for name in names:
        for state in args.states.split(","):
            analysis = compiler.analyse(shipped.resolve(name), {"storage.state": state})
            try:
                reports.append(bench(analysis, batches, args.layers))
            except RuntimeError as error:
                print(f"{name} {state}: {error}", file=sys.stderr, flush=True)
                continue
            print(f"{time.time() - started:5.0f} s  {name} {state}", file=sys.stderr, flush=True)
            write(args.out, reports, args.json)
            if args.json:
                args.json.write_text(json.dumps([report.data() for report in reports]))


def read(path: Path) -> list[Report]:
    """Figures as `--json` has written them."""
    return [report_of(data) for data in json.loads(path.read_text(encoding="utf-8"))]


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


def write(path: Path, reports: Sequence[Report], kept: Path | None) -> None:
    """The page, whole, after every report: what was measured is kept when time runs out."""
    lines = [heading(path, reports, kept)]
    for report in level(reports):
        lines.append(f"## {report.spec}, {report.storage} state, buffer {report.buffer}\n")
        lines.append("| batch | buffered | worst | floor | share | error | plain | error | gain |")
        lines.append("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        rows = {(row.kernel, row.batch): row for row in report.rows}
        for batch in dict.fromkeys(row.batch for row in report.rows):
            decode, plain = rows["decode", batch], rows["recurrent", batch]
            lines.append(
                f"| {batch} | {decode.us:.2f} ± {decode.spread:.2f} | {decode.worst_us:.2f} "
                f"| {decode.floor_us:.2f} | {decode.share:.0%} | {decode.error:.1e} "
                f"| {plain.us:.2f} | {plain.error:.1e} | {plain.us / decode.us:.2f} |"
            )
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


def heading(path: Path, reports: Sequence[Report], kept: Path | None) -> str:
    """What stands over the tables."""
    first, rows = reports[0], [row for report in reports for row in report.rows]
    title, intro, figure, alt = PAGES.get(path.name, PAGES[SERVED])
    bandwidths = [report.copy_gbs for report in reports]
    command = ["python benchmarks/table.py"]
    command += ["--states", ",".join(dict.fromkeys(report.storage for report in reports))]
    command += ["--batches", ",".join(dict.fromkeys(str(row.batch) for row in rows))]
    command += ["--out", str(path), *(["--json", str(kept)] if kept else [])]
    command += list(dict.fromkeys(report.spec for report in reports))
    return HEADER.format(
        title=title,
        intro=intro,
        figure=figure,
        alt=alt,
        device=first.device,
        versions=first.versions,
        command=wrapped(command),
        timed=timed(reports),
        copy=max(bandwidths),
        slowest=min(bandwidths),
    )


def timed(reports: Sequence[Report]) -> str:
    """What a time is of, as a page's method says it."""
    layers = reports[0].layers
    least = min(row.layers for report in reports for row in report.rows)
    fewer = f" ({least} where memory is short)" if least < layers else ""
    return TIMED.format(layers=layers, fewer=fewer)


def wrapped(words: Sequence[str]) -> str:
    """A command on several lines, as a shell takes it."""
    return " \\\n      ".join(textwrap.wrap(" ".join(words), 88, break_on_hyphens=False))


if __name__ == "__main__":
    main()
