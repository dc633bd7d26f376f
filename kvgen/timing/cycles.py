"""Whole cycles of steps beside each other, taking turns: what disturbs one disturbs the others."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from kvgen.timing import clock
from kvgen.timing.clock import Graph
from kvgen.timing.steps import Step

# turns that each takes
REPEATS = 7


@dataclass(frozen=True)
class Times:
    """Microseconds: the median of several runs, and the spread of all but the two outermost."""

    us: float
    spread: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        ordered = sorted(seconds)
        return cls(statistics.median(ordered) * 1e6, (ordered[-2] - ordered[1]) * 1e6)


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
    graphs: list[Graph] = []
    for cycle in cycles:
        with clock.captured(cycle.run) as graph:
            graphs.append(graph)
    seconds: list[list[float]] = [[] for _ in cycles]
    worst: list[list[float]] = [[] for _ in cycles]
    for turn in range(-1, REPEATS):
        for number, (cycle, graph) in enumerate(zip(cycles, graphs, strict=True)):
            cycle.stand(cycle.begin)
            if turn < 0:
                # loads the graph; in the first replays clocks rise
                graph.replays(2)
                continue
            count = cycle.count
            found = clock.time_of(partial(graph.replays, count)) / (count * cycle.layers)
            seconds[number].append(found)
            cycle.stand(cycle.last)
            worst[number].append(clock.time_of(graph.replay) / cycle.layers)
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
    graphs: list[Graph] = []
    for run in runs:
        with clock.captured(run) as graph:
            graphs.append(graph)
    seconds: list[list[float]] = [[] for _ in runs]
    for graph in graphs:
        graph.replays(3)
    for _ in range(REPEATS):
        for graph, found in zip(graphs, seconds, strict=True):
            found.append(clock.time_of(partial(graph.replays, count)) / (count * layers))
    return [Times.of(found) for found in seconds]
