"""Model steps on random data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from kvgen.checking.samples import draw
from kvgen.codegen import cost
from kvgen.compiler import Analysis

Tensors = dict[str, torch.Tensor]
# what is launched in front of a layer's call
Before = Callable[[int], object]

DEVICE = "cuda"


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

    def layers(self, kernel: str, before: Before | None = None) -> None:
        """One call of each layer. before: what is launched in front of each."""
        call = getattr(self.module, kernel)
        for layer, (inputs, params) in enumerate(zip(self.inputs, self.params, strict=True)):
            if before is not None:
                before(layer)
            call(self.cache, layer, self.slots, **inputs, **params, out=self.out[layer])

    def run(self, kernel: str, before: Before | None = None) -> None:
        self.layers(kernel, before)
        self.module.advance(self.cache, self.slots)

    def staggered(self, phases: int, stride: int = 1) -> torch.Tensor:
        """Cursors dealt over the rows: 0, stride, … , (phases - 1) stride, and again."""
        return staggered(self.slots.numel(), phases) * stride

    def spread(self, phases: int) -> torch.Tensor:
        """Cursors for calls that leave them where they are."""
        return spread(self.slots.numel(), phases)

    def check(self, what: str) -> None:
        """Outputs were NaN before the first call."""
        if any(bool(out.isnan().any()) for out in self.out):
            raise RuntimeError(f"{what} left outputs unwritten or not a number")


def staggered(count: int, phases: int) -> torch.Tensor:
    """0, 1, … , phases - 1, and again."""
    return torch.arange(count, device=DEVICE, dtype=torch.int32) % phases


def spread(count: int, phases: int) -> torch.Tensor:
    """Evenly from 0 to phases - 1, their mean in the middle however few there are."""
    rows = torch.arange(count, device=DEVICE, dtype=torch.int32)
    return (2 * rows + 1) * phases // (2 * count)


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
