"""Our kernels and peers on one batch, timed by turns on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from kvgen.benching.lineup import Entrant, first_line, state_of
from kvgen.benching.peers.peer import Problem, state_bytes
from kvgen.benching.report import OURS, Absent, Row
from kvgen.codegen import cost
from kvgen.compiler import Analysis
from kvgen.kernels.registry import named
from kvgen.timing.cycles import Cycle, Times, time_cycles
from kvgen.timing.producer import Producer
from kvgen.timing.steps import Before, Step


@dataclass(frozen=True)
class Contestant:
    """A kernel to be timed. moved: the fewest bytes of a row, layer and step. run: a step, with
    something in front of each layer's call; cycle: the same without. check: raises where an output
    is not a number."""

    kernel: str
    library: str
    state: str
    buffer: int
    moved: float
    error: float
    run: Callable[[Before], object]
    cycle: Cycle
    check: Callable[[], None]

    def row(self, batch: int, bandwidth: float, times: Times, worst: float, between: float) -> Row:
        floor = self.moved * batch / bandwidth * 1e6
        return Row(
            self.kernel, batch, self.cycle.layers, times.us, times.spread, worst, floor,
            floor / times.us, self.error, self.library, self.state, self.buffer, between,
        )  # fmt: skip


def contest(
    analysis: Analysis,
    step: Step,
    errors: dict[str, float],
    entrants: Sequence[Entrant],
    bandwidth: float,
) -> tuple[list[Row], list[Absent]]:
    """A row for each of our kernels, by name in `errors`, and for each peer that runs."""
    batch = step.slots.numel()
    found = [ours(analysis, step, kernel, error) for kernel, error in errors.items()]
    state = state_of(analysis)
    problem = Problem(dict(analysis.spec.sizes), state, step.slots, step.inputs, step.params)
    absent: list[Absent] = []
    for entrant in entrants:
        try:
            found.append(theirs(analysis, problem, entrant))
        except Exception as error:
            reason = f"at batch {batch}: {type(error).__name__}: {first_line(error)}"
            absent.append(Absent(entrant.peer.name, reason))
    measured = time_cycles([each.cycle for each in found])
    behind = between(found, Producer(batch))
    for each in found:
        each.check()
    rows = [
        each.row(batch, bandwidth, times, worst, us)
        for each, (times, worst), us in zip(found, measured, behind, strict=True)
    ]
    return rows, absent


def between(found: Sequence[Contestant], producer: Producer) -> list[float]:
    """Microseconds that a layer of each adds to a step in which a producer stands in front of every
    layer: what a decode takes in a server, where none begins while the one before it runs."""
    layers = found[0].cycle.layers

    def alone() -> None:
        for layer in range(layers):
            producer(layer)

    cycles = [replace(each.cycle, run=partial(each.run, producer)) for each in found]
    *behind, (least, _) = time_cycles([*cycles, Cycle(alone, layers)])
    return [times.us - least.us for times, _ in behind]


def ours(analysis: Analysis, step: Step, kernel: str, error: float) -> Contestant:
    cursors, buffer = step.cache.cursors, step.cache.buffer
    moved, of = cost.cost(analysis.form, analysis.records), named(kernel)
    run, layers = partial(step.run, of.function), len(step.inputs)
    cycle = Cycle(run, layers, buffer, cursors, step.staggered(buffer), buffer - 1)
    if of.plain:
        # the plain kernel leaves empty buffers behind and has nothing to fold
        cycle, buffer = Cycle(run, layers, cursors=cursors), 1
    least = of.floor(moved, analysis.form, buffer)
    check = partial(step.check, f"{kernel} at batch {step.slots.numel()}")
    state = analysis.spec.storage.state.name
    return Contestant(kernel, OURS, state, buffer, least, error, run, cycle, check)


def theirs(analysis: Analysis, problem: Problem, entrant: Entrant) -> Contestant:
    """The peer on this problem, run once: what cannot run is not timed."""
    peer, layers = entrant.peer, problem.layers
    started = peer.start(problem)
    outputs: list[torch.Tensor] = [torch.empty(0)] * layers

    def run(before: Before | None = None) -> None:
        for layer in range(layers):
            if before is not None:
                before(layer)
            outputs[layer] = started.call(layer)
        started.end()

    def check() -> None:
        if any(bool(output.isnan().any()) for output in outputs):
            raise RuntimeError(f"{peer.name} left outputs unwritten or not a number")

    run()
    positions, length = started.positions, started.length
    begin = torch.arange(problem.rows, device=problem.slots.device, dtype=torch.int32) % length
    cycle = Cycle(run, layers, max(length, 4), positions, begin, length - 1)
    io = cost.cost(analysis.form, analysis.records).io
    moved = peer.floor_bytes(problem.sizes, problem.state, io)
    return Contestant(
        peer.name, peer.library, problem.state, peer.buffer, moved, entrant.error, run, cycle, check
    )


def memory_beside(analysis: Analysis, entrants: Sequence[Entrant]) -> int:
    """Bytes that the peers take for a row of a layer: states that they share, and their own."""
    if not entrants:
        return 0
    sizes, state = dict(analysis.spec.sizes), state_of(analysis)
    own = sum(entrant.peer.bytes_beside(sizes, state) for entrant in entrants)
    io = cost.cost(analysis.form, analysis.records).io
    return state_bytes(sizes, state) + own + len(entrants) * io
