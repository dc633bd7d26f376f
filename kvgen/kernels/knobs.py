"""The constants of kernels' configurations: what each may be, and what is tried of it.

`codegen.config.MEANINGS` says what they are; beside them there is buffer: places for records, of a
cache and not of a kernel.
"""

from __future__ import annotations

from typing import NamedTuple

from kvgen.codegen.operands import ALONG
from kvgen.language.declarations import MAX_SIZE
from kvgen.language.spec import MAX_BUFFER
from kvgen.runtime.numbers import power_of_two

Config = dict[str, int]

# pages that a short context's program looks at together, at most
PAGES = 4


class Limit(NamedTuple):
    """What a constant may be, whatever the form. power: whether only a power of two."""

    least: int
    most: int
    power: bool = False

    def admits(self, value: float) -> bool:
        whole = self.least <= value <= self.most and value == int(value)
        return whole and (not self.power or not value or power_of_two(int(value)) == value)

    def __str__(self) -> str:
        what = "a power of two" if self.power else "an integer"
        return f"{what} from {self.least} to {self.most}"


SWITCH = Limit(0, 1)
LIMITS = {
    "TILE": Limit(1, MAX_SIZE, power=True),
    # of more than there are a program takes all
    "TILES": Limit(1, 1 << 20),
    "PAGES": Limit(1, PAGES, power=True),
    "STAGES": Limit(1, 16),
    "EARLY": SWITCH,
    "TOKENS": Limit(1, 16, power=True),
    "DOT": SWITCH,
    "KEYS": Limit(0, MAX_SIZE, power=True),
    "PDL": SWITCH,
    "programs": Limit(1, 1024),
    "num_warps": Limit(1, 32, power=True),
    "maxnreg": Limit(0, 255),
    "buffer": Limit(1, MAX_BUFFER),
}

# knob -> the values that are tried, whatever the kernel
VALUES: dict[str, tuple[int, ...]] = {
    "TILE": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "TILES": (1, 2, 4, 8),
    "PAGES": (1, 2, 4),
    "STAGES": (1, 2, 3, 4),
    "EARLY": (0, 1),
    "DOT": (0, 1),
    "KEYS": (0, ALONG),
    "PDL": (0, 1),
    "num_warps": (1, 2, 4, 8),
    "programs": (2, 4, 8, 16),
    "maxnreg": (0, 128),
}
# what decides how many programs are launched, beside what each of them does
GRID = ("TILE", "TILES", "programs")
# of these, what the program itself does not know
LAUNCHED = ("programs",)
