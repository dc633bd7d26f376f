"""conv(x, w, bias): the causal convolution of an input with the tokens before it"""

from __future__ import annotations

from kvgen.functions.function import Function, Reach

CONV = Function(
    name="conv",
    arity=2,
    optional=1,
    reach=Reach.TOKENS,
    usage="conv(input, weights), or conv(input, weights, bias)",
)
