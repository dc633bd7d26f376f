"""Time a GPU's tuned and untuned modules once more, all of a page in one run.

    python benchmarks/again.py --gpu h200 --out again.json     on that GPU
    mv again.json docs/data/h200-tuned.json && python benchmarks/family.py --gpu h200

For the rules of thumb that untuned modules go by change, and what was tuned stays. Configurations
and the buffer's length are those that `kvgen compile` bakes in; nothing is searched.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.family import PAGES, UNTUNED, Row, Tuned, read, write
from kvgen import compiler
from kvgen.codegen.cost import buffer_length
from kvgen.shipped import resolve
from kvgen.tuning import space
from kvgen.tuning.evaluate import Programs
from kvgen.tuning.plan import SINGLE, Goal, key
from kvgen.tuning.tune import Tuner, make_job
from kvgen.tuning.workers import Job
from kvgen.wisdom.store import Store

Entry = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One recurrence of a page. entries: batch -> tuned and untuned decodes, then plain kernels."""

    tuned: Tuned
    job: Job
    entries: dict[int, list[Entry]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpu", choices=PAGES, default="h100", help="whose page")
    parser.add_argument("--out", type=Path, required=True, help="all figures of the page")
    args = parser.parse_args()
    page = PAGES[args.gpu]
    kept = read(page.kept)
    command = f"python benchmarks/again.py --gpu {args.gpu}"
    with Tuner(print) as tuner:
        gpu = tuner.begin()
        if gpu.name != page.gpu:
            parser.error(f"this is {gpu.name}, the page is of {page.gpu} (--gpu)")
        tasks = [task_of(tuned) for tuned in kept if tuned.effort != UNTUNED]
        programs = [Programs(task.job, gpu, tuner.compilers) for task in tasks]
        # those that come first are compiled first, and the next ones while they are timed
        for task, theirs in zip(tasks, programs, strict=True):
            for kernel, config, buffer in launches(task):
                theirs.begin(kernel, [config], buffer)
        found = {tuned.name: tuned for tuned in kept}
        for task, theirs in zip(tasks, programs, strict=True):
            for launch in launches(task):
                theirs.compiled(*launch)
            rows = [timed(tuner, task, row) for row in task.tuned.rows]
            found[task.tuned.name] = replace(task.tuned, rows=tuple(rows), again=command)
            print(task.tuned.title, task.tuned.storage)
            for row in rows:
                print(
                    f"{row.batch:4} untuned {row.before:7.2f} tuned {row.us:7.2f} "
                    f"plain {row.plain_before:7.2f} tuned {row.plain_us:7.2f}",
                    flush=True,
                )
            # whatever ends the run, what was timed is there
            write(args.out, found.values())


def task_of(tuned: Tuned) -> Task:
    heads = dict(part.split() for part in tuned.heads.split(", ") if part)
    overrides = {f"sizes.{axis}": count for axis, count in heads.items()}
    overrides["storage.state"] = tuned.storage
    analysis = compiler.analyse(resolve(tuned.spec), overrides)
    store = Store.shipped()
    untuned_buffer = buffer_length(analysis.form, analysis.records)

    def best(kernel: str, batch: int) -> dict[str, int]:
        record = store.find(key(analysis, Goal(kernel, batch), tuned.gpu)).record
        assert record is not None, f"{kernel} of {tuned.title} is not tuned for {batch} rows"
        return record.config

    def entries(batch: int) -> list[Entry]:
        rules = {kernel: space.default(analysis, kernel, batch) for kernel in SINGLE}
        known = {kernel: best(kernel, batch) for kernel in SINGLE}
        decodes = [
            {"kernel": "decode", "config": configs["decode"], "fold": configs["fold"],
             "buffer": buffer, "kept": True}
            for configs, buffer in ((known, tuned.buffer), (rules, untuned_buffer))
        ]  # fmt: skip
        # these never fold
        plain = {"kernel": "recurrent", "fold": rules["fold"], "buffer": untuned_buffer}
        return decodes + [
            {**plain, "config": configs["recurrent"], "kept": True} for configs in (known, rules)
        ]

    batches = {row.batch: entries(row.batch) for row in tuned.rows}
    return Task(tuned, make_job(analysis, overrides), batches)


def launches(task: Task) -> Iterator[tuple[str, space.Config, int]]:
    """Kernels, their configurations and the buffer's length."""
    for entries in task.entries.values():
        for entry in entries:
            yield entry["kernel"], entry["config"], entry["buffer"]
            yield "fold", entry["fold"], entry["buffer"]


def timed(tuner: Tuner, task: Task, row: Row) -> Row:
    """All four by turns in one process; what is the same program, once."""
    entries = task.entries[row.batch]
    distinct = [entry for at, entry in enumerate(entries) if entry not in entries[:at]]
    answer = tuner.workers[0].ask(task.job, "steps", batch=row.batch, entries=distinct)
    medians = [median for _, median, _ in answer["us"]]
    us, before, plain, plain_before = (medians[distinct.index(entry)] for entry in entries)
    return replace(
        row, us=us, before=before, plain_us=plain, plain_before=plain_before,
        layers=int(answer["layers"]),
    )  # fmt: skip


if __name__ == "__main__":
    main()
