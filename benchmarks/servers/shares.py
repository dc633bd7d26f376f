"""What part of a step's time on the GPU is linear attention."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.servers.named import Figures


def shares(whose: str, rows: Iterable[Figures]) -> str:
    """A sentence of it from batch to batch; empty where no row was profiled."""
    told = [
        f"{row['gpu']['linear_us'] / row['gpu']['total_us']:.0%} at {row['batch']}"
        for row in rows
        if row.get("gpu", {}).get("total_us")
    ]
    if not told:
        return ""
    return f"Linear attention is of {whose} time on the GPU, by batch: {', '.join(told)}."
