"""A model step on random data: made, captured as a CUDA graph, timed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from kvgen.checking.samples import draw
from kvgen.codegen import cost
from kvgen.compiler import Analysis

Tensors = dict[str, torch.Tensor]

DEVICE = "cuda"
REPEATS = 7


@dataclass
class Step:
    """A model step: a cache, rows in random slots, and each layer's inputs [B, *axes], parameters
    and outputs; inputs [B, T, *axes] and outputs [B, T, HV, V] where rows have several tokens."""

    module: ModuleType
    cache: Any
    slots: torch.Tensor
    inputs: list[Tensors]
    params: list[Tensors]
    out: list[torch.Tensor]

    def layers(self, kernel: str) -> None:
        call = getattr(self.module, kernel)
        for layer, (inputs, params) in enumerate(zip(self.inputs, self.params, strict=True)):
            call(self.cache, layer, self.slots, **inputs, **params, out=self.out[layer])

    def run(self, kernel: str) -> None:
        self.layers(kernel)
        self.module.advance(self.cache, self.slots)

    def staggered(self, phases: int, stride: int = 1) -> torch.Tensor:
        """Cursors dealt over the rows: 0, stride, … , (phases - 1) stride, and again."""
        rows = torch.arange(self.slots.numel(), device=DEVICE, dtype=torch.int32)
        return rows % phases * stride

    def spread(self, phases: int) -> torch.Tensor:
        """Cursors for calls that leave them where they are: evenly from 0 to phases - 1, their mean
        in the middle however few rows there are."""
        rows = torch.arange(self.slots.numel(), device=DEVICE, dtype=torch.int32)
        return (2 * rows + 1) * phases // (2 * rows.numel())

    def check(self, what: str) -> None:
        """Outputs were NaN before the first call."""
        if any(bool(out.isnan().any()) for out in self.out):
            raise RuntimeError(f"{what} left outputs unwritten or not a number")


def make_step(
    analysis: Analysis,
    module: ModuleType,
    batch: int,
    layers: int,
    window: int = 0,
    buffer: int | None = None,
) -> Step:
    """Random states, inputs and buffers, outputs poisoned with NaN, cursors staggered.

    buffer: places for records, None for as many as the module gives a row.
    """
    cache = module.Cache.empty(batch, layers=layers, device=DEVICE, window=window, buffer=buffer)
    return step_on(analysis, module, cache)


def step_on(analysis: Analysis, module: ModuleType, cache: Any) -> Step:
    """The same on a cache that is there: all of its rows, in random order."""
    torch.manual_seed(cache.slots)
    draw_cache(analysis, cache)
    slots = torch.randperm(cache.slots, device=DEVICE).to(torch.int32)
    step = Step(module, cache, slots, *_calls(analysis, cache.layers, (cache.slots,)))
    cache.cursors.copy_(step.staggered(cache.buffer))
    return step


def draw_cache(analysis: Analysis, cache: Any) -> None:
    """Random states and records in all rows."""
    first, *rest = analysis.form.planes
    carried = {carry.tensor.name for carry in analysis.form.carries}
    for name, tensor in cache.tensors.items():
        if name == first:
            tensor.normal_()
        elif name in rest:
            # of a zero and the rest of another number no kernel makes a number
            tensor.zero_()
        elif name in carried:
            # a normaliser is positive
            tensor.uniform_(0.5, 1.5)
        elif tensor.dtype.is_floating_point and "decay" not in name:
            tensor.normal_(std=0.1)


def with_tokens(analysis: Analysis, step: Step, tokens: int) -> Step:
    """A step on the same cache and rows, with so many tokens a row."""
    calls = _calls(analysis, len(step.inputs), (step.slots.numel(), tokens))
    return Step(step.module, step.cache, step.slots, *calls)


def _calls(
    analysis: Analysis, layers: int, front: tuple[int, ...]
) -> tuple[list[Tensors], list[Tensors], list[torch.Tensor]]:
    """Each layer's inputs [*front, *axes] in bfloat16, parameters, and outputs full of NaN."""
    spec = analysis.spec
    inputs: list[Tensors] = []
    params: list[Tensors] = []
    for layer in range(layers):
        found = draw(spec, math.prod(front), dtype=torch.bfloat16, device=DEVICE, seed=layer)
        inputs.append(
            {tensor.name: found[tensor.name].unflatten(0, front) for tensor in spec.inputs}
        )
        params.append({tensor.name: found[tensor.name] for tensor in spec.params})
    shape = (*front, spec.size("HV"), spec.size("V"))
    blank = {"dtype": torch.bfloat16, "device": DEVICE}
    return inputs, params, [torch.full(shape, float("nan"), **blank) for _ in range(layers)]


def fitting_layers(
    analysis: Analysis,
    batch: int,
    most: int,
    buffer: int | None = None,
    tokens: int = 1,
    beside: int = 0,
) -> int:
    """As many layers as three quarters of the free memory hold, at least two: a cold cache.

    beside: bytes that a row of a layer takes in others' memory.
    """
    bytes_moved = cost.cost(analysis.form, analysis.records)
    buffer = buffer or cost.buffer_length(analysis.form, analysis.records)
    row = bytes_moved.state + buffer * (bytes_moved.record + bytes_moved.carried)
    row += bytes_moved.io * tokens + beside
    free, _ = torch.cuda.mem_get_info()
    return max(2, min(most, int(0.75 * free / (row * batch))))


# timing ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Microseconds: the median of several runs, and the spread of all but the two outermost."""

    us: float
    spread: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        ordered = sorted(seconds)
        return cls(statistics.median(ordered) * 1e6, (ordered[-2] - ordered[1]) * 1e6)


def time_of(run: Callable[[], object]) -> float:
    """Seconds of device time that `run` takes."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def copy_bandwidth() -> float:
    """Bytes a second that a large device-to-device copy moves, read and written."""
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    times = [time_of(lambda: target.copy_(source)) for _ in range(REPEATS)]
    # the fastest: a floor is what the memory can do
    return 2 * source.numel() / min(times)


@contextmanager
def captured(run: Callable[[], object]) -> Iterator[torch.cuda.CUDAGraph]:
    """The launches of `run` as a graph; it runs once before, to compile."""
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


def replayed(graph: torch.cuda.CUDAGraph, count: int) -> Callable[[], None]:
    def replay() -> None:
        for _ in range(count):
            graph.replay()

    return replay


@dataclass(frozen=True)
class Cycle:
    """Whole steps to be timed: `steps` of them come back to where they began.

    run: a model step of `layers` layers. cursors: [rows] int32 that `run` moves, or None; begin:
    where they begin, for every row; last: where every row stands before the worst step.
    """

    run: Callable[[], object]
    layers: int
    steps: int = 4
    cursors: torch.Tensor | None = None
    begin: torch.Tensor | int = 0
    last: int = 0

    @property
    def count(self) -> int:
        """As many whole cycles as make a time that can be measured, in steps."""
        steps = self.steps
        while steps * self.layers < 200:
            steps *= 2
        return steps

    def stand(self, at: torch.Tensor | int) -> None:
        if isinstance(at, torch.Tensor) and self.cursors is not None:
            self.cursors.copy_(at)
        elif self.cursors is not None:
            self.cursors.fill_(at)


def time_cycles(cycles: Sequence[Cycle]) -> list[tuple[Times, float]]:
    """For each the mean step of one layer over whole cycles, and the worst step. They take turns,
    so that what disturbs one disturbs the others."""
    graphs: list[torch.cuda.CUDAGraph] = []
    for cycle in cycles:
        with captured(cycle.run) as graph:
            graphs.append(graph)
    seconds: list[list[float]] = [[] for _ in cycles]
    worst: list[list[float]] = [[] for _ in cycles]
    for turn in range(-1, REPEATS):
        for number, (cycle, graph) in enumerate(zip(cycles, graphs, strict=True)):
            cycle.stand(cycle.begin)
            if turn < 0:
                # loads the graph; in the first replays clocks rise
                replayed(graph, 2)()
                continue
            count = cycle.count
            found = time_of(replayed(graph, count)) / (count * cycle.layers)
            seconds[number].append(found)
            cycle.stand(cycle.last)
            worst[number].append(time_of(graph.replay) / cycle.layers)
    return [
        (Times.of(found), statistics.median(most) * 1e6)
        for found, most in zip(seconds, worst, strict=True)
    ]


def time_cycle(
    step: Step, run: Callable[[], object], staggered: torch.Tensor, cycle: int, last: int
) -> tuple[Times, float]:
    """The mean step of one layer over whole cycles of `cycle` steps, from staggered cursors, and
    the worst step, all cursors at `last`."""
    cursors = step.cache.cursors
    [found] = time_cycles([Cycle(run, len(step.inputs), cycle, cursors, staggered, last)])
    return found


def time_by_turns(runs: Sequence[Callable[[], object]], layers: int) -> list[Times]:
    """Steps that leave cursors and states as they are, for one layer. They take turns, so that
    what disturbs one disturbs the others."""
    count = max(4, 400 // layers)
    graphs: list[torch.cuda.CUDAGraph] = []
    for run in runs:
        with captured(run) as graph:
            graphs.append(graph)
    seconds: list[list[float]] = [[] for _ in runs]
    for graph in graphs:
        replayed(graph, 3)()
    for _ in range(REPEATS):
        for graph, found in zip(graphs, seconds, strict=True):
            found.append(time_of(replayed(graph, count)) / (count * layers))
    return [Times.of(found) for found in seconds]
