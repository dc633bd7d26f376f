"""tanh(x)"""

from __future__ import annotations

import math

from kvgen.functions.function import Function
from kvgen.values import interval as iv

TRITON = """\
@triton.jit
def _tanh(x):
    square = x * x
    near = x * (1.0 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    size = 1.0 - 2.0 / (tl.exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.2, near, tl.where(x < 0.0, -size, size))"""

TANH = Function(
    name="tanh",
    value=math.tanh,
    bounds=iv.increasing(math.tanh),
    triton="_tanh({0})",
    triton_helpers=(TRITON,),
    keeps_zero=True,
    torch="tanh",
)
