"""Kernels compiled before requests come: all configurations that a server's batches take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from kvgen.integrations.vllm.group import PADDING, Groups

# inputs and parameters by name of so many rows, of one token or of a window of them, and `out`
Given = Callable[[int, int], tuple[Mapping[str, torch.Tensor], torch.Tensor]]


def batches(most: int) -> Iterator[int]:
    """Batches that between them take every configuration of every batch up to the most.

    Configurations change between powers of two; Triton compiles another kernel for a number that 16
    divides, and for 1.
    """
    yield 1
    power = 2
    while power < most:
        yield from (power, power + 1)
        power *= 2
    if most > 1:
        yield most


def warm(groups: Groups, given: Given, most: int) -> None:
    """Run all calls of a step on rows of padding, which changes nothing. Nothing is compiled in the
    interpreter."""
    module, group = groups.module, groups.each[0]
    cache = group.cache
    if cache.device.type != "cuda":
        return
    for rows in batches(most):
        slots = torch.full((rows,), PADDING, dtype=torch.int32, device=cache.device)
        # a layer behind another one may begin early: that is another kernel
        layers = range(min(2, group.size))
        for layer in layers:
            inputs, out = given(rows, 1)
            module.decode(cache, layer, slots, **inputs, out=out)
        # what begins and ends a step goes over all groups
        every = slots.repeat(len(groups.each)) if groups.shared else slots
        none = torch.zeros_like(every)
        module.advance(cache, every)
        module.flush(cache, every)
        cache.seek(every, none)
        if cache.window:
            for layer in layers:
                inputs, _ = given(rows, cache.window)
                module.verify(cache, layer, slots, **inputs)
            module.accept(cache, every, counts=none, late=True)
