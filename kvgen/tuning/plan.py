"""What a tuning run is asked for, and what of that the store has answered already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from kvgen.compiler import Analysis
from kvgen.kernels.buffer import BUFFER
from kvgen.kernels.registry import KERNELS, STEPS, kernels_of, named
from kvgen.tuning import driver, space
from kvgen.wisdom.identity import key_of
from kvgen.wisdom.record import EFFORTS, Key, Record, bucket
from kvgen.wisdom.store import Store

# kernels of single tokens, whose whole steps are compared; all others are for `full` alone
SINGLE = tuple(kernel.name for kernel in STEPS)
# those that may be tuned alone
ALONE = tuple(kernel.name for kernel in KERNELS if not kernel.in_steps)
# the most configurations that a study times, by effort: of these kernels, and of others
BUDGETS = {"quick": (40, 0), "full": (120, 48)}


@dataclass(frozen=True)
class Options:
    """budget: seconds for one spec. seed: of whatever is drawn. force: ask the GPU again. storage:
    Optuna's, that other hosts use too. only: the kernels, of those for several tokens and short
    contexts, that are tuned and nothing else; none for everything."""

    batches: tuple[int, ...]
    effort: str
    budget: float
    seed: int = 0
    force: bool = False
    storage: str | None = None
    only: tuple[str, ...] = ()

    def timings(self, kernel: str) -> int:
        """The most configurations that a study times."""
        return BUDGETS[self.effort][not named(kernel).in_steps]


@dataclass(frozen=True)
class Goal:
    """A kernel at a batch, which becomes a record. batch: 0 for all of them."""

    kernel: str
    batch: int
    tokens: int = 1


def goals(analysis: Analysis, options: Options) -> list[Goal]:
    if options.only:
        return others(analysis, options)
    found = [Goal(kernel, batch) for kernel in SINGLE for batch in options.batches]
    if len(space.buffers(analysis)) > 1:
        found.append(Goal(BUFFER.name, 0))
    return found + others(analysis, options)


def others(analysis: Analysis, options: Options) -> list[Goal]:
    """The kernels for several tokens and short contexts, as far as the recurrence has them and
    they are asked for."""
    if options.effort != "full":
        return []
    return [
        Goal(kernel.name, batch, kernel.tokens(analysis.form))
        for kernel in kernels_of(analysis.form)
        if not kernel.in_steps and (not options.only or kernel.name in options.only)
        for batch in kernel.batches(options.batches)
    ]


def key(analysis: Analysis, goal: Goal, gpu: str) -> Key:
    return key_of(analysis, goal.kernel, gpu, goal.batch, goal.tokens)


def distinct(batches: Sequence[int]) -> tuple[int, ...]:
    """Batches that share a record's key are one: the largest stands for them."""
    found: dict[int, int] = {}
    for batch in sorted(batches):
        found[bucket(batch)] = batch
    return tuple(found.values())


def answered(
    analysis: Analysis, options: Options, gpu: str, store: Store
) -> dict[Goal, Record] | None:
    """The records of all goals, where each has one of at least this effort that was not cut short,
    or for which no less time was up; else None."""
    found: dict[Goal, Record] = {}
    for goal in goals(analysis, options):
        record = recorded(analysis, goal, options, gpu, store)
        if record is None:
            return None
        found[goal] = record
    return found


def recorded(
    analysis: Analysis, goal: Goal, options: Options, gpu: str, store: Store
) -> Record | None:
    answer = store.find(key(analysis, goal, gpu))
    record = answer.record
    if answer.tier != "exact" or record is None:
        return None
    if cut := record.at.get("cut"):
        return record if options.budget <= cut else None
    return record if EFFORTS.index(record.effort) >= EFFORTS.index(options.effort) else None


def gpu_name() -> str | None:
    """The name of the GPU that a worker would get, without torch; None where nobody knows."""
    rows = driver.queried("index", "uuid", "name")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = rows[0][0] if visible is None and rows else (visible or "").split(",")[0].strip()
    # unless it is told to, CUDA puts the fastest GPU first, and this tool the first on the bus
    by_number = (
        os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({r[2] for r in rows}) == 1
    )
    for index, uuid, name in rows:
        if first and ((by_number and first == index) or uuid.startswith(first)):
            return name.strip()
    return None
