"""Times of configurations on a GPU: graphs of a model's layers, replayed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from kvgen.compiler import Analysis
from kvgen.kernels.decode import DECODE
from kvgen.kernels.fold import FOLD
from kvgen.kernels.kernel import Kernel
from kvgen.kernels.registry import named
from kvgen.timing import clock
from kvgen.timing.clock import Graph, launched
from kvgen.timing.rows import Rows, make_rows, room
from kvgen.timing.sampling import SAMPLE, Percentiles, Timing, by_turns, percentiles, sampled
from kvgen.tuning.oracle import Errors, Oracle, Prompt
from kvgen.tuning.space import Config

# of the free memory, what rows may take
FREE = 0.7


class WrongError(Exception):
    """A configuration that leaves outputs unwritten."""


@dataclass(frozen=True)
class Entry:
    """A whole step to time beside others. kernel: by name; config: its own, fold:
    that of the fold; buffer: of the cache. kept: it is timed to the end, however slow it is."""

    kernel: str
    config: Config
    fold: Config
    buffer: int
    kept: bool = False

    @property
    def plain(self) -> bool:
        return named(self.kernel).plain

    def cursors(self, rows: Rows) -> Any:
        """Where they stand before the first step; rows that are served plainly hold nothing."""
        return 0 if self.plain else rows.staggered()


class Bench:
    """One module on one GPU. It holds the rows of several batches, as far as there is room."""

    def __init__(
        self, analysis: Analysis, module: ModuleType, gpu: str, l2: int, device: str = "cuda"
    ) -> None:
        self.analysis, self.module, self.gpu, self.l2 = analysis, module, gpu, l2
        self.device = device
        self.rows: dict[Any, Rows] = {}
        # seconds that making them took
        self.made = 0.0
        self.oracles: dict[Any, Any] = {}
        self.default = module.CONFIGS["default"]

    # configurations

    def configure(self, batch: int, **configs: Config) -> None:
        """Let kernels run with these configurations, and all others with the untuned ones."""
        table = {kernel: dict(known) for kernel, known in self.default.items()}
        for kernel, config in configs.items():
            of = named(kernel)
            table = of.alone(table) | {kernel: {batch: of.asked(config)}}
        self.module.CONFIGS[self.gpu] = table

    # correctness

    def errors(self, kernel: str, config: Config, buffer: int) -> Errors:
        oracle = self._oracle(kernel, buffer)
        self.configure(1, **{kernel: config})
        found: list[Errors] = []
        launched(lambda: found.append(oracle.errors(named(kernel))))
        return found[0]

    def begin(self, kernel: str, buffer: int) -> None:
        """Make what configurations are checked against."""
        launched(lambda: self._oracle(kernel, buffer))

    def _oracle(self, name: str, buffer: int) -> Any:
        kernel = named(name)
        key = (*self._alike(kernel), buffer)
        if key not in self.oracles:
            # it is made by the untuned kernels
            self.configure(1)
            made = Prompt if kernel.prompt else Oracle
            self.oracles[key] = made(self.analysis, self.module, buffer, self.device, kernel)
        return self.oracles[key]

    def _alike(self, kernel: Kernel) -> tuple[int, ...]:
        """Equal for kernels that see the same of a row."""
        window = kernel.window(kernel.tokens(self.analysis.form))
        return window, kernel.prompt, kernel.context

    # one kernel alone

    def time(
        self, kernel: str, config: Config, batch: int, buffer: int, best: float | None
    ) -> Timing:
        """One kernel, its cursors spread and not moving; a fold in steady state. best: the fastest
        known, in microseconds."""
        of = named(kernel)
        rows = self._rows(batch, buffer, of)
        self.configure(batch, **{kernel: config})
        run, cursors = rows.call(of), of.cursors(rows, self.analysis.form)
        self._tried(run, of, rows, cursors)
        with Graph(run) as graph:
            rows.stand(cursors)
            return sampled(graph.replay, of.cycle(rows), rows.layers, best)

    def _tried(self, run: Callable[[], None], kernel: Kernel, rows: Rows, cursors: Any) -> None:
        """Run once. Raises WrongError where outputs are left unwritten or not a number."""
        for again in (False, True):
            if again:
                # what ran before may have left states that are no numbers
                rows.redraw(self.analysis)
            if kernel.prompt:
                rows.fresh()
            rows.stand(cursors)
            rows.poison()
            launched(run)
            if kernel.folds or not rows.unwritten():
                return
        what = f"{kernel.name} of {rows.batch} rows"
        raise WrongError(f"{what} left outputs unwritten, or not a number")

    # whole steps

    def steps(self, batch: int, entries: Sequence[Entry]) -> tuple[list[Percentiles], int]:
        """Whole model steps in steady state, folds included, of one layer; by turns, so that what
        disturbs one disturbs all. And how many layers there were."""
        all_rows: dict[int, Rows] = {}
        for entry in entries:
            if entry.buffer not in all_rows:
                held = [id(rows) for rows in all_rows.values()]
                all_rows[entry.buffer] = self._rows(batch, entry.buffer, DECODE, held)
        graphs: list[Graph] = []
        for entry in entries:
            rows = all_rows[entry.buffer]
            self.configure(batch, **{entry.kernel: entry.config, FOLD.name: entry.fold})
            kernel = named(entry.kernel)
            run = rows.each(lambda step, kernel=kernel: step.run(kernel.function))
            self._tried(run, kernel, rows, entry.cursors(rows))
            graphs.append(Graph(run))
        takes = [
            _taken(graph, rows, entry.cursors(rows), 1 if entry.plain else rows.cycle)
            for entry, graph in zip(entries, graphs, strict=True)
            for rows in (all_rows[entry.buffer],)
        ]
        found = by_turns(takes, [(entry.kernel, entry.buffer, entry.kept) for entry in entries])
        for graph in graphs:
            graph.end()
        layers = min(len(rows.whole.inputs) for rows in all_rows.values())
        return [percentiles(seconds) for seconds in found], layers

    def hold(self, kernel: str, batch: int, buffer: int) -> int:
        """Make the rows that a kernel is timed on, if they are not there; how many layers."""
        return len(self._rows(batch, buffer, named(kernel)).whole.inputs)

    # memory

    def _rows(self, batch: int, buffer: int, kernel: Kernel, held: Sequence[int] = ()) -> Rows:
        """The rows of a batch; those that were not used for longest make room. held: identities of
        rows that stay."""
        key = (*self._alike(kernel), batch, kernel.places(self.analysis.form, buffer))
        found = self.rows.pop(key, None)
        if found is None:
            began = time.monotonic()
            wanted = room(self.analysis, kernel, batch, buffer, self.l2)
            torch.cuda.empty_cache()
            for old in [old for old, rows in self.rows.items() if id(rows) not in held]:
                if FREE * torch.cuda.mem_get_info()[0] > wanted:
                    break
                del self.rows[old]
                torch.cuda.empty_cache()
            self.configure(batch)
            found = make_rows(self.analysis, self.module, kernel, batch, buffer, self.l2)
            torch.cuda.synchronize()
            self.made += time.monotonic() - began
        self.rows[key] = found
        return found

    def free(self) -> None:
        self.rows.clear()
        torch.cuda.empty_cache()


def _taken(graph: Graph, rows: Rows, cursors: Any, cycle: int) -> Callable[[], float]:
    """Seconds of a layer in whole cycles of folds."""
    count = 0

    def take() -> float:
        nonlocal count
        rows.stand(cursors)
        if not count:
            once = clock.time_of(graph.replay)
            count = cycle * math.ceil(2 * SAMPLE / (cycle * max(once, 1e-6)))
            rows.stand(cursors)
        return clock.time_of(lambda: graph.replays(count)) / (count * rows.layers)

    return take
