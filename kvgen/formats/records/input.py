"""Inputs as they came, and float32 numbers from which the rest is derived without loss."""

from __future__ import annotations

from kvgen.formats.record import RecordFormat

FORMAT = RecordFormat(name="input", rank=2, derives=True)
