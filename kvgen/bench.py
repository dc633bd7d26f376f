"""Time a generated module on this machine's GPU: whole model steps, replayed as CUDA graphs.

A step is one call of every layer with its own state, slots in random order, then `advance`; cursors
are staggered over the buffer's phases and move inside the graph, so folds come at their steady
rate. Beside each time stand its floor, the worst step there can be (every row folds at once, as
with fold="row" where all came together) and the error against float64. Other libraries' kernels are
timed in the same process, by turns with ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import torch
import triton

from kvgen.benching.contest import contest, memory_beside
from kvgen.benching.lineup import Lineup, lineup
from kvgen.benching.report import Absent, Report, Row
from kvgen.codegen import cost
from kvgen.compiler import Analysis, built
from kvgen.formats.dtypes import BFLOAT16
from kvgen.kernels.decode import DECODE
from kvgen.kernels.recurrent import RECURRENT
from kvgen.timing import clock
from kvgen.timing.drafts import draft_rows, prompt_row
from kvgen.timing.errors import exact, output_error
from kvgen.timing.steps import fitting_layers, make_step

BATCHES = (1, 4, 16, 64, 256)
LAYERS = 36


def bench(
    analysis: Analysis,
    batches: Sequence[int] = BATCHES,
    layers: int | None = None,
    progress: Callable[[str], None] | None = None,
    kernels: tuple[str, ...] = (DECODE.name, RECURRENT.name),
    drafts: Sequence[int] = (),
    prompts: bool = False,
    against: Sequence[str] = (),
) -> Report:
    """Time decode and recurrent steps, bf16 inputs, at the spec's sizes.

    drafts: numbers of tokens that a verify is timed with. prompts: time extend too. Specs whose
    modules have neither get no rows for them. against: names of libraries whose kernels of this
    recurrence are timed too; one that does not run here is in the report with the reason.
    """
    say = progress or (lambda text: None)
    module = built(analysis)
    layers = layers or LAYERS
    say("copy bandwidth")
    bandwidth = clock.copy_bandwidth()
    errors = {kernel: output_error(analysis, module, kernel) for kernel in kernels}
    peers = Lineup((), ())
    if against:
        peers = lineup(analysis, exact(analysis, module), against, say)
    rows: list[Row] = []
    absent: list[Absent] = [*peers.absent]
    for batch in batches if kernels else ():
        say(f"batch {batch}")
        beside = memory_beside(analysis, peers.entrants)
        fitting = fitting_layers(analysis, batch, layers, beside=beside)
        step = make_step(analysis, module, batch, fitting)
        found, left_out = contest(analysis, step, errors, peers.entrants, bandwidth)
        rows += found
        absent += left_out
        del step
        torch.cuda.empty_cache()
    several = draft_rows(analysis, module, batches, layers, drafts, bandwidth, say)
    if prompts and hasattr(module, "extend"):
        say("a prompt")
        several.append(prompt_row(analysis, module, bandwidth))
    # a module may have another one for this GPU
    of_rows = (row.buffer for row in rows if row.kernel == DECODE.name)
    buffer = next(of_rows, cost.buffer_length(analysis.form, analysis.records))
    return Report(
        analysis.spec.name,
        analysis.spec.storage.state.name,
        BFLOAT16.name,
        torch.cuda.get_device_name(),
        f"torch {torch.__version__}, triton {triton.__version__}",
        bandwidth / 1e9,
        layers,
        buffer,
        tuple(rows),
        tuple(several),
        peers=peers.against,
        absent=tuple(absent),
        title=analysis.spec.title,
        sizes=dict(analysis.spec.sizes),
        date=datetime.now(UTC).date().isoformat(),
        tuned=torch.cuda.get_device_name() in module.CONFIGS,
    )
