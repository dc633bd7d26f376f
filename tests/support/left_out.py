"""Rules of thumb for a recurrence that they were not fitted to: of its studies nothing is known.
Every rule takes the value, of those that its list has, that suits the studies of all others."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from kvgen.kernels.choice import Choice, Facts, Rule

Study = dict[str, Any]
# times of the best that an untuned configuration takes, where it was timed
Ratio = Callable[[Study], float | None]
# a list of rules and a place in it
Place = tuple[Choice[Any], int]


def ratios(studies: Sequence[Study], ratio: Ratio) -> list[tuple[Study, float | None]]:
    """Of every study, with its recurrence left out."""
    asked: dict[Place, list[int]] = defaultdict(list)
    for number, study in enumerate(studies):
        for place in consulted(study, ratio):
            asked[place].append(number)
    found: list[tuple[Study, float | None]] = []
    for spec in dict.fromkeys(study["spec"] for study in studies):
        mine = {number for number, study in enumerate(studies) if study["spec"] == spec}
        chosen: dict[Place, Any] = {}
        for place, numbers in asked.items():
            others = [studies[number] for number in numbers if number not in mine]
            if len(others) < len(numbers):
                chosen[place] = fitted(place, others, ratio)
        with ExitStack() as stack:
            for place, value in chosen.items():
                stack.enter_context(taken(place, value))
            found += [(studies[number], ratio(studies[number])) for number in sorted(mine)]
    return found


def consulted(study: Study, ratio: Ratio) -> list[Place]:
    """The rules that decide about a study's configuration."""
    found: list[Place] = []

    def call(self: Choice[Any], facts: Facts) -> Any:
        found.append((self, self.place(facts)))
        return self.rules[self.place(facts)].value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Choice, "__call__", call)
        ratio(study)
    return list(dict.fromkeys(found))


def fitted(place: Place, studies: Sequence[Study], ratio: Ratio) -> Any:
    """The value that suits these best, its own where several do; without any of them that of the
    last rule, which always fits."""
    choice, at = place
    values = dict.fromkeys([choice.rules[at].value, *(rule.value for rule in choice.rules)])
    means: dict[Any, float] = {}
    for value in values:
        with taken(place, value):
            logs = [math.log(found) for study in studies if (found := ratio(study))]
        # of too few nothing is known
        if logs and 2 * len(logs) >= len(studies):
            means[value] = sum(logs) / len(logs)
    return min(means, key=lambda value: means[value]) if means else choice.rules[-1].value


@contextmanager
def taken(place: Place, value: Any) -> Iterator[None]:
    choice, at = place
    kept = choice.rules[at]
    choice.rules[at] = Rule(value, kept.conditions)
    try:
        yield
    finally:
        choice.rules[at] = kept
