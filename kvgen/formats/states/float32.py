"""A state in float32, as it is computed."""

from __future__ import annotations

from kvgen.formats.dtypes import FLOAT32
from kvgen.formats.state import Plane, StateFormat

FORMAT = StateFormat(
    name="float32",
    rank=0,
    planes=(Plane("", FLOAT32),),
    bound=2e-5,
    read_bound=None,
    alike=FLOAT32,
)
