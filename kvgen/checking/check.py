"""A spec's module against the recurrence in float64: many tokens, in all that a server does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from kvgen.checking.cases import CASES
from kvgen.checking.checker import Checker, Row, bounds
from kvgen.checking.interpreter import DeviceError, ordered, require, rounding
from kvgen.checking.quick import quick
from kvgen.checking.samples import Sampler
from kvgen.compiler import Analysis

__all__ = ["CASES", "DeviceError", "Report", "Row", "bounds", "check"]


@dataclass(frozen=True)
class Report:
    """Every row; drawn: what was drawn for each input and parameter, and what was left out."""

    spec: str
    device: str
    rows: tuple[Row, ...]
    drawn: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    def data(self) -> dict[str, Any]:
        return {
            "spec": self.spec,
            "device": self.device,
            "ok": self.ok,
            "rows": [vars(row) for row in self.rows],
            "drawn": dict(self.drawn),
        }


def check(
    analysis: Analysis,
    device: str,
    progress: Callable[[str], None] | None = None,
    only: Collection[str] | None = None,
) -> Report:
    """Compile the spec and run every case of CASES, or those in `only`.

    device: 'cpu' runs the kernels in Triton's interpreter, at small sizes; 'cuda' at the spec's.
    Raises DeviceError where the kernels cannot run there.
    """
    require(device)
    chosen = {name: case for name, case in CASES.items() if only is None or name in only}
    checker = Checker(analysis, device)
    with rounding(), quick(), ordered() as any_order:
        for place, (name, case) in enumerate(chosen.items(), 1):
            if progress is not None:
                progress(f"{place} of {len(chosen)}: {name}")
            case(checker, name)
    for quantity, error in checker.strays.items():
        what = {"padding": "padding rows' outputs", "other slots": "writes to other slots"}
        checker.add("every case", what[quantity], error, 0.0)
    checker.notes["order of programs"] = _order(device, any_order)
    drawn = {**Sampler(analysis.spec, "cpu").drawn(), **dict(_conditions(checker)), **checker.notes}
    return Report(analysis.spec.name, device, tuple(checker.rows), tuple(drawn.items()))


def _conditions(checker: Checker) -> Iterator[tuple[str, str]]:
    sizes = " ".join(f"{name}={size}" for name, size in checker.sizes().items())
    yield "sizes", sizes
    yield "all inputs", "float32 where the case does not say otherwise; parameters float32"
    yield "given states", "0.5 N(0, 1); carried ones uniform in (0.5, 1.5)"


def _order(device: str, any_order: bool) -> str:
    """In which order programs of a launch ran."""
    if device != "cpu":
        return "the GPU's"
    if any_order:
        return "of every launch drawn: forward, reversed or shuffled"
    return "forward, as this Triton's interpreter tells no other"
