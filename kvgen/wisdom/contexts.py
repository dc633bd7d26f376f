"""What the store knows of contexts too short for a state."""

from __future__ import annotations

from kvgen.explaining.short import Timed
from kvgen.wisdom.store import Table


def timed(table: Table, tokens: int) -> list[Timed]:
    """Of every GPU and batch with both times. tokens: those of a row without a state."""
    found: list[Timed] = []
    for gpu, kernels in sorted(table.items()):
        for batch, answer in sorted(kernels.get("short", {}).items()):
            stateful = kernels["decode"].get(batch)
            if answer.record and stateful and stateful.record:
                us = answer.record.median, stateful.record.median
                found.append(Timed(gpu, batch, tokens, *us))
    return found
