"""Times of configurations on a GPU: graphs of a model's layers, replayed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from kvgen.codegen.config import DRAFTS, TOKENS
from kvgen.compiler import Analysis
from kvgen.timing.steps import Step, time_of
from kvgen.tuning.oracle import Errors, Oracle, Prompt
from kvgen.tuning.replay import (
    SAMPLE,
    Graph,
    Percentiles,
    Timing,
    by_turns,
    launched,
    percentiles,
    sampled,
)
from kvgen.tuning.rows import Rows, make_prompts, make_rows, make_short, room
from kvgen.tuning.space import CONTEXT, SHORT, Config, tokens_of

# of the free memory, what rows may take
FREE = 0.7


class WrongError(Exception):
    """A configuration that leaves outputs unwritten."""


@dataclass(frozen=True)
class Entry:
    """A whole step to time beside others. kernel: 'decode' or 'recurrent'; config: its own, fold:
    that of the fold; buffer: of the cache. kept: it is timed to the end, however slow it is."""

    kernel: str
    config: Config
    fold: Config
    buffer: int
    kept: bool = False

    @property
    def plain(self) -> bool:
        return self.kernel == "recurrent"

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
        table |= {kernel: {batch: config} for kernel, config in configs.items()}
        self.module.CONFIGS[self.gpu] = table

    # correctness

    def errors(self, kernel: str, config: Config, buffer: int) -> Errors:
        oracle = self._oracle(kernel, buffer)
        self.configure(1, **{kernel: config})
        found: list[Errors] = []
        launched(lambda: found.append(oracle.errors(kernel)))
        return found[0]

    def begin(self, kernel: str, buffer: int) -> None:
        """Make what configurations are checked against."""
        launched(lambda: self._oracle(kernel, buffer))

    def _oracle(self, kernel: str, buffer: int) -> Any:
        key = (kernel if kernel in ("extend", "short", *DRAFTS) else "decode", buffer)
        if key not in self.oracles:
            # it is made by the untuned kernels
            self.configure(1)
            what = (self.analysis, self.module, buffer, self.device)
            match kernel:
                case "extend":
                    made: Any = Prompt(*what)
                case "short":
                    made = Oracle(*what, context=CONTEXT)
                case "verify" | "chain":
                    made = Oracle(*what, tokens=tokens_of(self.analysis, kernel))
                case _:
                    made = Oracle(*what)
            self.oracles[key] = made
        return self.oracles[key]

    # one kernel alone

    def time(
        self, kernel: str, config: Config, batch: int, buffer: int, best: float | None
    ) -> Timing:
        """One kernel, its cursors spread and not moving; a fold in steady state. best: the fastest
        known, in microseconds."""
        rows = self._rows(batch, buffer, kernel)
        self.configure(batch, **{kernel: config})
        run, cursors, cycle = self._alone(kernel, rows)
        self._tried(run, kernel, rows, cursors)
        with Graph(run) as graph:
            rows.stand(cursors)
            return sampled(graph.replay, cycle, rows.layers, best)

    def _tried(self, run: Callable[[], None], kernel: str, rows: Rows, cursors: Any) -> None:
        """Run once. Raises WrongError where outputs are left unwritten or not a number."""
        for again in (False, True):
            if again:
                # what ran before may have left states that are no numbers
                rows.redraw(self.analysis)
            if kernel == "extend":
                rows.fresh()
            rows.stand(cursors)
            rows.poison()
            launched(run)
            if kernel == "fold" or not rows.unwritten():
                return
        what = f"{kernel} of {rows.batch} rows"
        raise WrongError(f"{what} left outputs unwritten, or not a number")

    def _alone(self, kernel: str, rows: Rows) -> tuple[Callable[[], None], Any, int]:
        """What runs, where cursors stand before it, and after how many runs they stand there."""
        buffer = rows.cache.buffer
        match kernel:
            case "fold":
                end: Callable[[Step], object] = lambda step: step.module.advance(  # noqa: E731
                    step.cache, step.slots
                )
                return rows.each(end), rows.staggered(), rows.cycle
            case "recurrent" | "extend":
                # a row that is served so never holds anything
                return rows.call(kernel), 0, 1
            case "verify" | "chain":
                tokens = tokens_of(self.analysis, kernel)
                return rows.call("verify"), rows.spread(buffer - tokens + 1), 1
            case "short":
                return rows.call("decode"), SHORT, 1
        return rows.call(kernel), rows.spread(buffer), 1

    # whole steps

    def steps(self, batch: int, entries: Sequence[Entry]) -> tuple[list[Percentiles], int]:
        """Whole model steps in steady state, folds included, of one layer; by turns, so that what
        disturbs one disturbs all. And how many layers there were."""
        all_rows: dict[int, Rows] = {}
        for entry in entries:
            if entry.buffer not in all_rows:
                held = [id(rows) for rows in all_rows.values()]
                all_rows[entry.buffer] = self._rows(batch, entry.buffer, "decode", held)
        graphs: list[Graph] = []
        for entry in entries:
            rows = all_rows[entry.buffer]
            self.configure(batch, **{entry.kernel: entry.config, "fold": entry.fold})
            run = rows.each(lambda step, kernel=entry.kernel: step.run(kernel))
            self._tried(run, entry.kernel, rows, entry.cursors(rows))
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
        return len(self._rows(batch, buffer, kernel).whole.inputs)

    # memory

    def _rows(self, batch: int, buffer: int, kernel: str, held: Sequence[int] = ()) -> Rows:
        """The rows of a batch; those that were not used for longest make room. held: identities of
        rows that stay."""
        window = tokens_of(self.analysis, kernel) if kernel in DRAFTS else 0
        alike = kernel if kernel in ("extend", "short") else "decode"
        key = (alike, batch, max(buffer, window), window)
        found = self.rows.pop(key, None)
        if found is None:
            began = time.monotonic()
            tokens = TOKENS["extend"] if kernel == "extend" else window
            what = batch, max(buffer, window), self.l2, tokens
            wanted = room(self.analysis, alike, *what)
            torch.cuda.empty_cache()
            for old in [old for old, rows in self.rows.items() if id(rows) not in held]:
                if FREE * torch.cuda.mem_get_info()[0] > wanted:
                    break
                del self.rows[old]
                torch.cuda.empty_cache()
            self.configure(batch)
            found = self._made(kernel, batch, max(buffer, window), window)
            torch.cuda.synchronize()
            self.made += time.monotonic() - began
        self.rows[key] = found
        return found

    def _made(self, kernel: str, batch: int, buffer: int, window: int) -> Rows:
        what = (self.analysis, self.module, batch, buffer)
        match kernel:
            case "extend":
                return make_prompts(*what, TOKENS["extend"])
            case "short":
                return make_short(*what, self.l2, CONTEXT)
        return make_rows(*what, self.l2, window)

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
            once = time_of(graph.replay)
            count = cycle * math.ceil(2 * SAMPLE / (cycle * max(once, 1e-6)))
            rows.stand(cursors)
        return time_of(lambda: graph.replays(count)) / (count * rows.layers)

    return take
