"""A tuning run as rows of a table, and as data for a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvgen.tuning.choices import Report
from kvgen.tuning.plan import Goal
from kvgen.tuning.space import text
from kvgen.tuning.study import Study
from kvgen.wisdom.record import Record

HEAD = ("kernel", "batch", "us", "untuned", "gain", "floor", "share", "configuration")


def summary(study: Study, floor: float) -> str:
    """What a study has come to, in a line."""
    counts: dict[str, int] = {}
    for outcome in study.outcomes.values():
        counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
    shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    best = study.best()
    found = "nothing was timed"
    if best and best[0].us:
        us = best[0].us[1]
        found = f"{us:.2f} us ({floor / us:.0%} of the floor)  {text(best[0].config)}"
    return f"{found}  [{len(study.legal)} legal: {shown}; {study.why}]"


def rows(report: Report) -> list[tuple[Any, ...]]:
    """One for each goal: microseconds of a layer, before and after, and what was chosen."""
    found = []
    for record, (goal, choice) in zip(report.records, report.choices.items(), strict=True):
        gain = choice.before / record.median if choice.before else None
        what = _chosen(record.config, choice.cut)
        found.append((*_times(goal, record, choice.before, gain), what))
    return found


def stored_rows(records: dict[Goal, Record]) -> list[tuple[Any, ...]]:
    """The same of what the store has."""
    return [
        (*_times(goal, record, None, None), _chosen(record.config, record.is_cut))
        for goal, record in records.items()
    ]


def _chosen(config: Mapping[str, int], cut: bool) -> str:
    return text(config) + ("  (cut short)" if cut else "")


def _times(goal: Goal, record: Record, before: float | None, gain: float | None) -> tuple[Any, ...]:
    share = f"{record.floor_us / record.median:.0%}"
    batch = goal.batch or "all"
    return (goal.kernel, batch, record.median, before, gain, record.floor_us, share)


def data(report: Report) -> dict[str, Any]:
    return {
        "spec": report.analysis.spec.name,
        "storage": report.analysis.spec.storage.state.name,
        "gpu": report.gpu.name,
        "copy_gbs": report.gpu.bandwidth / 1e9,
        "buffer": report.buffer,
        "why": report.why,
        "interrupted": report.interrupted,
        "seconds": report.seconds,
        "spent": report.spent,
        "outcomes": report.counts,
        "records": [
            {**record.data(), "untuned_us": choice.before}
            for record, choice in zip(report.records, report.choices.values(), strict=True)
        ],
        "refused": [
            {"kernel": goal.kernel, "batch": goal.batch, "config": o.config,
             "verdict": o.verdict, "detail": o.detail}
            for goal, o in report.refused
        ],
    }  # fmt: skip
