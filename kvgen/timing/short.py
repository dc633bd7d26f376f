"""Times of decode where contexts are too short for a state, beside decode on states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from kvgen.codegen import cost
from kvgen.compiler import Analysis
from kvgen.timing import steps
from kvgen.timing.cycles import time_by_turns
from kvgen.timing.errors import output_error
from kvgen.timing.steps import Step, fitting_layers, make_step, step_on


@dataclass(frozen=True)
class ShortRow:
    """A decode at one batch whose rows hold `tokens` tokens and no state, beside one on states.

    storage: the states'. context: from how many tokens on a row would have one. Times are
    microseconds for one layer, without the end of the step. stateful_us: of the decode on states,
    its rows at all fill levels of their buffers. error: of the one without states.
    """

    storage: str
    batch: int
    tokens: int
    context: int
    layers: int
    us: float
    spread: float
    floor_us: float
    share: float
    error: float
    stateful_us: float
    stateful_spread: float


def paged_step(
    analysis: Analysis,
    module: ModuleType,
    rows: int,
    layers: int,
    buffer: int | None,
    context: int,
    tokens: int,
) -> Step:
    """Rows without a state, with room for `tokens` tokens and the one that comes; `context`: from
    how many on a row would get one."""
    pages = rows * math.ceil((tokens + 1) / module.PAGE)
    # of states one is there for its shape
    room = {"short_context": context, "pages": pages, "states": 1}
    cache = module.Cache.empty(rows, layers, device=steps.DEVICE, buffer=buffer, **room)
    cache.reserve(list(range(rows)), tokens + 1)
    return step_on(analysis, module, cache)


def short_rows(
    analysis: Analysis,
    module: ModuleType,
    batches: Sequence[int],
    layers: int,
    context: int,
    tokens: int,
    bandwidth: float,
) -> list[ShortRow]:
    """For every batch; bandwidth: bytes a second."""
    error = output_error(analysis, module, "decode", short_context=context)
    total = cost.cost(analysis.form, analysis.records)
    found: list[ShortRow] = []
    for batch in batches:
        torch.cuda.empty_cache()
        beside = tokens * (total.record + total.carried)
        count = fitting_layers(analysis, batch, layers, beside=beside)
        stateful = make_step(analysis, module, batch, count)
        stateful.cache.cursors.copy_(stateful.spread(stateful.cache.buffer))
        short = paged_step(analysis, module, batch, count, None, context, tokens)
        short.cache.cursors.fill_(tokens)
        runs = [lambda step=step: step.layers("decode") for step in (stateful, short)]
        with_state, without = time_by_turns(runs, count)
        for step in (stateful, short):
            step.check(f"decode at batch {batch}")
        floor = total.short(tokens) * batch / bandwidth * 1e6
        found.append(
            ShortRow(
                analysis.spec.storage.state.name, batch, tokens, context, count, without.us,
                without.spread, floor, floor / without.us, error, with_state.us, with_state.spread,
            )
        )  # fmt: skip
        del stateful, short, step, runs
    return found
