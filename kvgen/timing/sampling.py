"""How often something is timed, and what of its times counts: samples of one that is searched for,
turns of several that are compared."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kvgen.timing import clock

# a sample lasts at least so long, in seconds, and there are so many of them
SAMPLE, FEWEST_SAMPLES, SAMPLES = 1e-3, 3, 7
# a first look at this many times the best decides that it is no better
SLOW = 2.0
# samples whose 20th and 80th percentile are so near are enough
AGREED = 0.01
# turns that finalists take, and seconds after which they take no more than the fewest; from when on
# one that is so much slower than another is given up
TURNS, FEWEST_TURNS, SECONDS, EARLIEST, HOPELESS = 15, 5, 4.0, 2, 1.1
# seconds of a first replay beside which those of loading the graph count for nothing
LOADED = 5e-3

Percentiles = tuple[float, float, float]


@dataclass(frozen=True)
class Timing:
    us: Percentiles
    slow: bool = False


def sampled(replay: Callable[[], None], cycle: int, layers: int, best: float | None) -> Timing:
    """Microseconds of one layer. One that is far from the best is looked at only briefly."""

    def cycles(count: int) -> float:
        def run() -> None:
            for _ in range(count * cycle):
                replay()

        return clock.time_of(run) / (count * cycle * layers)

    def hopeless() -> bool:
        return best is not None and first * 1e6 > SLOW * best

    first = cycles(1)
    if not (hopeless() and first * cycle * layers > LOADED):
        first = min(first, cycles(1))
    if hopeless():
        us = first * 1e6
        return Timing((us, us, us), slow=True)
    count = math.ceil(SAMPLE / (first * cycle * layers))
    found = [cycles(count) for _ in range(FEWEST_SAMPLES)]
    while len(found) < SAMPLES and not agree(found):
        found.append(cycles(count))
    return Timing(percentiles(found))


def by_turns(takes: Sequence[Callable[[], float]], rivals: Sequence[Any]) -> list[list[float]]:
    """Seconds of each, taking turns, until each one's agree.

    rivals: equal for those of which only the fastest counts; the others are soon given up, with
    what they have taken so far.
    """
    for take in takes:
        take()
    found: list[list[float]] = [[] for _ in takes]
    live = list(range(len(takes)))
    began = time.monotonic()
    for turn in range(TURNS):
        for at in live:
            found[at].append(takes[at]())
        if turn + 1 < EARLIEST:
            continue
        best: dict[Any, float] = {}
        for at in live:
            best[rivals[at]] = min(best.get(rivals[at], math.inf), min(found[at]))
        live = [at for at in live if min(found[at]) <= HOPELESS * best[rivals[at]]]
        late = time.monotonic() - began > SECONDS
        if turn + 1 >= FEWEST_TURNS and (late or all(agree(found[at]) for at in live)):
            break
    return found


def agree(seconds: Sequence[float]) -> bool:
    """Whether more of them would change nothing."""
    low, middle, high = percentiles(seconds)
    return high - low <= AGREED * middle


def percentiles(seconds: Sequence[float]) -> Percentiles:
    """The 20th, 50th and 80th, in microseconds."""
    ordered = sorted(second * 1e6 for second in seconds)
    last = len(ordered) - 1
    return (
        ordered[round(0.2 * last)],
        statistics.median(ordered),
        ordered[round(0.8 * last)],
    )
