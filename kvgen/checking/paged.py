"""A cache whose rows have no state until they are long, beside the recurrence in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kvgen.algebra.records import plan_records
from kvgen.checking.poison import poison_pages
from kvgen.checking.twin import Made, Twin


class PagedTwin(Twin):
    """A twin whose rows fold when they are `context` tokens long; a slot that is used holds pages
    for as many records as a row may have, and one for a state."""

    def __init__(self, made: Made, device: str, *, context: int, **options: Any) -> None:
        self.context = context
        super().__init__(made, device, **options)
        # keys in pages are not factored
        self.records = plan_records(replace(self.form, factored=None))

    def reset(self, slots: Sequence[int]) -> None:
        self._reserve(slots)
        super().reset(slots)

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        self._reserve(dst)
        super().copy(src, dst)

    def _reserve(self, slots: Sequence[int]) -> None:
        fresh = [slot for slot in slots if slot not in self.used]
        self.cache.reserve(fresh, max(self.context, self.cache.buffer))

    def _room(self) -> dict[str, Any]:
        return {"short_context": self.context}

    def _of_slots(self) -> list[str]:
        records = {stored.name for stored in self.records.stored}
        in_pages = {*records, *self.form.planes}
        return [name for name in super()._of_slots() if name not in in_pages]

    def _poison(self) -> None:
        page_size = self.module.PAGE
        poison_pages(self.cache, self.form, self.records, self.used, page_size)
