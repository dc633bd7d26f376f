"""The recurrence as written in plain torch."""

from __future__ import annotations

import torch

from kvgen import compiler
from kvgen.checking.check import check

STEEP = """\
kvgen: 1
name: steep
sizes: {H: 1, HV: 1, K: 16, V: 8}
inputs: {q: [H, K], k: [H, K], v: [HV, V], g: [HV]}
state: {S: [HV, K, V]}
step: |
  S = exp(-softplus(g * 1e20)) * S + outer(k, v)
  o = q @ S
"""


def test_a_whole_number_may_have_more_bits_than_torch_takes_of_one() -> None:
    analysis = compiler.analyse(STEEP)
    assert check(analysis, "cpu", only=("decode, rows out of phase",)).ok
    k, v = torch.ones(2, 1, 16), torch.ones(2, 1, 8)
    begun = torch.ones(2, 1, 16, 8)
    gates = torch.tensor([[1.0], [-1.0]])
    _, after = compiler.built(analysis).reference({"S": begun}, q=k, k=k, v=v, g=gates)
    # one row forgets all of it, the other nothing
    assert after["S"].flatten(1).unique(dim=1).tolist() == [[1.0], [2.0]]
