"""A state in bfloat16: half the bytes, and a rounding at every fold."""

from __future__ import annotations

from kvgen.formats.dtypes import BFLOAT16
from kvgen.formats.state import Plane, StateFormat

FORMAT = StateFormat(
    name="bfloat16",
    rank=1,
    planes=(Plane("", BFLOAT16),),
    bound=2e-2,
    read_bound=6e-3,
    alike=BFLOAT16,
    folded="The sum is float32 and is rounded to bfloat16 once, at the end.",
)
