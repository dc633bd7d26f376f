"""What the store knows of contexts too short for a state."""

from __future__ import annotations

from kvgen.explaining.short import Timed
from kvgen.kernels.decode import DECODE
from kvgen.kernels.short import SHORT
from kvgen.wisdom.store import Table


def timed(table: Table) -> list[Timed]:
    """Of every GPU and batch with both times."""
    found: list[Timed] = []
    for gpu, kernels in sorted(table.items()):
        for batch, answer in sorted(kernels.get(SHORT.name, {}).items()):
            stateful = kernels[DECODE.name].get(batch)
            if answer.record and stateful and stateful.record:
                us = answer.record.median, stateful.record.median
                found.append(Timed(gpu, batch, SHORT.held, *us))
    return found
