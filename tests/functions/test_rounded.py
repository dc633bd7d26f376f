"""rounded(x): what it gives, and what a module makes of it."""

from __future__ import annotations

import math

import torch

from kvgen import compiler
from kvgen.checking.check import check
from kvgen.functions.rounded import ROUNDED, rounded
from kvgen.integrations.sglang.inputs import GATED_DELTANET

SIZES = {"sizes.H": "1", "sizes.HV": "2", "sizes.K": "16", "sizes.V": "8"}


def test_ties_go_to_the_even_number_and_what_is_none_stays_one() -> None:
    assert rounded(1 + 2**-8) == 1.0 and rounded(1 + 3 * 2**-8) == 1 + 2**-6
    assert rounded(1 + 2**-8 + 2**-20) == 1 + 2**-7
    assert rounded(3.4e38) == math.inf and rounded(-1e300) == -math.inf
    assert math.isnan(rounded(math.nan))


def test_a_module_rounds_as_its_reference_does() -> None:
    assert GATED_DELTANET.rounding is not None
    analysis = compiler.analyse(GATED_DELTANET.rounding, SIZES)
    cases = ("decode, rows out of phase", "drafts, trees", "prompts")
    assert check(analysis, "cpu", only=cases).ok
    module = compiler.built(analysis)
    drawn = torch.Generator().manual_seed(1)
    given = {
        name: torch.randn(1, *(module.SIZES[axis] for axis in axes), generator=drawn).double()
        for name, axes in module.INPUTS.items()
    }
    params = {name: torch.zeros(2).double() for name in module.PARAMS}
    _, found = module.reference({"S": torch.zeros(1, 2, 16, 8).double()}, **given, **params)
    # from no state on, S is outer(k, d) with d = beta v
    key = given["k"][0, 0] / (given["k"][0, 0].square().sum() + 1e-6).sqrt()
    beta = given["b"].sigmoid()[0]
    value = ROUNDED.of_tensors(beta)[:, None] * given["v"][0]
    assert torch.allclose(found["S"][0], key[None, :, None] * value[:, None, :], rtol=1e-12)
    assert not torch.equal(ROUNDED.of_tensors(beta), beta)
