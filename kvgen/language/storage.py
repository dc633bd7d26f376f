"""How a spec says that its state and its records are kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvgen.diagnostics import Span
from kvgen.formats.dtypes import FLOATS
from kvgen.formats.record import RecordFormat
from kvgen.formats.registry import RECORD, RECORDS, STATE, STATES
from kvgen.formats.state import StateFormat
from kvgen.language.schema import Reader

LAYOUTS = ("kv", "vk")
# records as they go with the state
AUTO = "auto"
# what a spec may say, of which the first is meant where it says nothing
CHOICES = {"state": tuple(STATES), "records": (*RECORDS, AUTO), "layout": LAYOUTS}
# what formats of one dtype are called elsewhere
OTHERS = {other: dtype.name for dtype in FLOATS for other in dtype.others}


@dataclass(frozen=True)
class Storage:
    """The formats of state and records; layout: which of K and V comes last in a state."""

    state: StateFormat = STATE
    records: RecordFormat = RECORD
    layout: str = LAYOUTS[0]
    # where the file says it of the records
    span: Span | None = field(default=None, compare=False)

    @property
    def said(self) -> dict[str, str]:
        """As a spec says it."""
        return {"state": self.state.name, "records": self.records.name, "layout": self.layout}


def fitting(state: StateFormat) -> RecordFormat:
    """The records that go with a state: inputs as they came where it is read in 16 bits, as records
    in 32 would be a quarter of what a decode reads."""
    if not state.narrow:
        return RECORD
    return next(each for each in RECORDS.values() if each.derives and not each.replays)


def read(reader: Reader) -> Storage:
    """What stands under `storage`; what is wrong with it is collected by the reader."""
    if not reader.table(("storage",), "state, records and layout"):
        return Storage()
    formats: dict[str, Mapping[str, Any]] = {"state": STATES, "records": RECORDS}
    chosen: dict[str, Any] = {}
    for key in reader.keys(("storage",), (), CHOICES):
        if value := reader.choice(("storage", key), CHOICES[key], OTHERS):
            chosen[key] = formats[key].get(value) if key in formats else value
    if chosen.get("records", RECORD) is None:
        chosen["records"] = fitting(chosen.get("state", STATE))
    return Storage(**chosen, span=reader.span(("storage", "records"), key=False))
