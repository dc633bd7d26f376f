"""Tensors whose strides reach beyond 2**31 elements, of which only what is used takes memory."""

from __future__ import annotations

import functools
import math
import mmap

import pytest
import torch

# the third of such steps is beyond 32 bits, and each of them is within
STRIDE = 2**30 + 16
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
# between tensors
APART = 2**20
MOST = 64


@functools.cache
def _memory() -> torch.Tensor:
    """Enough float32 for three such steps, and in front of them for what 32 bits make of a step:
    an address that is wrong is a wrong value, not the end of the process."""
    count = 2**31 + 3 * STRIDE + MOST * APART
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    try:
        mapped = mmap.mmap(-1, 4 * count, flags=flags)
    except (OSError, ValueError, OverflowError) as error:
        pytest.skip(f"no {4 * count / 2**30:.0f} GiB of addresses: {error}")
    return torch.frombuffer(mapped, dtype=torch.uint8)


class Far:
    """Gives out tensors that lie side by side in one mapping."""

    def __init__(self) -> None:
        self.given = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype, axis: int) -> torch.Tensor:
        """Uninitialised, contiguous but for one axis, whose stride is STRIDE."""
        assert shape[axis] <= 4 and self.given < MOST
        rest = [size for i, size in enumerate(shape) if i != axis]
        assert math.prod(rest) <= APART
        strides = [math.prod(rest[i + 1 :]) for i in range(len(rest))]
        strides.insert(axis, STRIDE)
        start = 2**31 + self.given * APART
        self.given += 1
        size = torch.empty(0, dtype=dtype).element_size()
        # a view of the mapping cut where wider elements would not fit
        whole = _memory()[: _memory().numel() // size * size].view(dtype)
        return whole.as_strided(shape, strides, start)

    def like(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return self.empty(tuple(x.shape), x.dtype, axis).copy_(x)
