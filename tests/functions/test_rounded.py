"""rounded(x): what it gives, and what a module makes of it."""

from __future__ import annotations

import math

import torch

from kvgen import compiler
from kvgen.checking import roundings
from kvgen.checking.check import check
from kvgen.checking.checker import Checker
from kvgen.checking.twin import Made, Twin
from kvgen.functions.rounded import ROUNDED, rounded
from kvgen.integrations.sglang.inputs import GATED_DELTANET
from kvgen.tuning.oracle import Apart

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


SUMS = """\
kvgen: 1
name: sums
sizes: {H: 1, HV: 2, K: 8, V: 8}
inputs: {q: [H, K], k: [H, K], v: [HV, V], a: [HV], b: [HV], c: [HV]}
state: {S: [HV, K, V]}
step: |
  S = 0.5 * S + outer(l2norm(k), rounded(a + b + c) * v)
  o = q @ S
"""


def test_a_check_allows_for_the_other_side_of_a_middle() -> None:
    analysis = compiler.analyse(SUMS)
    made = Made(analysis, compiler.built(analysis))

    # each is lost beside the middle between two bfloat16s in float32, and both of them are not
    def middle(_: object, tensors: dict[str, torch.Tensor], token: int | None) -> dict:
        values = {"a": 1 + 2**-8, "b": 0.9 * 2**-24, "c": 0.9 * 2**-24}
        return {n: x.fill_(values[n]) if n in values else x for n, x in tensors.items()}

    pair = Twin(made, "cpu", layers=1, seed=1, change=middle)
    pair.reset([0, 1])
    for _ in range(3):
        pair.step([0, 1])
    pair.compare()
    checker = Checker(analysis, "cpu")
    checker.report("middle", pair)
    assert min(row.error for row in checker.rows) > 1e-3
    assert all(row.ok for row in checker.rows)


def test_only_what_is_computed_may_be_on_either_side() -> None:
    whole = compiler.analyse(SUMS)
    for other in ("rounded(a)", "rounded(a[-1])", "a"):
        plain = compiler.analyse(SUMS.replace("rounded(a + b + c)", f"{other} * b * c"))
        assert not roundings.rounds(plain.form)
    assert roundings.rounds(whole.form)
    module = compiler.built(whole)
    drawn = torch.Generator().manual_seed(2)
    given = {
        name: torch.randn(3, *(module.SIZES[axis] for axis in axes), generator=drawn).double()
        for name, axes in module.INPUTS.items()
    }
    tuned = Apart(whole, module)
    strict = tuned.bounds()
    tuned.note(None, given)
    output, state = tuned.bounds()
    assert strict[1] < 1e-4 < state < 0.02 and output > 1e-3
