"""What a benchmark found: rows of times, the peers that ran and those that did not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kvgen.timing.drafts import DraftRow

OURS = "kvgen"


@dataclass(frozen=True)
class Row:
    """One kernel at one batch; times are microseconds for one layer of one step.

    state: how that kernel keeps the state. buffer: tokens between two writes of it. between_us:
    what it adds to a step with another kernel in front of every layer, as a server has them.
    """

    kernel: str
    batch: int
    layers: int
    us: float
    spread: float
    worst_us: float
    floor_us: float
    share: float
    error: float = math.nan
    library: str = OURS
    state: str = ""
    buffer: int = 0
    between_us: float = math.nan


@dataclass(frozen=True)
class Against:
    """A kernel of another library that was timed beside ours."""

    library: str
    kernel: str
    version: str
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """A peer that was asked for and is not, or not everywhere, in the report."""

    peer: str
    reason: str


@dataclass(frozen=True)
class Report:
    """spec, device and copy bandwidth (GB/s, bytes read and written), and the rows; drafts: those
    of steps with several tokens; tuned: the module's configurations were measured on this GPU."""

    spec: str
    storage: str
    dtype: str
    device: str
    versions: str
    copy_gbs: float
    layers: int
    buffer: int
    rows: tuple[Row, ...]
    drafts: tuple[DraftRow, ...] = ()
    peers: tuple[Against, ...] = ()
    absent: tuple[Absent, ...] = ()
    title: str = ""
    sizes: Mapping[str, int] | None = None
    date: str = ""
    tuned: bool = False

    def data(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Report:
        """A report as `data`, or `kvgen bench --json`, has written it."""
        parts = {"rows": Row, "drafts": DraftRow, "peers": Against, "absent": Absent}
        found = {
            name: tuple(made(**numbers(each)) for each in data.get(name, ()))
            for name, made in parts.items()
        }
        return cls(**{**data, **found})


def numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no inf: they were written as strings."""
    return {
        key: float(value) if value in ("nan", "inf", "-inf") else value
        for key, value in data.items()
    }
