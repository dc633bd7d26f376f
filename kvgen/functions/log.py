"""log(x)"""

from __future__ import annotations

import math

from kvgen.functions.function import Function
from kvgen.values import interval as iv

LOG = Function(
    name="log",
    elsewhere=(("base",), "log({0}) / log({1})"),
    value=math.log,
    bounds=iv.increasing(iv.log),
    triton="tl.log({0})",
    torch="log",
)
