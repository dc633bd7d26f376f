"""What a check's cases share: the modules and twins they run, and the errors they find."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from kvgen import compiler
from kvgen.checking.paged import PagedTwin
from kvgen.checking.roundings import APART
from kvgen.checking.twin import Made, Twin
from kvgen.compiler import Analysis
from kvgen.language.spec import Spec, Storage
from kvgen.runtime.numbers import power_of_two

# float32 inputs, state and records; what two kernels of one module may differ by
EXACT = 2e-5
SAME = 2e-6
ROUNDED_OUTPUT = 4e-3


# how much of that may add up over the tokens of a case, and of the operations of a window
TOKENS = 200


def rounded_apart(spec: Spec) -> float:
    """What a row may be off by where four elements of a state in 16 bits, which sums in another
    order have between two numbers, are rounded to the one and to the other."""
    state = spec.storage.state
    if not state.rounds:
        return 0.0
    step = torch.finfo(getattr(torch, state.planes[0].dtype.name)).eps
    return 4 * step / math.sqrt(spec.size("K") * spec.size("V"))


@dataclass(frozen=True)
class Row:
    """The worst error of one quantity in one case."""

    case: str
    quantity: str
    error: float
    bound: float
    ok: bool


def bounds(storage: Storage, dtype: torch.dtype) -> tuple[float, float]:
    """What outputs and states may be off by: a read in 16 bits rounds, and so do
    records and outputs in them."""
    output = EXACT if dtype == torch.float32 else ROUNDED_OUTPUT
    output, least = storage.state.read_bound or output, storage.records.bound
    return max(output, least), max(storage.state.bound, least)


@dataclass
class Checker:
    """Makes the twins that the cases run, and keeps what they found."""

    analysis: Analysis
    device: str
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    modules: dict[tuple[tuple[str, int], ...], Made] = field(default_factory=dict)
    strays: dict[str, float] = field(default_factory=dict)

    @property
    def quick(self) -> bool:
        """In the interpreter a program takes milliseconds."""
        return self.device == "cpu"

    def sizes(self, **changed: int) -> dict[str, int]:
        """The spec's sizes, or small ones with as many value heads to a key head."""
        spec = self.analysis.spec
        ratio = spec.ratio
        found = {name: spec.size(name) for name in ("H", "HV", "K", "V")}
        if self.quick:
            heads = min(found["H"], 2)
            found = {"H": heads, "HV": heads * (ratio if ratio <= 4 else 2)}
            found |= {"K": min(spec.size("K"), 32), "V": min(spec.size("V"), 16)}
        return found | changed

    def one_group(self, **changed: int) -> dict[str, int]:
        """One key head in the interpreter, where the number of heads is not the point."""
        found = self.sizes()
        if self.quick:
            found |= {"H": 1, "HV": found["HV"] // found["H"]}
        return found | changed

    def many_groups(self) -> dict[str, int]:
        """Enough key heads that some of them read well what is left after strong decays: one
        token's write, which a random key may miss, as a state in 16 bits does not forgive."""
        found = self.sizes()
        ratio, heads = found["HV"] // found["H"], max(found["H"], 6)
        return found | {"H": heads, "HV": heads * ratio}

    def made(self, sizes: dict[str, int]) -> Made:
        key = tuple(sizes.items())
        if key not in self.modules:
            overrides = {f"sizes.{name}": str(size) for name, size in sizes.items()}
            analysis = compiler.analyse(self.analysis.spec.text, overrides)
            self.modules[key] = Made(analysis, compiler.built(analysis))
        return self.modules[key]

    def twin(
        self,
        sizes: dict[str, int],
        buffer: int = 4,
        layers: int = 2,
        context: int = 0,
        **options: Any,
    ) -> Twin:
        """buffer, layers: in the interpreter. A GPU takes the spec's own buffer, so that less is
        compiled, and two layers. context: how long rows stay short, 0 for those with a state."""
        options["buffer"] = buffer if self.quick or buffer == 1 else None
        options["layers"] = layers if self.quick else 2
        if context:
            return PagedTwin(self.made(sizes), self.device, context=context, **options)
        return Twin(self.made(sizes), self.device, **options)

    @contextmanager
    def parted(self, twin: Twin) -> Iterator[None]:
        """In the interpreter, let several programs share a head, as they do on a GPU: the rules of
        thumb give the few value channels that are taken there to one."""
        form, known = twin.form, twin.module.CONFIGS["default"]
        if self.quick and not form.whole_v:
            width = power_of_two(form.spec.size("V")) // 2
            twin.module.CONFIGS["default"] = {
                kernel: {
                    batch: {**config, "TILE": max(1, min(config["TILE"], width))}
                    for batch, config in configs.items()
                }
                for kernel, configs in known.items()
            }
        try:
            yield
        finally:
            twin.module.CONFIGS["default"] = known

    def report(self, case: str, twin: Twin, least: float = 0.0) -> None:
        """A row for the outputs and for every state; stray writes are collected over all cases.

        least: what bounds are raised to."""
        output, state = (
            max(bound, least) for bound in bounds(self.analysis.spec.storage, twin.dtype)
        )
        # where outputs are small differences, one rounding of the state shows what can be asked
        output = max(output, 3 * twin.rounding)
        for quantity, error in twin.found.items():
            if quantity in ("padding", "other slots"):
                self.strays[quantity] = max(self.strays.get(quantity, 0.0), error)
            else:
                bound = output if quantity == "output" else state
                # a token's own error in float32, as those before it have added to it
                bound = max(bound, TOKENS * twin.single.get(quantity, 0.0))
                bound = max(bound, APART * twin.apart.get(quantity, 0.0))
                self.add(case, quantity, error, bound)

    def add(self, case: str, quantity: str, error: float, bound: float) -> None:
        self.rows.append(Row(case, quantity, error, bound, bool(error <= bound)))
