"""Errors of a module's outputs and states against the recurrence in float64, inputs in bfloat16."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import torch

from kvgen.checking.samples import draw
from kvgen.checking.twin import Made, Twin, worst
from kvgen.checking.windows import Verify, accepted, tree
from kvgen.compiler import Analysis
from kvgen.timing import steps

Tensors = dict[str, torch.Tensor]
ROWS = 4


def output_error(analysis: Analysis, module: ModuleType, kernel: str, tokens: int = 40) -> float:
    """The worst row's error of any output over some tokens, against `reference` in float64."""
    spec, rows, device = analysis.spec, 2, steps.DEVICE
    cache = module.Cache.empty(rows, device=device)
    slots = torch.arange(rows, dtype=torch.int32, device=device)
    state, found_worst = None, 0.0
    params = draw(spec, rows, dtype=torch.bfloat16, device=device, seed=0)
    params = {tensor.name: params[tensor.name] for tensor in spec.params}
    exact = {name: value.double() for name, value in params.items()}
    for token in range(tokens):
        found = draw(spec, rows, dtype=torch.bfloat16, device=device, seed=1000 + token)
        inputs = {tensor.name: found[tensor.name] for tensor in spec.inputs}
        o = getattr(module, kernel)(cache, 0, slots, **inputs, **params)
        module.advance(cache, slots)
        doubles = {name: value.double() for name, value in inputs.items()}
        right, state = module.reference(state, **doubles, **exact)
        error = (o.double() - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)
        found_worst = max(found_worst, float(error.max()))
    return found_worst


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
