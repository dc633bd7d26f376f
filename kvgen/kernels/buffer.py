"""The length of a cache's buffer, which is tuned as kernels are."""

from __future__ import annotations

from collections.abc import Sequence

from kvgen.kernels.kernel import Subject


class Buffer(Subject):
    name = "buffer"
    knobs = ("buffer",)
    every_batch = True

    def batches(self, asked: Sequence[int]) -> Sequence[int]:
        return (0,)


BUFFER = Buffer()
