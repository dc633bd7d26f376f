"""softplus(x) = log(1 + exp(x))"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvgen.functions.function import Function
from kvgen.values import interval as iv

if TYPE_CHECKING:
    import torch


def softplus(x: float) -> float:
    return x if x > 700 else math.log1p(iv.exp(x))


def _tensor(x: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.logaddexp(x, torch.zeros_like(x))


LOG1P = """\
@triton.jit
def _log1p(x):
    \"""log(1 + x) for x in [0, 1], accurate where 1 + x rounds.\"""
    y = 1.0 + x
    step = y - 1.0
    return tl.where(step == 0.0, x, tl.log(y) * (x / tl.where(step == 0.0, 1.0, step)))"""
TRITON = """\
@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + _log1p(tl.exp(-tl.abs(x)))"""
TORCH = """\
def _plain_softplus(x):
    x = _plain(x)
    return torch.logaddexp(x, torch.zeros_like(x))"""

SOFTPLUS = Function(
    name="softplus",
    elsewhere=(("beta",), "softplus({1} * {0}) / {1}"),
    value=softplus,
    bounds=iv.increasing(softplus),
    at_least_each=True,
    triton="_softplus({0})",
    triton_helpers=(LOG1P, TRITON),
    torch_helpers=(TORCH,),
    tensor=_tensor,
)
