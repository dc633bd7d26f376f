"""Rules of thumb as data: lists of values, each with when it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
# what is known of a form, its storage and a batch
Facts = Mapping[str, float]


class Range(NamedTuple):
    """From `low` on, below `high`."""

    low: float
    high: float

    def has(self, value: float) -> bool:
        return self.low <= value < self.high


def below(high: float) -> Range:
    return Range(float("-inf"), high)


def least(low: float) -> Range:
    return Range(low, float("inf"))


class Rule(NamedTuple, Generic[T]):
    """A value, and what facts must be for it."""

    value: T
    conditions: Mapping[str, Range | float]

    def fits(self, facts: Facts) -> bool:
        return all(
            wanted.has(facts[name]) if isinstance(wanted, Range) else facts[name] == wanted
            for name, wanted in self.conditions.items()
        )


def when(value: T, /, **conditions: Range | float) -> Rule[T]:
    return Rule(value, conditions)


class Choice(Generic[T]):
    """The value of the first rule that fits; the last one's always does."""

    def __init__(self, *rules: Rule[T]) -> None:
        self.rules = list(rules)

    def place(self, facts: Facts) -> int:
        """Which rule fits."""
        return next(place for place, rule in enumerate(self.rules) if rule.fits(facts))

    def __call__(self, facts: Facts) -> T:
        return self.rules[self.place(facts)].value


class Tile(NamedTuple):
    """How wide a tile is: value channels for so many elements of a state, but no fewer than
    `least`."""

    elements: int
    least: int = 1


class Tiling(NamedTuple):
    """A tile, its elements in a thread, the tiles of a program, and how many are in flight."""

    tile: Tile
    each: int
    tiles: int = 1
    stages: int = 1


def of_channels(count: int) -> Tile:
    """A tile of so many, however long the keys."""
    return Tile(0, count)
