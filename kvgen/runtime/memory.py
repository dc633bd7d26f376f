"""Memory that others have allocated: whether any two elements share an address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kvgen.runtime.arguments import (
    Sized,
    check_contiguous,
    check_tensor,
    strict,
    wrong,
)


def check_out(
    cache: Sized, out: Any, front: tuple[int, ...], given: Mapping[str, Tensor]
) -> Tensor:
    """Where outputs go of so many rows, or rows and tokens: as given, or room for them."""
    like = given[cache.table.output_like]
    shape = (*front, cache.heads, cache.table.sizes["V"])
    if out is None:
        return torch.empty(shape, dtype=like.dtype, device=cache.device)
    check_tensor("out", out, shape, like.dtype, cache.device)
    check_contiguous("out", out)
    # along each axis, the shortest steps first, what lies within a step fits into it
    extent = 1
    for stride, size in sorted(zip(out.stride(), out.shape, strict=True)):
        if size > 1 and stride < extent:
            raise wrong("out", f"strides {out.stride()}", "elements that share no address")
        extent += (size - 1) * stride
    # outputs are written while others are still to be computed
    own = {f"the cache's {name}": x for name, x in cache.named().items()} if strict(out) else {}
    memory = out.untyped_storage().data_ptr()
    for name, x in (*given.items(), *own.items()):
        if x.untyped_storage().data_ptr() != memory or not (out.numel() and x.numel()):
            continue
        if overlap(span_of(out), span_of(x)):
            raise wrong("out", f"shares memory with {name}", "memory of its own")
    return out


# of blocks in two tensors that are looked at one by one
PAIRS = 4096


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
    sides = zip(tensor.stride(), tensor.shape, strict=True)
    for step, count in sorted((stride * size, count) for stride, count in sides):
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
    """How far from the first the blocks along these steps lie."""
    found = [0]
    for count, step in steps:
        found = [start + n * step for start in found for n in range(count)]
    return found


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
        if len(near) * len(far) <= PAIRS:
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
