"""Records in float32, as they are computed."""

from __future__ import annotations

from kvgen.formats.record import RecordFormat

FORMAT = RecordFormat(name="float32", rank=0)
