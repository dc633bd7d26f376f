"""What a tuning run has come to: a choice for each goal, and the records made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvgen.codegen.cost import buffer_length
from kvgen.compiler import Analysis
from kvgen.kernels.buffer import BUFFER
from kvgen.kernels.fold import FOLD
from kvgen.kernels.registry import named, subject
from kvgen.tuning import space
from kvgen.tuning.floors import floor_us, mean_floor_us
from kvgen.tuning.gpu import Gpu
from kvgen.tuning.plan import SINGLE, Goal, Options, key
from kvgen.tuning.space import Config
from kvgen.tuning.trials import Outcome, key_of
from kvgen.wisdom.record import Record

if TYPE_CHECKING:
    from kvgen.tuning.study import Study
    from kvgen.tuning.whole import Whole

Percentiles = tuple[float, float, float]

# verdicts that the user should know of
REFUSED = ("wrong", "launch", "crash", "hang")


@dataclass
class Choice:
    """What was found for a goal, before it is a record. us: whole steps, or the kernel's own."""

    config: Config
    us: Percentiles
    error: float
    measured: int
    of: int
    buffer: int
    layers: int
    before: float | None = None
    runner_up: tuple[Config, float] | None = None
    cut: bool = False


@dataclass
class Report:
    """A spec on a GPU. why: what ended it; failed: whether that was an error; late: whether it was
    that the time was up. refused: configurations that never ran, and why. spent: seconds, by stage
    and by what the GPU was asked."""

    analysis: Analysis
    gpu: Gpu
    buffer: int
    choices: dict[Goal, Choice] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    refused: list[tuple[Goal, Outcome]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    why: str = ""
    interrupted: bool = False
    failed: bool = False
    late: bool = False
    seconds: float = 0.0
    compiled: int = 0
    spent: dict[str, float] = field(default_factory=dict)


def conclude(
    report: Report,
    options: Options,
    studies: dict[tuple[str, int], Study],
    whole: Whole,
    date: str,
) -> None:
    """Fill in the choices and records of all that was measured."""
    analysis = report.analysis
    for (kernel, batch), study in sorted(studies.items(), key=lambda each: _place(each[0])):
        goal = Goal(kernel, batch, space.tokens_of(analysis, kernel))
        for outcome in study.outcomes.values():
            report.counts[outcome.verdict] = report.counts.get(outcome.verdict, 0) + 1
            if outcome.verdict in REFUSED:
                report.refused.append((goal, outcome))
        choice = _choice(report, goal, study, studies, whole)
        if choice is not None:
            report.choices[goal] = choice
    _buffer_choice(report, whole)
    report.records = [
        _record(report, options, goal, choice, date) for goal, choice in report.choices.items()
    ]


def _place(name: tuple[str, int]) -> tuple[int, str, int]:
    kernel, batch = name
    return (SINGLE.index(kernel) if named(kernel).in_steps else len(SINGLE), kernel, batch)


def _choice(
    report: Report,
    goal: Goal,
    study: Study,
    studies: dict[tuple[str, int], Study],
    whole: Whole,
) -> Choice | None:
    best = study.best(2)
    if not best or best[0].us is None:
        return None
    kernel, batch = goal.kernel, goal.batch
    of = named(kernel)
    error, us, config = best[0].error or 0.0, best[0].us, best[0].config
    buffer, before = buffer_length(report.analysis.form, report.analysis.records), None
    cut = study.why in ("", "stopped")
    second = [(o.config, o.us[1]) for o in best[1:] if o.us]
    untuned = study.outcomes.get(key_of(space.default(report.analysis, kernel, batch)))
    if untuned is not None:
        before = untuned.median
    if of.takes_steps:
        found = whole.steps.get((kernel, batch))
        if found:
            buffer = whole.buffers[kernel, batch]
            # the finals did not come to it: its steps are at another length than the one chosen
            cut = cut or (buffer != report.buffer and not of.plain)
            (config, us), second = found[0], [(c, t[1]) for c, t in found[1:]]
            before = whole.before.get((kernel, batch), before)
        else:
            # a step is the kernel and its share of the fold, which a decode alone has
            share = 0.0 if of.plain else _fold_share(report, batch, studies)
            us = (us[0] + share, us[1] + share, us[2] + share)
            before = before and before + share
            cut = True
    elif not of.in_steps:
        buffer = report.buffer
    return Choice(
        config, us, error, study.measured, len(study.legal), buffer,
        whole.layers.get(batch, 0), before, second[0] if second else None, cut,
    )  # fmt: skip


def _fold_share(report: Report, batch: int, studies: dict[tuple[str, int], Study]) -> float:
    study = studies.get((FOLD.name, batch))
    best = study.best() if study else []
    if best and best[0].us:
        return best[0].us[1]
    buffer = buffer_length(report.analysis.form, report.analysis.records)
    return floor_us(report.analysis, FOLD.name, batch, buffer, report.gpu.bandwidth)


def _buffer_choice(report: Report, whole: Whole) -> None:
    means = whole.means()
    if not means:
        return
    buffer = report.buffer
    us, others = means[buffer], sorted((v, k) for k, v in means.items() if k != buffer)
    untuned = means.get(buffer_length(report.analysis.form, report.analysis.records))
    report.choices[Goal(BUFFER.name, 0)] = Choice(
        {"buffer": buffer}, (us, us, us), 0.0, len(means), len(space.buffers(report.analysis)),
        buffer, 0, untuned, ({"buffer": others[0][1]}, others[0][0]) if others else None,
    )  # fmt: skip


def _record(report: Report, options: Options, goal: Goal, choice: Choice, date: str) -> Record:
    analysis, gpu = report.analysis, report.gpu
    if subject(goal.kernel).every_batch:
        floor = mean_floor_us(analysis, options.batches, choice.buffer, gpu.bandwidth)
    else:
        floor = floor_us(analysis, goal.kernel, goal.batch, choice.buffer, gpu.bandwidth)
    at = {"batch": goal.batch, "buffer": choice.buffer, "layers": choice.layers}
    effort = options.effort
    if choice.cut:
        # the time being up, and nothing else, is what the same call would come to again
        up = effort == "full" and report.late
        at["cut"] = math.ceil(options.budget) if up else 1
        effort = "quick"
    return Record(
        analysis.spec.name, key(analysis, goal, gpu.name), choice.config,
        choice.us, floor, choice.error, effort, choice.measured, choice.of,
        choice.runner_up, at, gpu.env, date, analysis.spec.storage.said,
    )  # fmt: skip
