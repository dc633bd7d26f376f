"""The rows that a kernel is timed on: a model's layers, and states that no cache holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch

from kvgen.codegen import cost
from kvgen.compiler import Analysis
from kvgen.kernels.kernel import Kernel
from kvgen.timing import steps
from kvgen.timing.short import paged_step
from kvgen.timing.steps import Step, draw_cache, fitting_layers, make_step, with_tokens

# layers of a model, and of a prompt: divisible alike, for Triton may make other programs of others
LAYERS, PROMPT_LAYERS = 36, 4
# slots are a multiple of this, so that Triton makes one program for all batches
MULTIPLE = 16
# how often the cache on the chip must not hold what is read, and how often is enough: more layers
# of many rows only take longer
TIMES_L2, ENOUGH_L2 = 3, 24


@dataclass
class Rows:
    """Sets of `batch` rows in one cache; steps take them in turn, so that none finds its states in
    the cache on the chip. extra: what calls take beside inputs and parameters."""

    whole: Step
    sets: list[Step]
    batch: int
    extra: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def cache(self) -> Any:
        return self.whole.cache

    @property
    def layers(self) -> int:
        """Calls of a layer that one run makes."""
        return len(self.sets) * len(self.whole.inputs)

    @property
    def cycle(self) -> int:
        """Runs after which as many rows have folded as do on average."""
        rows = self.batch * len(self.sets)
        buffer = self.cache.buffer
        return 1 if rows % buffer == 0 else buffer

    def stand(self, cursors: torch.Tensor | int) -> None:
        """Cursors of the rows in use, in the order of the sets; nothing else is pending."""
        tensors = self.cache.tensors
        for name in ("pending", "skipped"):
            tensors[name].zero_()
        used = torch.cat([step.slots for step in self.sets]).long()
        tensors["cursors"].zero_()
        tensors["cursors"][used] = torch.as_tensor(
            cursors, dtype=torch.int32, device=used.device
        ).expand(used.numel())

    def staggered(self) -> torch.Tensor:
        return steps.staggered(self.batch * len(self.sets), self.cache.buffer)

    def spread(self, phases: int) -> torch.Tensor:
        return steps.spread(self.batch * len(self.sets), phases)

    def call(self, kernel: Kernel) -> Callable[[], None]:
        """One kernel in all layers of all sets."""

        def run() -> None:
            for step in self.sets:
                for layer, inputs in enumerate(step.inputs[:1] if kernel.folds else step.inputs):
                    out = {"out": step.out[layer]}
                    given = {**inputs, **step.params[layer], **self.extra, **out}
                    kernel.launch(step.module, step.cache, layer, step.slots, given)

        return run

    def poison(self) -> None:
        for step in self.sets:
            for out in step.out:
                out.fill_(math.nan)

    def unwritten(self) -> bool:
        outs = [out.isnan().any() for step in self.sets for out in step.out]
        return bool(torch.stack(outs).any())

    def fresh(self) -> None:
        """Initial states."""
        self.cache.reset(self.cache.every_slot)

    def redraw(self, analysis: Analysis) -> None:
        """Other states and records: kernels that write them may have blown them up."""
        draw_cache(analysis, self.cache)

    def each(self, call: Callable[[Step], object]) -> Callable[[], None]:
        def run() -> None:
            for step in self.sets:
                call(step)

        return run


def room(analysis: Analysis, kernel: Kernel, batch: int, buffer: int, l2: int) -> float:
    """Bytes that a kernel's rows take."""
    total = cost.cost(analysis.form, analysis.records)
    tokens, record = kernel.tokens(analysis.form), total.record + total.carried
    row = total.state + kernel.places(analysis.form, buffer) * record
    if kernel.prompt:
        return PROMPT_LAYERS * (MULTIPLE * row + batch * tokens * total.io)
    _, slots, layers = counts(analysis, kernel, batch, buffer, l2)
    if kernel.held:
        # the last page of each row is not full
        row = 2 * kernel.held * record
    return slots * layers * (row + tokens * total.io)


def make_rows(
    analysis: Analysis, module: ModuleType, kernel: Kernel, batch: int, buffer: int, l2: int
) -> Rows:
    """Rows for a batch. l2: bytes of the cache on the chip. A prompt takes its time: its rows are
    few, on a few layers, and all as long; rows without a state have room for the tokens they hold
    and the one that comes; those of single tokens take whole steps, through all layers of a
    model."""
    form, places = analysis.form, kernel.places(analysis.form, buffer)
    tokens = kernel.tokens(form)
    if kernel.prompt:
        whole = make_step(analysis, module, MULTIPLE, PROMPT_LAYERS, 0, places)
        step = with_tokens(analysis, part(whole, 0, batch), tokens)
        return Rows(whole, [step], batch, {"lengths": torch.full_like(step.slots, tokens)})
    sets, slots, most = counts(analysis, kernel, batch, buffer, l2)
    if kernel.held:
        whole = paged_step(analysis, module, slots, most, places, kernel.context, kernel.held)
    else:
        window = kernel.window(tokens)
        layers = fitting_layers(analysis, slots, most, places, window + 2)
        whole = make_step(analysis, module, slots, _alike(layers), window, places)
        if window:
            whole = with_tokens(analysis, whole, window)
    return Rows(whole, [part(whole, at * batch, batch) for at in range(sets)], batch)


def counts(
    analysis: Analysis, kernel: Kernel, batch: int, buffer: int, l2: int
) -> tuple[int, int, int]:
    """Sets of rows, the slots they take together, and the layers."""
    total = cost.cost(analysis.form, analysis.records)
    if kernel.held:
        return _counts(batch, total.record_read * kernel.held, l2)
    read = _read(total, kernel.places(analysis.form, buffer))
    return _counts(batch, read, l2, whole=not kernel.several)


def _read(total: cost.Cost, buffer: int) -> float:
    """Bytes that a row of a layer reads."""
    return total.read + total.record_read * buffer / 2


def _counts(batch: int, read: float, l2: int, whole: bool = False) -> tuple[int, int, int]:
    """Sets of rows of which each reads `read` bytes a layer, the slots they take together, and the
    layers. whole: all that a model has."""
    enough = math.ceil(ENOUGH_L2 * l2 / (batch * read))
    # so that what `_alike` leaves of them is enough
    layers = LAYERS if whole else _alike(min(LAYERS, enough + 7))
    sets = max(1, math.ceil(TIMES_L2 * l2 / (layers * batch * read)))
    slots = math.ceil(batch * sets / MULTIPLE) * MULTIPLE
    return min(slots // batch, sets), slots, layers


def _alike(layers: int) -> int:
    """No more, and divisible as LAYERS is."""
    return layers - (layers - LAYERS) % 8 if layers >= LAYERS % 8 else layers


def part(step: Step, start: int, count: int) -> Step:
    """Some of the rows, in memory of their own: what is cut out may be aligned otherwise."""
    rows = slice(start, start + count)
    return replace(
        step,
        slots=step.slots[rows].clone(),
        inputs=[{name: x[rows].clone() for name, x in each.items()} for each in step.inputs],
        out=[out[rows].clone() for out in step.out],
    )
