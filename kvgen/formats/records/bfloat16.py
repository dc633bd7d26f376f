"""Keys and corrected values rounded to bfloat16, as servers' own rings have them."""

from __future__ import annotations

from kvgen.formats.dtypes import BFLOAT16
from kvgen.formats.record import RecordFormat

FORMAT = RecordFormat(
    name="bfloat16",
    rank=1,
    vectors=BFLOAT16,
    bound=1e-2,
    warning=(
        "records in bfloat16 round keys and corrected values: the state is off by about 2e-3",
        "they are for a server's own rings: 'float32' and 'input' cost the state nothing",
    ),
)
