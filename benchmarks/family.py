"""Write the pages of recurrences before and after tuning, one for each GPU.

    kvgen tune --gpu --effort quick --json > run.json
    python benchmarks/family.py --add run.json --by "kvgen tune --gpu --effort quick"
    python benchmarks/family.py                 the page again, from the kept figures
    python benchmarks/family.py --gpu h200      another GPU's

Of a recurrence, its heads and a state the last run counts. Figures are drawn by figures.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pages
from benchmarks.pages import method, wrapped
from kvgen import compiler, shipped
from kvgen.formats.registry import STATE
from kvgen.wisdom.record import EFFORTS

DOCS = Path(__file__).resolve().parent.parent / "docs"
UNTUNED = "untuned"

H100 = """# Performance of the whole family

Every shipped recurrence before and after tuning, single tokens: buffered and with its own plain
kernel. Those that are served most stand beside other libraries in
[performance.md](performance.md); drafts, prompts and short contexts are in
[performance-drafts.md](performance-drafts.md), errors over thousands of tokens in
[drift.md](drift.md). The rules of thumb for untuned modules have been better since these figures
were measured: what is left for tuning to gain is in [performance-h200.md](performance-h200.md).

![gain of buffered over plain for every shipped recurrence](figures/gain.svg)
"""

H200 = """# Performance on an H200

The recurrences that are served most before and after tuning, single tokens: buffered and with their
own plain kernels. The whole family on an H100 is in [performance-family.md](performance-family.md).
"""

NOTES = """\
- *untuned* is what a module {takes}. Recurrences without tuned configurations are here, too, each
  as it comes, measured earlier.

## In short

The geometric mean over all batches of what tuning gains, of how much faster buffered is than plain
(the faster of the two at every batch, over plain), and the share of the floor at the largest batch.

"""


@dataclass(frozen=True)
class Page:
    """A GPU's figures, and what is written of them. intro: what stands before the method."""

    gpu: str
    kept: Path
    out: Path
    intro: str


PAGES = {
    "h100": Page(
        "NVIDIA H100 80GB HBM3", DOCS / "data/h100-tuned.json", DOCS / "performance-family.md", H100
    ),
    "h200": Page(
        "NVIDIA H200", DOCS / "data/h200-tuned.json", DOCS / "performance-h200.md", H200
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Whole steps at a batch, microseconds of a layer, of the buffered decode and the plain kernel.
    before: untuned. error: of the tuned decode."""

    batch: int
    us: float
    before: float
    floor_us: float
    error: float
    plain_us: float
    plain_before: float
    layers: int

    @property
    def best_us(self) -> float:
        return min(self.us, self.plain_us)


@dataclass(frozen=True)
class Tuned:
    """A recurrence with a state in one storage. by: the command that measured it; effort: the least
    of its records, UNTUNED where it was measured as it comes; then `us` is `before`. heads: where
    they are not those of the shipped spec, but a GPU's share of them. again: the command of a later
    run that its times are of, if there was one."""

    spec: str
    storage: str
    gpu: str
    versions: str
    copy_gbs: float
    buffer: int
    effort: str
    by: str
    date: str
    rows: tuple[Row, ...]
    heads: str = ""
    again: str = ""

    @property
    def name(self) -> tuple[str, str, str]:
        return self.spec, self.storage, self.heads

    @property
    def title(self) -> str:
        return f"{self.spec}, {self.heads}" if self.heads else self.spec

    @classmethod
    def of(cls, data: dict[str, Any]) -> Tuned:
        return cls(**{**data, "rows": tuple(Row(**row) for row in data["rows"])})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpu", choices=PAGES, default="h100", help="whose page")
    parser.add_argument("--kept", type=Path, help="all figures, if not in docs/data")
    parser.add_argument(
        "--add", type=Path, action="append", default=[], metavar="FILE",
        help="what `kvgen tune --json` has printed",
    )  # fmt: skip
    parser.add_argument("--by", default="kvgen tune --gpu", help="the command that was")
    parser.add_argument("--out", type=Path, help="the page, if not in docs")
    args = parser.parse_args()
    one = PAGES[args.gpu]
    kept, out = args.kept or one.kept, args.out or one.out
    found = {tuned.name: tuned for tuned in read(kept)} if kept.is_file() else {}
    for file in args.add:
        for report in json.loads(file.read_text(encoding="utf-8")):
            if report["gpu"] != one.gpu:
                parser.error(f"{file} is of {report['gpu']}, this page of {one.gpu} (--gpu)")
            tuned = tuned_of(report, args.by)
            if tuned is not None:
                found[tuned.name] = tuned
    all_of_them = sorted(
        found.values(),
        key=lambda tuned: (tuned.storage != STATE.name, tuned.effort == UNTUNED, tuned.name),
    )
    if args.add:
        write(kept, all_of_them)
    out.write_text(page(level(all_of_them), one.intro), encoding="utf-8")


def read(path: Path) -> list[Tuned]:
    return [Tuned.of(data) for data in json.loads(path.read_text(encoding="utf-8"))]


def write(path: Path, found: Iterable[Tuned]) -> None:
    path.write_text(json.dumps([asdict(tuned) for tuned in found]), encoding="utf-8")


def tuned_of(report: dict[str, Any], by: str) -> Tuned | None:
    """What a report of the tuner has of whole steps, before and after; None where it has none: what
    was known already is not timed again, and what was cut short is a kernel's time alone."""
    timed = {
        (record["key"]["kernel"], record["at"]["batch"]): record
        for record in report["records"]
        if record.get("untuned_us") and record["at"].get("cut") != 1
    }
    pairs = {
        batch: (record, timed["recurrent", batch])
        for (kernel, batch), record in sorted(timed.items())
        if kernel == "decode" and ("recurrent", batch) in timed
    }
    if not pairs:
        return None
    first, _ = pairs[min(pairs)]
    versions = (f"{name} {first['env'][name]}" for name in ("torch", "triton"))
    efforts = [decode["effort"] for decode, _ in pairs.values()]
    return Tuned(
        report["spec"], report["storage"], report["gpu"], ", ".join(versions), report["copy_gbs"],
        report["buffer"], min(efforts, key=EFFORTS.index), by, first["date"],
        tuple(row_of(*pair) for pair in pairs.values()),
        heads_of(report["spec"], first["key"]["shape"]),
    )  # fmt: skip


def heads_of(name: str, shape: dict[str, int]) -> str:
    """A share of the heads, as tensor parallelism deals them; nothing where they are all."""
    if shipped.argument(name) != name:
        return ""
    spec = compiler.analyse(shipped.resolve(name)).spec
    heads = {axis: shape[axis] for axis in ("H", "HV")}
    if all(spec.size(axis) == count for axis, count in heads.items()):
        return ""
    return ", ".join(f"{axis} {count}" for axis, count in heads.items())


def row_of(decode: dict[str, Any], plain: dict[str, Any]) -> Row:
    return Row(
        decode["at"]["batch"], decode["us"][1], decode["untuned_us"], decode["floor_us"],
        decode["error"], plain["us"][1], plain["untuned_us"], decode["at"]["layers"],
    )  # fmt: skip


def level(found: Sequence[Tuned]) -> list[Tuned]:
    """With floors at one bandwidth, the highest of them: a copy is at times slower."""
    best = max(tuned.copy_gbs for tuned in found)
    levelled: list[Tuned] = []
    for tuned in found:
        ratio = tuned.copy_gbs / best
        rows = tuple(replace(row, floor_us=row.floor_us * ratio) for row in tuned.rows)
        levelled.append(replace(tuned, copy_gbs=best, rows=rows))
    return levelled


# the page ----------------------------------------------------------------------------------------


def page(found: Sequence[Tuned], intro: str) -> str:
    parts = [intro + heading(found) + overview(found)]
    for tuned in found:
        how = f"Measured with {tuned.effort} effort on {tuned.date}."
        if tuned.effort == UNTUNED:
            how = f"Not tuned; measured on {tuned.date}."
        title = f"## {tuned.title}, {tuned.storage} state, buffer {tuned.buffer}"
        parts.append(f"{title}\n\n{table(tuned)}\n{how}\n")
    return "\n".join(parts)


def heading(found: Sequence[Tuned]) -> str:
    first = found[0]
    layers = [row.layers for tuned in found for row in tuned.rows]
    commands = list(dict.fromkeys(tuned.by for tuned in found))
    again = "".join(
        f"\n\nand timed once more, in one run, by\n\n    {command}"
        for command in dict.fromkeys(tuned.again for tuned in found if tuned.again)
    )
    own = method(
        device=first.gpu,
        versions="; ".join(dict.fromkeys(tuned.versions for tuned in found)),
        once="each recurrence once",
        command="\n    ".join(wrapped([command]) for command in commands) + again,
        layers=max(layers),
        least=min(layers),
        copy=first.copy_gbs,
    )
    return "\n" + own + NOTES.format(takes="takes now" if again else "took then")


def overview(found: Sequence[Tuned]) -> str:
    lines = [("recurrence", "state", "tuned over untuned", "over plain", "share"), ("---",) * 2]
    lines[1] += ("---:",) * 3
    for tuned in found:
        gain = f"{mean(row.before / row.us for row in tuned.rows):.2f}"
        lines.append((
            tuned.title, tuned.storage, "–" if tuned.effort == UNTUNED else gain,
            f"{mean(row.plain_us / row.best_us for row in tuned.rows):.2f}",
            f"{tuned.rows[-1].floor_us / tuned.rows[-1].us:.0%}",
        ))  # fmt: skip
    every = [row for tuned in found if tuned.effort != UNTUNED for row in tuned.rows]
    lines.append((
        "**all that are tuned**", "", f"{mean(row.before / row.us for row in every):.2f}",
        f"{mean(row.plain_us / row.best_us for row in every):.2f}", "",
    ))  # fmt: skip
    return pages.table(lines)


def mean(ratios: Any) -> float:
    """Geometric."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs))


def table(tuned: Tuned) -> str:
    lines = [(
        "batch", "untuned", "tuned", "gain", "floor", "share", "error", "plain, untuned",
        "plain, tuned", "over plain",
    )]  # fmt: skip
    lines.append(("---:",) * len(lines[0]))
    for row in tuned.rows:
        us, plain = f"{row.us:.2f}", f"{row.plain_us:.2f}"
        us, plain = (f"**{us}**", plain) if row.us <= row.plain_us else (us, f"**{plain}**")
        buffered = [f"{row.before:.2f}", us, f"{row.before / row.us:.2f}"]
        plains = [f"{row.plain_before:.2f}", plain]
        if tuned.effort == UNTUNED:
            buffered, plains = [us, "–", "–"], [plain, "–"]
        lines.append((
            str(row.batch), *buffered, f"{row.floor_us:.2f}", f"{row.floor_us / row.us:.0%}",
            f"{row.error:.1e}", *plains, f"{row.plain_us / row.us:.2f}",
        ))  # fmt: skip
    return pages.table(lines)


if __name__ == "__main__":
    main()
