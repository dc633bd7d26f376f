"""Time a generated module on this machine's GPU: whole model steps, replayed as CUDA graphs.

A step is one call of every layer with its own state, slots in random order, then `advance`; cursors
are staggered over the buffer's phases and move inside the graph, so folds come at their steady
rate. Beside each time stand its floor, the worst step (every row folds at once) and the error
against float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch
import triton

from kvgen.codegen import cost
from kvgen.compiler import Analysis, emit, imported, temporary_module
from kvgen.timing.drafts import DraftRow, draft_rows, prompt_row
from kvgen.timing.errors import output_error
from kvgen.timing.steps import copy_bandwidth, fitting_layers, make_step, time_cycle

BATCHES = (1, 4, 16, 64, 256)
LAYERS = 36


@dataclass(frozen=True)
class Row:
    """One kernel at one batch; times are microseconds for one layer of one step."""

    kernel: str
    batch: int
    layers: int
    us: float
    spread: float
    worst_us: float
    floor_us: float
    share: float
    error: float = math.nan


@dataclass(frozen=True)
class Report:
    """spec, device and copy bandwidth (GB/s, bytes read and written), and the rows; drafts: those
    of steps with several tokens."""

    spec: str
    storage: str
    dtype: str
    device: str
    versions: str
    copy_gbs: float
    layers: int
    buffer: int
    rows: tuple[Row, ...]
    drafts: tuple[DraftRow, ...] = ()

    def data(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    analysis: Analysis,
    batches: Sequence[int] = BATCHES,
    layers: int | None = None,
    progress: Callable[[str], None] | None = None,
    kernels: tuple[str, ...] = ("decode", "recurrent"),
    drafts: Sequence[int] = (),
    prompts: bool = False,
) -> Report:
    """Time decode and recurrent steps, bf16 inputs, at the spec's sizes.

    drafts: numbers of tokens that a verify is timed with. prompts: time extend too. Specs whose
    modules have neither get no rows for them.
    """
    say = progress or (lambda text: None)
    module = imported(temporary_module(analysis.spec.name, emit(analysis)))
    layers = layers or LAYERS
    say("copy bandwidth")
    bandwidth = copy_bandwidth()
    errors = {kernel: output_error(analysis, module, kernel) for kernel in kernels}
    rows: list[Row] = []
    for batch in batches:
        for kernel in kernels:
            say(f"{kernel}, batch {batch}")
            fitting = fitting_layers(analysis, batch, layers)
            row = time_step(analysis, module, kernel, batch, fitting, bandwidth)
            rows.append(replace(row, error=errors[kernel]))
            torch.cuda.empty_cache()
    several = draft_rows(analysis, module, batches, layers, drafts, bandwidth, say)
    if prompts and hasattr(module, "extend"):
        say("a prompt")
        several.append(prompt_row(analysis, module, bandwidth))
    return Report(
        analysis.spec.name,
        analysis.spec.storage.state,
        "bfloat16",
        torch.cuda.get_device_name(),
        f"torch {torch.__version__}, triton {triton.__version__}",
        bandwidth / 1e9,
        layers,
        cost.buffer_length(analysis.form, analysis.records),
        tuple(rows),
        tuple(several),
    )


def time_step(
    analysis: Analysis, module: ModuleType, kernel: str, batch: int, layers: int, bandwidth: float
) -> Row:
    """One row: the mean over a whole cycle of the buffer, median of several cycles."""
    step = make_step(analysis, module, batch, layers)
    buffer = step.cache.buffer
    # the plain kernel never has anything to fold
    cycle, last = (buffer, buffer - 1) if kernel == "decode" else (4, 0)
    run = partial(step.run, kernel)
    times, worst = time_cycle(step, run, step.staggered(buffer), cycle, last)
    step.check(f"{kernel} at batch {batch}")
    floor = floor_bytes(analysis, kernel, buffer) * batch / bandwidth * 1e6
    return Row(kernel, batch, layers, times.us, times.spread, worst, floor, floor / times.us)


def floor_bytes(analysis: Analysis, kernel: str, buffer: int) -> float:
    """The fewest bytes one row of one layer moves in a step."""
    bytes_moved = cost.cost(analysis.form, analysis.records)
    return bytes_moved.floor(buffer) if kernel == "decode" else bytes_moved.recurrent()
