"""The time of the fewest bytes, for each kernel as its record counts time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvgen.codegen import cost
from kvgen.compiler import Analysis
from kvgen.kernels.decode import DECODE
from kvgen.kernels.registry import named


def floor_us(analysis: Analysis, kernel: str, batch: int, buffer: int, bandwidth: float) -> float:
    """Microseconds of a layer. bandwidth: bytes a second."""
    total = cost.cost(analysis.form, analysis.records)
    return named(kernel).floor(total, analysis.form, buffer) * batch / bandwidth * 1e6


def alone_us(analysis: Analysis, kernel: str, batch: int, buffer: int, bandwidth: float) -> float:
    """The same of the kernel alone, as studies time it."""
    return moved(analysis, kernel, buffer) * batch / bandwidth * 1e6


def moved(analysis: Analysis, kernel: str, buffer: int) -> float:
    """The fewest bytes of a row, layer and step, of the kernel alone."""
    total = cost.cost(analysis.form, analysis.records)
    return named(kernel).moved(total, analysis.form, buffer)


def mean_floor_us(
    analysis: Analysis, batches: Sequence[int], buffer: int, bandwidth: float
) -> float:
    """The geometric mean of a decode's over batches."""
    floors = [floor_us(analysis, DECODE.name, batch, buffer, bandwidth) for batch in batches]
    return math.exp(sum(map(math.log, floors)) / len(floors))
