"""Tensors in a server's memory: whether any two elements share an address."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kvgen.runtime.arguments import wrong


class Span(NamedTuple):
    """Where a tensor lies: an address, the bytes of a block, and how often it stands: (blocks,
    bytes from one to the next), most blocks first, as the others are looked at one by one."""

    address: int
    size: int
    steps: list[tuple[int, int]]


def check_apart(tensors: Mapping[str, Tensor]) -> None:
    """No two elements share an address, though one tensor may lie in the gaps of another."""
    spans: list[tuple[str, Span]] = []
    for name, tensor in tensors.items():
        if tensor.device.type == "meta":
            continue
        span = span_of(tensor)
        if overlaps_itself(span):
            raise wrong(name, f"strides {tensor.stride()}", "elements that share no address")
        for other, beside in spans:
            if overlap(span, beside):
                came = f"shares memory with {other}"
                raise wrong(name, came, "elements that share no address")
        spans.append((name, span))


def span_of(tensor: Tensor) -> Span:
    size = tensor.element_size()
    steps: list[tuple[int, int]] = []
    if tensor.is_contiguous():
        return Span(tensor.data_ptr(), size * tensor.numel(), steps)
    given = [
        (stride * size, count)
        for count, stride in zip(tensor.shape[:2], tensor.stride()[:2], strict=True)
    ]
    size *= math.prod(tensor.shape[2:])
    for step, count in sorted(given):
        if step == size:
            # side by side they are one block
            size *= count
        elif count > 1:
            steps.append((count, step))
    steps.sort(reverse=True)
    return Span(tensor.data_ptr(), size, steps)


def comes_near(distance: int, step: int, low: int, high: int, before: int, behind: int) -> bool:
    """Whether distance + n * step lies between -before and behind for an n from low to high."""
    n = low if step == 0 else max(low, -(distance + before) // step + 1)
    return n <= high and -before < distance + n * step < behind


def overlaps_itself(span: Span) -> bool:
    if not span.steps:
        return False
    (count, step), *inner = span.steps
    size = span.size
    # of any two blocks one is not before the other along the step of fewer blocks
    return any(
        comes_near(gap, step, 1 - count if n else 1, count - 1, size, size)
        for n, gap in enumerate(offsets(inner))
    )


def offsets(steps: list[tuple[int, int]]) -> list[int]:
    """How far from the first the blocks along one step, or along none, lie."""
    return [n * step for count, step in steps or [(1, 0)] for n in range(count)]


def overlap(one: Span, other: Span) -> bool:
    """Whether two tensors have a byte in common."""
    ends = [
        span.address + span.size + sum((n - 1) * step for n, step in span.steps)
        for span in (one, other)
    ]
    if one.address >= ends[1] or other.address >= ends[0]:
        return False
    if one.steps and other.steps and one.steps[0][1] == other.steps[0][1]:
        # in pages of one size it counts where in a page they lie
        (count, step), (number, _) = one.steps[0], other.steps[0]
        near, far = offsets(one.steps[1:]), offsets(other.steps[1:])
        gaps = {other.address - one.address + there - here for here in near for there in far}
        return any(
            comes_near(gap, step, 1 - count, number - 1, other.size, one.size) for gap in gaps
        )
    starts, blocks = starts_of(one), starts_of(other)
    # the first block that ends behind where the other one begins
    at = torch.searchsorted(starts, blocks - one.size, right=True).clamp(max=starts.numel() - 1)
    return bool(((starts[at] > blocks - one.size) & (starts[at] < blocks + other.size)).any())


def starts_of(span: Span) -> Tensor:
    """Where blocks begin, in order."""
    starts = torch.tensor([span.address], dtype=torch.int64, device="cpu")
    for count, step in span.steps:
        places = torch.arange(count, dtype=torch.int64, device="cpu") * step
        starts = (starts[:, None] + places).flatten()
    return starts.sort().values
