"""Inputs as they came, for a fold at the end of every step that runs their tokens again."""

from __future__ import annotations

from kvgen.formats.record import RecordFormat

FORMAT = RecordFormat(name="replayed", rank=3, derives=True, replays=True)
