"""abs(x) = |x|"""

from __future__ import annotations

import math

from kvgen.functions.function import Function
from kvgen.values import interval as iv

ABS = Function(
    name="abs",
    value=math.fabs,
    bounds=iv.absolute,
    at_least_each=True,
    at_least_size=True,
    triton="tl.abs({0})",
    slow=False,
    keeps_zero=True,
    torch="abs",
)
