"""relu(x) = maximum(x, 0)"""

from __future__ import annotations

from kvgen.functions.function import Function
from kvgen.values import interval as iv


def relu(x: float) -> float:
    return max(x, 0.0)


RELU = Function(
    name="relu",
    value=relu,
    bounds=iv.increasing(relu),
    at_least_each=True,
    triton="tl.maximum({0}, 0.0)",
    slow=False,
    keeps_zero=True,
    torch="relu",
)
