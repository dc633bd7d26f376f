"""A prompt as a slice of a wide projection, beyond 2**31 elements, on a GPU: `pytest -m gpu`."""

from __future__ import annotations

import functools

import pytest
import torch

from kvgen import compiler
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Made
from kvgen.shipped import resolve
from tests.test_gpu import gpu  # noqa: F401

pytestmark = pytest.mark.gpu

TOKENS, WIDE = 131_072, 18_560


@functools.cache
def of_few_heads(name: str) -> Made:
    overrides = {"sizes.H": "2", "sizes.HV": "4" if name == "gated_deltanet" else "2"}
    analysis = compiler.analyse(resolve(name), overrides)
    return Made(analysis, compiler.built(analysis))


@pytest.mark.parametrize("short", [0, 64])
@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention"])
def test_a_prompt_in_a_wide_projection(name: str, short: int) -> None:
    made = of_few_heads(name)
    module, spec = made.module, made.analysis.spec
    sampler = Sampler(spec, "cuda", 3)
    params = sampler.params()
    wide = torch.empty(1, TOKENS, WIDE, dtype=torch.bfloat16, device="cuda")
    given: dict[str, torch.Tensor] = {}
    at = 0
    for tensor in spec.inputs:
        axes = [spec.size(axis) for axis in tensor.axes]
        drawn = sampler.inputs(TOKENS, torch.bfloat16)[tensor.name]
        size = drawn[0].numel()
        given[tensor.name] = wide[:, :, at : at + size].view(1, TOKENS, *axes)
        given[tensor.name].copy_(drawn[None])
        at += -(-size // 16) * 16
    assert (TOKENS - 1) * wide.stride(1) > 2**31
    slots = torch.zeros(1, dtype=torch.int32, device="cuda")
    lengths = torch.tensor([TOKENS], dtype=torch.int32, device="cuda")
    outs, states = [], []
    for inputs in (given, {name: x.contiguous() for name, x in given.items()}):
        cache = module.Cache.empty(1, device="cuda", window=4, short_context=short)
        if short:
            cache.reserve([0], TOKENS)
        outs.append(module.extend(cache, 0, slots, **inputs, **params, lengths=lengths))
        module.accept(cache, slots, counts=lengths)
        states.append(cache.read(0, slots))
    assert outs[0].isfinite().all() and outs[0][:, -16:].any()
    assert torch.equal(*outs)
    assert torch.equal(*states)
