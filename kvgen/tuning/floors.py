"""The time of the fewest bytes, for each kernel as its record counts time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvgen.codegen import cost
from kvgen.codegen.config import PROMPT_ROWS, TOKENS
from kvgen.compiler import Analysis
from kvgen.tuning.space import SHORT, tokens_of


def floor_us(analysis: Analysis, kernel: str, batch: int, buffer: int, bandwidth: float) -> float:
    """Microseconds of a layer. bandwidth: bytes a second."""
    total = cost.cost(analysis.form, analysis.records)
    match kernel:
        case "decode alone":
            moved = total.decode_only(buffer)
        case "recurrent":
            moved = total.recurrent()
        case "fold":
            moved = total.moved / buffer + total.record_fold
        case "verify" | "chain":
            tokens = tokens_of(analysis, kernel)
            moved = total.verify_only(max(buffer, tokens), tokens)
        case "extend":
            return total.extend(TOKENS["extend"]) * PROMPT_ROWS / bandwidth * 1e6
        case "short":
            moved = total.short(SHORT)
        case _:
            moved = total.floor(buffer)
    return moved * batch / bandwidth * 1e6


def mean_floor_us(
    analysis: Analysis, batches: Sequence[int], buffer: int, bandwidth: float
) -> float:
    """The geometric mean of a decode's over batches."""
    floors = [floor_us(analysis, "decode", batch, buffer, bandwidth) for batch in batches]
    return math.exp(sum(map(math.log, floors)) / len(floors))
