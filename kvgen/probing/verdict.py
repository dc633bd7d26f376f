"""What the programs of a module come to on a GPU: a row for each kernel, a line for the target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvgen.kernels.size import shared_limit
from kvgen.probing.probe import KernelUsage

# of a compiler's own words so many are enough for a line
SHOWN = 60


@dataclass(frozen=True)
class Kernel:
    """All programs of one kernel, by the worst of them.

    registers, spills: for each thread, the latter in bytes. shared: bytes. unfit: why one of them
    cannot be launched, else None.
    """

    kernel: str
    programs: int
    registers: int | None
    spills: int | None
    shared: int
    unfit: str | None

    @property
    def found(self) -> str:
        """In a word or two."""
        if self.unfit:
            return self.unfit
        return "spills" if self.spills else "fits"


def unfit(usage: KernelUsage, target: str) -> str | None:
    """Why a GPU cannot run the program."""
    if usage.error:
        error = usage.error.splitlines()[0]
        return error if len(error) <= SHOWN else f"{error[: SHOWN - 3]}..."
    if usage.shared > shared_limit(target):
        return f"{usage.shared:,} bytes of shared memory, of {shared_limit(target):,}"
    return None


def kernels(usages: Iterable[KernelUsage], target: str) -> list[Kernel]:
    """A row for each kernel, what is worst first."""
    grouped: dict[str, list[KernelUsage]] = {}
    for usage in usages:
        grouped.setdefault(usage.kernel, []).append(usage)
    rows = [
        Kernel(
            name,
            len(found),
            max((u.registers for u in found if u.registers is not None), default=None),
            max((u.spills for u in found if u.spills is not None), default=None),
            max(u.shared for u in found),
            next(filter(None, (unfit(u, target) for u in found)), None),
        )
        for name, found in grouped.items()
    ]
    return sorted(rows, key=lambda row: (row.unfit is None, -(row.spills or 0)))


def line(rows: Iterable[Kernel], target: str) -> str:
    """What fits, what spills, what cannot be built."""
    rows = list(rows)
    fit = sum(row.found == "fits" for row in rows)
    parts = [f"{target}: {fit} of {len(rows)} kernels fit"]
    spilling = [f"{row.kernel} {row.spills:,}" for row in rows if row.found == "spills"]
    if spilling:
        parts.append(f"spill bytes of a thread: {', '.join(spilling)}")
    broken = [f"{row.kernel} ({row.unfit})" for row in rows if row.unfit]
    if broken:
        parts.append(f"cannot be built: {', '.join(broken)}")
    return "; ".join(parts)
