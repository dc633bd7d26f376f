"""Time a generated module on this machine's GPU: whole model steps, replayed as CUDA graphs.

A step is one call of every layer with its own state, slots in random order, then `advance`; cursors
are staggered over the buffer's phases and move inside the graph, so folds come at their steady
rate. Beside each time stand its floor, the worst step (every row folds at once) and the error
against float64.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kvgen.checking.samples import draw
from kvgen.codegen import cost
from kvgen.compiler import Analysis, emit, imported, temporary_module

if TYPE_CHECKING:
    import torch

BATCHES = (1, 4, 16, 64, 256)
LAYERS = 36
REPEATS = 7


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
    """spec, device and copy bandwidth (GB/s, bytes read and written), and the rows."""

    spec: str
    storage: str
    dtype: str
    device: str
    versions: str
    copy_gbs: float
    layers: int
    buffer: int
    rows: tuple[Row, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    analysis: Analysis,
    batches: list[int] | tuple[int, ...] = BATCHES,
    layers: int | None = None,
    progress: Callable[[str], None] | None = None,
    kernels: tuple[str, ...] = ("decode", "recurrent"),
) -> Report:
    """Time decode and recurrent steps, bf16 inputs, at the spec's sizes."""
    import torch
    import triton

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
    )


def fitting_layers(analysis: Analysis, batch: int, most: int) -> int:
    """As many layers as three quarters of the free memory hold, at least two: a cold cache."""
    import torch

    bytes_moved = cost.cost(analysis.form, analysis.records)
    buffer = cost.buffer_length(analysis.form, analysis.records)
    row = bytes_moved.state + buffer * (bytes_moved.record + bytes_moved.carried) + bytes_moved.io
    free, _ = torch.cuda.mem_get_info()
    return max(2, min(most, int(0.75 * free / (row * batch))))


def copy_bandwidth() -> float:
    """Bytes a second that a large device-to-device copy moves, read and written."""
    import torch

    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = [time_of(lambda: target.copy_(source)) for _ in range(REPEATS)]
    # the fastest: a floor is what the memory can do
    return 2 * source.numel() / min(times)


def time_of(run: Callable[[], object]) -> float:
    """Seconds of device time that `run` takes."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


@dataclass
class Step:
    """A model step on random data: a cache, rows in random slots, and each layer's inputs."""

    module: ModuleType
    cache: Any
    slots: torch.Tensor
    inputs: list[dict[str, torch.Tensor]]
    params: list[dict[str, torch.Tensor]]
    out: list[torch.Tensor]

    def layers(self, kernel: str) -> None:
        call = getattr(self.module, kernel)
        for layer, (inputs, params) in enumerate(zip(self.inputs, self.params, strict=True)):
            call(self.cache, layer, self.slots, **inputs, **params, out=self.out[layer])

    def run(self, kernel: str) -> None:
        self.layers(kernel)
        self.module.advance(self.cache, self.slots)


def make_step(analysis: Analysis, module: ModuleType, batch: int, layers: int) -> Step:
    """Random states, inputs and buffers, outputs poisoned with NaN, cursors staggered."""
    import torch

    torch.manual_seed(batch)
    spec = analysis.spec
    cache = module.Cache.empty(batch, layers=layers, device="cuda")
    state = analysis.form.state.name
    carried = {carry.tensor.name for carry in analysis.form.carries}
    for name, tensor in cache.tensors.items():
        if name in (state, f"{state}_hi"):
            tensor.normal_()
        elif name in carried:
            # a normaliser is positive
            tensor.uniform_(0.5, 1.5)
        elif tensor.dtype.is_floating_point and "decay" not in name:
            tensor.normal_(std=0.1)
    slots = torch.randperm(batch, device="cuda").to(torch.int32)
    inputs: list[dict[str, torch.Tensor]] = []
    params: list[dict[str, torch.Tensor]] = []
    for layer in range(layers):
        found = draw(spec, batch, dtype=torch.bfloat16, device="cuda", seed=layer)
        inputs.append({tensor.name: found[tensor.name] for tensor in spec.inputs})
        params.append({tensor.name: found[tensor.name] for tensor in spec.params})
    shape = (batch, spec.size("HV"), spec.size("V"))
    out = [torch.full(shape, float("nan"), device="cuda").bfloat16() for _ in range(layers)]
    cache.cursors.copy_(torch.arange(batch, device="cuda") % cache.buffer)
    return Step(module, cache, slots, inputs, params, out)


@contextmanager
def captured(run: Callable[[], object]) -> Iterator[torch.cuda.CUDAGraph]:
    """The launches of `run` as a graph; it runs once before, to compile."""
    import torch

    stream = torch.cuda.Stream()
    # the data is still being drawn on the stream that asked for it
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    yield graph


def time_step(
    analysis: Analysis, module: ModuleType, kernel: str, batch: int, layers: int, bandwidth: float
) -> Row:
    """One row: the mean over a whole cycle of the buffer, median of several cycles."""
    import torch

    step = make_step(analysis, module, batch, layers)
    cycle = step.cache.buffer if kernel == "decode" else 4
    while cycle * layers < 200:
        cycle *= 2
    staggered = torch.arange(batch, device="cuda", dtype=torch.int32) % step.cache.buffer
    with captured(lambda: step.run(kernel)) as graph:
        step.cache.cursors.copy_(staggered)

        def replay(count: int) -> None:
            for _ in range(count):
                graph.replay()

        replay(2)
        times = sorted(time_of(lambda: replay(cycle)) / (cycle * layers) for _ in range(REPEATS))
        worst: list[float] = []
        for _ in range(REPEATS):
            # the plain kernel never has anything to fold
            step.cache.cursors.fill_(step.cache.buffer - 1 if kernel == "decode" else 0)
            worst.append(time_of(graph.replay) / layers)
    if any(bool(out.isnan().any()) for out in step.out):
        raise RuntimeError(f"{kernel} at batch {batch} left outputs unwritten or not a number")
    us = statistics.median(times) * 1e6
    floor = floor_bytes(analysis, kernel, step.cache.buffer) * batch / bandwidth * 1e6
    spread = (times[-2] - times[1]) * 1e6
    slowest = statistics.median(worst) * 1e6
    return Row(kernel, batch, layers, us, spread, slowest, floor, floor / us)


def floor_bytes(analysis: Analysis, kernel: str, buffer: int) -> float:
    """The fewest bytes one row of one layer moves in a step."""
    bytes_moved = cost.cost(analysis.form, analysis.records)
    return bytes_moved.floor(buffer) if kernel == "decode" else bytes_moved.recurrent()


def output_error(analysis: Analysis, module: ModuleType, kernel: str, tokens: int = 40) -> float:
    """The worst row's error of any output over some tokens, against `reference` in float64."""
    import torch

    spec, rows = analysis.spec, 2
    cache = module.Cache.empty(rows, device="cuda")
    slots = torch.arange(rows, dtype=torch.int32, device="cuda")
    state, worst = None, 0.0
    params = draw(spec, rows, dtype=torch.bfloat16, device="cuda", seed=0)
    params = {tensor.name: params[tensor.name] for tensor in spec.params}
    exact = {name: value.double() for name, value in params.items()}
    for token in range(tokens):
        found = draw(spec, rows, dtype=torch.bfloat16, device="cuda", seed=1000 + token)
        inputs = {tensor.name: found[tensor.name] for tensor in spec.inputs}
        o = getattr(module, kernel)(cache, 0, slots, **inputs, **params)
        module.advance(cache, slots)
        doubles = {name: value.double() for name, value in inputs.items()}
        right, state = module.reference(state, **doubles, **exact)
        error = (o.double() - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
        worst = max(worst, float(error.max()))
    return worst
