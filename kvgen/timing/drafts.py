"""Times of several tokens a step: drafts that are verified, and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from kvgen.codegen import cost
from kvgen.compiler import Analysis
from kvgen.kernels.extend import EXTEND, PROMPT_ROWS
from kvgen.kernels.verify import VERIFY
from kvgen.timing import clock
from kvgen.timing.cycles import REPEATS, Times, time_by_turns, time_cycle
from kvgen.timing.errors import output_error, prompt_errors, verify_error
from kvgen.timing.steps import Step, fitting_layers, make_step, with_tokens

# tokens of the prompt that is timed
PROMPT = EXTEND.prompt


@dataclass(frozen=True)
class DraftRow:
    """A step of `tokens` tokens a row at one batch; times are microseconds for one layer.

    kernel: 'decode alone' and 'verify alone' (no end of the step: cursors stay, nothing folds),
    'decode + advance' and 'verify + accept' (whole steps, all tokens accepted, folds included),
    'extend + accept' (called from the host, launches included). window: that of the cache.
    token_us: `us` for each token. worst_us: the step in which every row folds. state_error: of the
    state after all tokens.
    """

    kernel: str
    window: int
    tokens: int
    batch: int
    layers: int
    us: float
    token_us: float
    spread: float
    worst_us: float | None
    floor_us: float
    share: float
    error: float
    state_error: float | None = None


def draft_rows(
    analysis: Analysis,
    module: ModuleType,
    batches: Sequence[int],
    layers: int,
    windows: Sequence[int],
    bandwidth: float,
    say: Callable[[str], None],
) -> list[DraftRow]:
    """Decode and verify for every batch and number of drafts; none where there is no `verify`."""
    if not hasattr(module, "verify") or not windows:
        return []
    most = longest_window(analysis)
    windows = list(dict.fromkeys(min(window, most) for window in windows))
    say("errors of drafts")
    decode = output_error(analysis, module, "decode")
    errors = {window: verify_error(analysis, module, window) for window in windows}
    rows: list[DraftRow] = []
    for batch in batches:
        for window in windows:
            say(f"verify of {window}, batch {batch}")
            torch.cuda.empty_cache()
            found = time_drafts(analysis, module, batch, layers, window, bandwidth)
            rows += [
                replace(row, error=errors[window] if row.kernel.startswith(VERIFY.name) else decode)
                for row in found
            ]
    return rows


def longest_window(analysis: Analysis) -> int:
    """As many drafts as the longest buffer of this form has places for."""
    factored = analysis.form.factored
    return factored.most if factored else 64


def time_drafts(
    analysis: Analysis, module: ModuleType, batch: int, layers: int, window: int, bandwidth: float
) -> list[DraftRow]:
    """Decode beside verify on one cache, alone and with the end of the step; errors are left out.

    Alone both have the same cursors, 0 to buffer - window. Whole steps of `decode` are those of a
    server without drafts, whose rows fold when their buffers are full.
    """
    total = cost.cost(analysis.form, analysis.records)
    buffer = max(cost.buffer_length(analysis.form, analysis.records), window)
    layers = fitting_layers(analysis, batch, layers, buffer, window + 1)
    one = make_step(analysis, module, batch, layers, window)
    several = with_tokens(analysis, one, window)
    cache, slots = one.cache, one.slots

    def row(
        kernel: str, tokens: int, moved: float, times: Times, worst: float | None = None
    ) -> DraftRow:
        floor = moved * batch / bandwidth * 1e6
        of_cache = 0 if kernel == "decode + advance" else window
        return DraftRow(
            kernel, of_cache, tokens, batch, layers, times.us, times.us / tokens, times.spread,
            worst, floor, floor / times.us, float("nan"),
        )  # fmt: skip

    # cursors do not move here, and stay where a window has room
    cache.cursors.copy_(one.spread(buffer - window + 1))
    runs = [lambda: one.layers("decode"), lambda: several.layers("verify")]
    decode, verify = time_by_turns(runs, layers)
    found = [
        row("decode alone", 1, total.decode_only(buffer - window + 1), decode),
        row("verify alone", window, total.verify_only(buffer, window), verify),
    ]

    plain = replace(one, cache=module.Cache.wrap(cache.tensors))
    cache.tensors["pending"].zero_()
    times, worst = time_cycle(
        plain, lambda: plain.run("decode"), one.staggered(buffer), buffer, buffer - 1
    )
    found.append(row("decode + advance", 1, total.floor(buffer), times, worst))

    counts = torch.full_like(slots, window)
    passes = buffer // window
    times, worst = time_cycle(
        several, accepting(several, counts), one.staggered(passes, window), passes,
        (passes - 1) * window,
    )  # fmt: skip
    found.append(row("verify + accept", window, total.verify_floor(buffer, window), times, worst))
    one.check(f"decode at batch {batch}")
    several.check(f"verify of {window} at batch {batch}")
    return found


def accepting(step: Step, counts: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        step.layers("verify")
        step.module.accept(step.cache, step.slots, counts=counts)

    return run


# prompts -----------------------------------------------------------------------------------------


@dataclass
class Prompt:
    """One layer of a step that takes in prompts of equal length, on fresh rows."""

    step: Step
    lengths: torch.Tensor

    def run(self) -> None:
        step = self.step
        [inputs], [params], [out] = step.inputs, step.params, step.out
        given: dict[str, Any] = {**inputs, **params, "lengths": self.lengths, "out": out}
        step.module.extend(step.cache, 0, step.slots, **given)
        step.module.accept(step.cache, step.slots, counts=self.lengths)

    def fresh(self) -> None:
        self.step.cache.reset(self.step.slots)

    def errors(self) -> tuple[float, float]:
        """The worst output of the first row, and its state after all tokens."""
        step = self.step
        self.fresh()
        self.run()
        inputs = {name: value[0] for name, value in step.inputs[0].items()}
        state = step.cache.read(0, step.slots[:1])
        return prompt_errors(step.module, inputs, step.params[0], step.out[0][0], state)


def make_prompt(analysis: Analysis, module: ModuleType, rows: int, tokens: int) -> Prompt:
    step = with_tokens(analysis, make_step(analysis, module, rows, 1), tokens)
    return Prompt(step, torch.full_like(step.slots, tokens))


def prompt_row(analysis: Analysis, module: ModuleType, bandwidth: float) -> DraftRow:
    """`extend` and `accept` of a prompt, called from the host while the GPU is idle."""
    prompt = make_prompt(analysis, module, PROMPT_ROWS, PROMPT)
    error, state_error = prompt.errors()
    seconds: list[float] = []
    for _ in range(REPEATS + 2):
        prompt.fresh()
        # else the launches would hide behind the reset
        torch.cuda.synchronize()
        seconds.append(clock.time_of(prompt.run))
    prompt.step.check("extend")
    times = Times.of(seconds)
    moved = cost.cost(analysis.form, analysis.records).extend(PROMPT)
    floor = moved * PROMPT_ROWS / bandwidth * 1e6
    return DraftRow(
        "extend + accept", prompt.step.cache.window, PROMPT, PROMPT_ROWS, 1, times.us,
        times.us / PROMPT, times.spread, None, floor, floor / times.us, error, state_error,
    )  # fmt: skip
