"""outer(k, v): a matrix of a key side and a value side, or of one channel twice"""

from __future__ import annotations

from kvgen.functions.function import Function, Reach

OUTER = Function(
    name="outer",
    arity=2,
    reach=Reach.SIDES,
    usage="outer(key side, value side)",
)
