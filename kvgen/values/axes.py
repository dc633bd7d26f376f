"""Named axes: which of them a value has, and how two values' axes meet."""

from __future__ import annotations

from dataclasses import dataclass, replace

HEADS = ("H", "HV")
CHANNELS = ("K", "V")


@dataclass(frozen=True)
class Axes:
    """At most one extra size, one head axis, and any of the channels 'K' and 'V'."""

    extra: str | None = None
    head: str | None = None
    channels: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        head = (self.extra, self.head)
        return tuple(axis for axis in head if axis) + tuple(self.channels)

    def __str__(self) -> str:
        return f"[{', '.join(self.names)}]"

    def without(self, *, extra: bool = False, channels: bool = False) -> Axes:
        kept = self
        if extra:
            kept = replace(kept, extra=None)
        if channels:
            kept = replace(kept, channels="")
        return kept


SCALAR = Axes()


class AxisClash(Exception):
    """Two extra axes that cannot be one axis of a result; K and V meet only beside a matrix."""


def of(names: tuple[str, ...]) -> Axes:
    extra = next((name for name in names if name not in HEADS + CHANNELS), None)
    head = next((name for name in names if name in HEADS), None)
    return Axes(extra, head, "".join(name for name in names if name in CHANNELS))


def join(first: Axes, second: Axes) -> Axes:
    """The axes of an elementwise result; H meets HV by grouping."""
    if first.extra and second.extra and first.extra != second.extra:
        raise AxisClash(first.extra, second.extra)
    heads = {first.head, second.head} - {None}
    head = "HV" if "HV" in heads else ("H" if heads else None)
    channels = "".join(c for c in CHANNELS if c in first.channels + second.channels)
    return Axes(first.extra or second.extra, head, channels)
