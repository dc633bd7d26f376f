"""Without a GPU: what compiles for one, in the order in which a model of it would choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvgen.codegen.cost import buffer_length
from kvgen.compiler import Analysis
from kvgen.probing.compilers import Compilers
from kvgen.tuning import space
from kvgen.tuning.evaluate import Programs
from kvgen.tuning.gpu import SHEETS
from kvgen.tuning.model import estimate
from kvgen.tuning.ordering import ordered
from kvgen.tuning.plan import SINGLE, Options
from kvgen.tuning.tune import make_job, require

# of each kernel and batch so many are compiled, and so many are shown
COMPILED, SHOWN = 12, 2


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


def estimates(
    analysis: Analysis, options: Options, target: str, say: Callable[[str], None]
) -> list[Estimate]:
    """The best by the model for every kernel of single tokens and batch.

    Raises ModuleNotFoundError where no compiler is installed, and NoneCompiledError.
    """
    require("torch", "triton")
    gpu = SHEETS[target]
    buffer = buffer_length(analysis.form, analysis.records)
    compilers = Compilers(target)
    try:
        programs = Programs(make_job(analysis, {}), gpu, compilers)
        likely: dict[tuple[str, int], list[space.Config]] = {}
        for kernel in SINGLE:
            for batch in options.batches:
                configs = space.legal(analysis, kernel, target)
                likely[kernel, batch] = [space.default(analysis, kernel, batch)]
                likely[kernel, batch] += [
                    config
                    for config in ordered(analysis, kernel, configs, batch, gpu, buffer)
                    if config not in likely[kernel, batch]
                ][:COMPILED]
                programs.begin(kernel, likely[kernel, batch], buffer)
        found: list[Estimate] = []
        first = ""
        for (kernel, batch), configs in likely.items():
            say(f"{kernel}, batch {batch}")
            rows: list[Estimate] = []
            for config in configs:
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
