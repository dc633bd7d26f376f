"""Errors of a module's outputs and states against the recurrence in float64, inputs in bfloat16."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from kvgen.checking.errors import worst
from kvgen.checking.samples import draw
from kvgen.checking.twin import Made, Twin
from kvgen.checking.windows import Verify, accepted, tree
from kvgen.compiler import Analysis
from kvgen.timing import steps

Tensors = dict[str, torch.Tensor]
ROWS = 4


@dataclass(frozen=True)
class Exact:
    """Some tokens of a few rows from no state: for each its inputs [rows, *axes] in bfloat16 and
    its outputs in float64; params: the layer's, in float32."""

    inputs: list[Tensors]
    params: Tensors
    outputs: list[torch.Tensor]

    def worst(self, call: Callable[[int], torch.Tensor]) -> float:
        """The worst row's error of any output of `call`, which takes the tokens in order."""
        errors = [worst_row(call(at), right) for at, right in enumerate(self.outputs)]
        # a nan is kept, which Python's max would lose
        return float(torch.tensor(errors).max())


def exact(analysis: Analysis, module: ModuleType, tokens: int = 40, rows: int = 2) -> Exact:
    """Random tokens through the module's `reference`."""
    spec, device = analysis.spec, steps.DEVICE
    found = draw(spec, rows, dtype=torch.bfloat16, device=device, seed=0)
    params = {tensor.name: found[tensor.name] for tensor in spec.params}
    doubled = {name: value.double() for name, value in params.items()}
    made = Exact([], params, [])
    state = None
    for token in range(tokens):
        found = draw(spec, rows, dtype=torch.bfloat16, device=device, seed=1000 + token)
        inputs = {tensor.name: found[tensor.name] for tensor in spec.inputs}
        doubles = {name: value.double() for name, value in inputs.items()}
        right, state = module.reference(state, **doubles, **doubled)
        made.inputs.append(inputs)
        made.outputs.append(right)
    return made


def worst_row(out: torch.Tensor, right: torch.Tensor) -> float:
    """The worst row's error; nan where an output is none."""
    error = (out.double() - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
    return float(error.max())


def output_error(
    analysis: Analysis, module: ModuleType, kernel: str, tokens: int = 40, short_context: int = 0
) -> float:
    """The worst row's error of any output over some tokens, against `reference` in float64.

    short_context: that of the cache, so that rows have no state until they are so long.
    """
    right = exact(analysis, module, tokens)
    rows = right.outputs[0].shape[0]
    if short_context:
        cache = module.Cache.empty(rows, device=steps.DEVICE, short_context=short_context)
        cache.reserve(list(range(rows)), tokens)
    else:
        cache = module.Cache.empty(rows, device=steps.DEVICE)
    slots = torch.arange(rows, dtype=torch.int32, device=steps.DEVICE)

    def call(token: int) -> torch.Tensor:
        o = getattr(module, kernel)(cache, 0, slots, **right.inputs[token], **right.params)
        module.advance(cache, slots)
        return o

    return right.worst(call)


def verify_error(analysis: Analysis, module: ModuleType, tokens: int, windows: int = 12) -> float:
    """The worst error of any node's output over some windows of drafts, from fresh states: random
    trees and chains by turns, of which random parts are accepted."""
    pair = Twin(
        Made(analysis, module), steps.DEVICE, slots=ROWS, layers=1, dtype=torch.bfloat16,
        window=tokens,
    )  # fmt: skip
    slots, random_part = list(range(ROWS)), random.Random(tokens)
    pair.reset(slots)
    for window in range(windows):
        if window % 2:
            counts = [random_part.randint(0, tokens) for _ in slots]
            step = Verify(pair, slots, tokens, counts=counts)
        else:
            trees = [tree(random_part, tokens) for _ in slots]
            paths = [accepted(random_part, parents) for parents in trees]
            step = Verify(pair, slots, tokens, parents=trees, paths=paths)
        pair.together(step)
    return pair.found["output"]


def prompt_errors(
    module: ModuleType, inputs: Tensors, params: Tensors, out: torch.Tensor, state: Any
) -> tuple[float, float]:
    """Of one row's prompt: the worst output of all its tokens, and the worst state after them.

    inputs: [T, *axes]. out: [T, HV, V]. state: [1, HV, K, V], or a dict of states by name.
    """
    exact = {name: value.double() for name, value in params.items()}
    right: list[torch.Tensor] = []
    states: Tensors | None = None
    for token in range(out.shape[0]):
        doubles = {name: value[token : token + 1].double() for name, value in inputs.items()}
        o, states = module.reference(states, **doubles, **exact)
        right.append(o[0])
    assert states is not None
    got: Tensors = state if isinstance(state, dict) else {next(iter(states)): state}
    return worst(out, torch.stack(right)), max(worst(got[name], states[name]) for name in got)
