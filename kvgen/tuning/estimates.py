"""Without a GPU: what compiles for one, in the order in which a model of it would choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvgen.codegen.cost import buffer_length
from kvgen.compiler import Analysis
from kvgen.probing.compilers import Compilers, side_by_side
from kvgen.tuning import space
from kvgen.tuning.evaluate import Programs
from kvgen.tuning.gpu import SHEETS
from kvgen.tuning.model import estimate
from kvgen.tuning.ordering import ordered
from kvgen.tuning.plan import SINGLE, Options
from kvgen.tuning.tune import make_job, require

# of each kernel and batch so many are compiled, and so many are shown
COMPILED, SHOWN = 12, 2


# roughly what one takes on a core
SECONDS = 3.0

# kernel and batch -> the configurations that are compiled for them
Likely = dict[tuple[str, int], list[space.Config]]


class NoneCompiledError(Exception):
    """No configuration of any kernel compiles; the message has the first error."""


@dataclass(frozen=True)
class Estimate:
    """A configuration that compiles; us: what the model thinks of it, which nobody has timed."""

    spec: str
    kernel: str
    batch: int
    us: float
    registers: int
    spills: int
    shared: int
    configuration: str


def likely(analysis: Analysis, options: Options, target: str) -> Likely:
    """The configurations that a model of the GPU likes best, the untuned one in front.

    Raises ModuleNotFoundError where no compiler is installed.
    """
    require("torch", "triton")
    gpu = SHEETS[target]
    buffer = buffer_length(analysis.form, analysis.records)
    found: Likely = {}
    for kernel in SINGLE:
        configs = space.legal(analysis, kernel, target)
        for batch in options.batches:
            first = space.default(analysis, kernel, batch)
            best = ordered(analysis, kernel, configs, batch, gpu, buffer)
            found[kernel, batch] = [first, *(c for c in best if c != first)][: COMPILED + 1]
    return found


def announced(plan: Likely) -> str:
    """How much is to be compiled, and how long that takes."""
    distinct = {
        (kernel, space.text(config)) for (kernel, _), some in plan.items() for config in some
    }
    at_once = side_by_side()
    minutes = max(1, round(len(distinct) * SECONDS / at_once / 60))
    return f"{len(distinct)} programs, {at_once} at a time, about {minutes} min"


def estimates(
    analysis: Analysis, plan: Likely, target: str, say: Callable[[str], None]
) -> list[Estimate]:
    """The best by the model for every kernel of single tokens and batch.

    plan: of `likely`. Raises NoneCompiledError.
    """
    gpu = SHEETS[target]
    buffer = buffer_length(analysis.form, analysis.records)
    compilers = Compilers(target)
    try:
        programs = Programs(make_job(analysis, {}), gpu, compilers)
        for (kernel, _), configs in plan.items():
            programs.begin(kernel, configs, buffer)
        total = sum(map(len, plan.values()))
        done = 0
        found: list[Estimate] = []
        first = ""
        for (kernel, batch), configs in plan.items():
            rows: list[Estimate] = []
            for config in configs:
                say(f"{kernel}, batch {batch}: {done} of {total}")
                done += 1
                used = programs.compiled(kernel, config, buffer)
                unfit = programs.pruned(kernel, config, buffer, used)
                if unfit is not None:
                    first = first or f"{kernel} ({space.text(config)}): {unfit.detail}"
                else:
                    us = estimate(analysis, kernel, config, batch, gpu, buffer, used.registers)
                    rows.append(
                        Estimate(
                            analysis.spec.name, kernel, batch, us, used.registers, used.spills,
                            used.shared, space.text(config),
                        )
                    )  # fmt: skip
            found += sorted(rows, key=lambda row: (row.spills > 0, row.us))[:SHOWN]
        if not found:
            raise NoneCompiledError(f"nothing compiles for {target}: {first}")
        return found
    finally:
        compilers.close()
