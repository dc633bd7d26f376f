"""Kernels compiled before requests come: all configurations that a server's batches take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch

from kvgen.integrations.vllm.group import PADDING, Group

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


def warm(group: Group, given: Given, most: int) -> None:
    """Run all calls of a step on rows of padding, which changes nothing. Nothing is compiled in the
    interpreter."""
    cache, module = group.cache, group.module
    if cache.device.type != "cuda":
        return
    for rows in batches(most):
        slots = torch.full((rows,), PADDING, dtype=torch.int32, device=cache.device)
        none = torch.zeros_like(slots)
        # a layer behind another one may begin early: that is another kernel
        layers = range(min(2, group.size))
        for layer in layers:
            inputs, out = given(rows, 1)
            module.decode(cache, layer, slots, **inputs, out=out)
        module.advance(cache, slots)
        module.flush(cache, slots)
        cache.seek(slots, none)
        if cache.window:
            for layer in layers:
                inputs, _ = given(rows, cache.window)
                module.verify(cache, layer, slots, **inputs)
            module.accept(cache, slots, counts=none, late=True)
