"""Sizes of a kernel's tiles, and which numbers of elements and heads 32 bits hold."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.language.spec import MAX_BUFFER
from kvgen.runtime.numbers import power_of_two

# as many elements as 32 bits tell apart
MOST_32 = 2**31
# more heads than any layer has
HEADS = 4096


@dataclass
class Shapes:
    """How tiles are padded and masked: a mask is written only where a size is no power of two."""

    k: int
    v: int

    @property
    def masks_k(self) -> bool:
        return self.k & (self.k - 1) != 0

    @property
    def masks_v(self) -> bool:
        return self.v & (self.v - 1) != 0

    @property
    def least_span(self) -> int:
        """Places that a window's operands have at least: as tensor cores take them, but of keys so
        long that they would not fit in shared memory."""
        return min(16, max(1, 32768 // self.span("K")))

    def size(self, channel: str) -> int:
        return {"": 1, "K": self.k, "V": self.v}[channel]

    def span(self, channel: str) -> int:
        return power_of_two(self.size(channel))

    def extent(self, channel: str) -> str:
        """How long a tile is along the channel, as a text."""
        return {"": "1", "K": str(self.span("K")), "V": "TILE"}[channel]

    def index(self, channel: str) -> str:
        return "key" if channel == "K" else "value"

    def row_of_state(self, index: str) -> str:
        """The number of a row of a head's state as it is times the row's length.

        The elements of a head's state, as of its records, are numbered in 32 bits, which these
        sizes suffice for, unless there are more of them.
        """
        return index if self.k * self.v < MOST_32 else f"{index}.to(tl.int64)"

    def of_heads(self, index: str) -> str:
        """The number of a head as it is times the elements of a head's state or of its records."""
        most = max(self.k * self.v, MAX_BUFFER * max(self.k, self.v))
        return index if HEADS * most < MOST_32 else f"{index}.to(tl.int64)"

    def masked(self, channel: str) -> bool:
        return self.masks_k if channel == "K" else self.masks_v
