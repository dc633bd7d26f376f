"""Whole model steps, folds included: what decides between finalists, and the buffer's length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvgen.compiler import Analysis
from kvgen.kernels.decode import DECODE
from kvgen.kernels.fold import FOLD
from kvgen.kernels.recurrent import RECURRENT
from kvgen.kernels.registry import named
from kvgen.tuning import space
from kvgen.tuning.evaluate import Programs
from kvgen.tuning.plan import SINGLE
from kvgen.tuning.space import Config
from kvgen.tuning.trials import Outcome
from kvgen.tuning.workers import Worker, unless_killed

Percentiles = tuple[float, float, float]
# the best of a kernel at a batch
Best = Callable[[str, int, int], list[Config]]

# whole steps of so many decodes and plain kernels are compared; of decodes at another length than
# the one they were found with
FINALISTS, PLAIN, OF_BUFFER = 5, 2, 2
# medians so near to each other are equal, and so are buffers
NOISE, EQUAL = 0.005, 0.01


@dataclass
class Whole:
    """steps: (kernel, batch) -> configurations with their times, the chosen one first. buffers: the
    length they were timed at. before: what an untuned module takes. lengths: batch -> buffer ->
    microseconds. layers: by batch."""

    analysis: Analysis
    programs: Programs
    batches: Sequence[int]
    default: int
    best: Best
    steps: dict[tuple[str, int], list[tuple[Config, Percentiles]]] = field(default_factory=dict)
    buffers: dict[tuple[str, int], int] = field(default_factory=dict)
    before: dict[tuple[str, int], float] = field(default_factory=dict)
    lengths: dict[int, dict[int, float]] = field(default_factory=dict)
    layers: dict[int, int] = field(default_factory=dict)

    def first(self, worker: Worker, batch: int) -> str:
        """Finalists at the length they were found with, the best of them at other lengths, plain
        kernels, and what an untuned module does, beside each other. What to say of it."""
        [fold] = self.best(FOLD.name, batch, 1)
        wanted = [
            (DECODE.name, config, fold, length)
            for length in self._lengths()
            for config in self.best(
                DECODE.name, batch, FINALISTS if length == self.default else OF_BUFFER
            )
        ]
        untuned = {kernel: space.default(self.analysis, kernel, batch) for kernel in SINGLE}
        # which fold has nothing to do is all the same
        wanted += [
            (RECURRENT.name, config, untuned[FOLD.name], self.default)
            for config in self.best(RECURRENT.name, batch, PLAIN)
        ]
        before = [
            (kernel, untuned[kernel], untuned[FOLD.name], self.default)
            for kernel in (DECODE.name, RECURRENT.name)
        ]
        found = self._timed(worker, batch, wanted, before)
        lengths: dict[int, float] = {}
        for (kernel, _, _, length), us in found:
            if not named(kernel).plain:
                lengths[length] = min(us[1], lengths.get(length, math.inf))
        times = {_key(entry): us for entry, us in found}
        for entry in before:
            if _key(entry) in times:
                self.before[entry[0], batch] = times[_key(entry)][1]
        self.lengths[batch] = lengths
        self._choose(DECODE.name, batch, self.default, fold, found)
        self._choose(RECURRENT.name, batch, self.default, untuned[FOLD.name], found)
        shown = ", ".join(f"{length}: {us:.2f}" for length, us in sorted(lengths.items()))
        return f"{self._said(batch)}; by buffer {shown}"

    def again(self, worker: Worker, batch: int, buffer: int) -> str:
        """Decodes at the length that was chosen."""
        [fold] = self.best(FOLD.name, batch, 1)
        wanted = [(DECODE.name, c, fold, buffer) for c in self.best(DECODE.name, batch, FINALISTS)]
        self._choose(DECODE.name, batch, buffer, fold, self._timed(worker, batch, wanted, []))
        return f"{self._said(batch)}; buffer {buffer}"

    def prepare(self, batch: int, later: bool) -> None:
        """Compile what `first` will run."""
        [fold] = self.best(FOLD.name, batch, 1)
        for length in self._lengths():
            # what results are compared with is made by the untuned kernels
            for kernel in (DECODE.name, FOLD.name):
                untuned = space.default(self.analysis, kernel, 1)
                self.programs.begin(kernel, [untuned], length, later)
            self.programs.begin(
                DECODE.name, self.best(DECODE.name, batch, FINALISTS), length, later
            )
            self.programs.begin(FOLD.name, [fold], length, later)

    def means(self) -> dict[int, float]:
        """For each length that serves all batches the geometric mean of their times, all counting
        alike."""
        if len(self.lengths) < len(self.batches) or len(self._lengths()) < 2:
            return {}
        common = set.intersection(*(set(found) for found in self.lengths.values()))
        return {
            length: math.exp(
                sum(math.log(found[length]) for found in self.lengths.values()) / len(self.lengths)
            )
            for length in sorted(common)
        }

    def buffer(self) -> int:
        """The length of the least mean; of equal ones the smallest."""
        means = self.means()
        if not means:
            return self.default
        least = min(means.values())
        return min(length for length, mean in means.items() if mean <= least * (1 + EQUAL))

    def _lengths(self) -> list[int]:
        return space.buffers(self.analysis)

    def _timed(
        self, worker: Worker, batch: int, wanted: Sequence[Any], kept: Sequence[Any]
    ) -> list[tuple[Any, Percentiles]]:
        """Those that run, each once, with their times."""
        keys = {_key(entry) for entry in kept}
        entries = {_key(entry): entry for entry in (*kept, *wanted)}
        for kernel, config, fold, length in entries.values():
            self.programs.begin(kernel, [config], length)
            self.programs.begin(FOLD.name, [fold], length)
        fit = {
            name: entry
            for name, entry in entries.items()
            if self._fits(worker, *entry, kept=name in keys)
        }
        asked = [
            dict(kernel=kernel, config=config, fold=fold, buffer=length, kept=name in keys)
            for name, (kernel, config, fold, length) in fit.items()
        ]
        answer = unless_killed(
            lambda: worker.ask(self.programs.job, "steps", batch=batch, entries=asked)
        )
        self.layers[batch] = int(answer["layers"])
        times = [(us[0], us[1], us[2]) for us in answer["us"]]
        return list(zip(fit.values(), times, strict=True))

    def _fits(
        self, worker: Worker, kernel: str, config: Config, fold: Config, length: int, kept: bool
    ) -> bool:
        """Whether both run and are right at this length, too. kept: even where they spill."""
        for name, each in ((kernel, config), (FOLD.name, fold)):
            why = self.programs.unfit(name, each, length)
            if why is not None and not (kept and why.verdict == "spills"):
                return False
            if isinstance(self.programs.check(worker, name, each, length), Outcome):
                return False
        return True

    def _choose(
        self,
        kernel: str,
        batch: int,
        buffer: int,
        fold: Config,
        found: Sequence[tuple[Any, Percentiles]],
    ) -> None:
        """Of what ran with the fold that was chosen."""
        self.buffers[kernel, batch] = buffer
        self.steps[kernel, batch] = preferred(
            [
                (config, us)
                for (name, config, with_fold, length), us in found
                if name == kernel and length == buffer and with_fold == fold
            ]
        )

    def _said(self, batch: int) -> str:
        shown = [
            f"{kernel} {self.steps[kernel, batch][0][1][1]:.2f} us "
            f"(untuned {self.before[kernel, batch]:.2f})"
            for kernel in (DECODE.name, RECURRENT.name)
            if self.steps.get((kernel, batch)) and (kernel, batch) in self.before
        ]
        return ", ".join(shown)


def _key(entry: Any) -> str:
    kernel, config, fold, length = entry
    return repr((kernel, sorted(config.items()), sorted(fold.items()), length))


def preferred(
    found: Sequence[tuple[Config, Percentiles]],
) -> list[tuple[Config, Percentiles]]:
    """Fastest first; of those that no measurement tells apart, the one of the fewest warps."""
    ordered = sorted(found, key=lambda each: each[1][1])
    if not ordered:
        return []
    best = ordered[0][1]
    limit = max(best[2], best[1] * (1 + NOISE))
    near = [each for each in ordered if each[1][1] <= limit]
    first = min(near, key=lambda each: (each[0]["num_warps"], each[1][1]))
    return [first, *(each for each in ordered if each is not first)]
