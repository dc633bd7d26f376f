"""A state in float16: half the bytes, and a rounding at every fold."""

from __future__ import annotations

from kvgen.formats.dtypes import FLOAT16
from kvgen.formats.state import Plane, StateFormat

FORMAT = StateFormat(
    name="float16",
    rank=2,
    planes=(Plane("", FLOAT16),),
    bound=3e-3,
    read_bound=6e-3,
    alike=FLOAT16,
    folded="The sum is float32 and is rounded to float16 once, at the end.",
)
