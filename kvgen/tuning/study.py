"""A study: which configurations of one kernel are tried, in which order, and when that ends.

It does not know what a try is: `evaluate` may ask a GPU or look into a table.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvgen.tuning.space import Config
from kvgen.tuning.trials import Outcome, best, key_of

# of a budget: what is tried before neighbours of the best are
FIRST = 1 / 3
# the best whose neighbours are tried
TOP = 2
# asked for at once, so that they are compiled side by side; and at most, where the order is known
AHEAD, WINDOW = 8, 48
# TPE repeats itself: so many asks in a row without anything new are enough
REPEATS = 60
# a search ends where so many timings in a row have brought less than this, but not before the least
PATIENCE, GAIN, LEAST = 40, 0.01, 60


@dataclass
class Study:
    """configs: all legal ones, the most promising first. first: where to begin, in order. budget:
    the most that are timed. known: outcomes of an earlier run, which are not asked for again.
    hints: what others have found meanwhile. opening: what is tried before anything is known."""

    configs: Sequence[Config]
    first: Sequence[Config]
    budget: int
    seed: int = 0
    known: Sequence[Outcome] = ()
    hints: Callable[[], Sequence[Config]] = lambda: ()
    outcomes: dict[Any, Outcome] = field(default_factory=dict)
    why: str = ""

    def __post_init__(self) -> None:
        self.legal = {key_of(config): dict(config) for config in self.configs}
        for outcome in self.known:
            if key_of(outcome.config) in self.legal:
                self.outcomes[key_of(outcome.config)] = outcome
        self.draw = random.Random(self.seed)
        self.opening = self._opening()

    @property
    def exhaustive(self) -> bool:
        return len(self.legal) <= self.budget

    @property
    def measured(self) -> int:
        return sum(outcome.measured for outcome in list(self.outcomes.values()))

    @property
    def left(self) -> int:
        return self.budget - self.measured

    def best(self, count: int = 1) -> list[Outcome]:
        return best(list(self.outcomes.values()), count)

    def learn(self, outcomes: Mapping[Any, Outcome]) -> None:
        """What others have found, by key."""
        for key in outcomes.keys() & self.legal.keys():
            self.outcomes.setdefault(key, outcomes[key])

    def run(
        self,
        evaluate: Callable[[Config], Outcome | None],
        prepare: Callable[[Sequence[Config]], None] = lambda configs: None,
        stopped: Callable[[], bool] = lambda: False,
        ready: Callable[[Config], bool] = lambda config: True,
    ) -> None:
        """Try until everything is tried, the budget is spent, or `stopped` says so.

        evaluate: None where nothing is known of a configuration, through no fault of its own.
        prepare: is told what comes next; of that, what is `ready` is tried first. why: says
        afterwards what ended it.
        """
        run = _Run(self, evaluate, prepare, stopped, ready)
        if self.exhaustive:
            run.all(self.opening)
        else:
            self._search(run)
        if len(self.outcomes) >= len(self.legal):
            self.why = "all were tried"
        elif self.left <= 0:
            self.why = f"{self.budget} were timed"
        elif run.settled:
            self.why = f"{PATIENCE} in a row were no faster"
        else:
            self.why = "stopped"

    def _ordered(self) -> list[Config]:
        """The first ones, then the others."""
        keys = dict.fromkeys(key_of(config) for config in (*self.first, *self.configs))
        return [self.legal[key] for key in keys if key in self.legal]

    def _opening(self) -> list[Config]:
        """What is tried before anything is known: the first ones, then others that are drawn."""
        if self.exhaustive:
            return self._ordered()
        count = self._first_timings()
        start = self._ordered()[: len(self.first)][:count]
        rest = [config for config in self.configs if config not in start]
        return [*start, *self.draw.sample(rest, min(count - len(start), len(rest)))]

    def _first_timings(self) -> int:
        return math.ceil(FIRST * self.budget)

    def _search(self, run: _Run) -> None:
        run.all(self.opening, self._first_timings())
        # where the best have no neighbours left, something new is looked for, and that has some
        self._neighbours(run)
        self._sampled(run)
        rest = list(self.configs)
        self.draw.shuffle(rest)
        run.all(rest)

    def _sampled(self, run: _Run) -> None:
        """Ask Optuna's TPE, and tell it everything; what is better than before leads on."""
        from kvgen.tuning.sampler import Sampler

        sampler = Sampler(self.configs, self.seed)
        sampler.tell_all(list(self.outcomes.values()))
        repeats = 0
        while repeats < REPEATS and not run.over:
            before = self.best(TOP)
            asked = [sampler.ask() for _ in range(min(AHEAD, self.left))]
            new = [config for _, config in asked if key_of(config) not in self.outcomes]
            run.prepare([config for config in new if key_of(config) in self.legal])
            for trial, config in asked:
                key = key_of(config)
                repeats += 1
                if key in self.legal and key not in self.outcomes and not run.over:
                    repeats = 0
                    run.one(config)
                sampler.tell(trial, self.outcomes.get(key), legal=key in self.legal)
            if self.best(TOP) != before:
                sampler.tell_all(self._neighbours(run))

    def _neighbours(self, run: _Run) -> list[Outcome]:
        """Change one knob of the best ones at a time, then two that make up for each other, until
        none of them has a better neighbour; what came of it."""
        known = set(self.outcomes)
        while not run.over:
            tops = [each.config for each in self.best(TOP)]
            moves = [self._near(config) for config in tops]
            near = [*self.hints(), *_mixed([single for single, _ in moves])]
            new = self._new(near) or self._new(_mixed([double for _, double in moves]))
            if not new:
                break
            # a few, and then look again which are the best
            run.all(new[:AHEAD])
        return [outcome for key, outcome in self.outcomes.items() if key not in known]

    def _new(self, configs: Sequence[Config]) -> list[Config]:
        keys = dict.fromkeys(key_of(config) for config in configs)
        return [self.legal[k] for k in keys if k in self.legal and k not in self.outcomes]

    def _near(self, config: Config) -> tuple[list[Config], list[Config]]:
        """What differs in one knob by one place, and in two knobs by one place each: twice the tile
        and twice the warps."""
        values = {knob: sorted({c[knob] for c in self.configs}) for knob in config}
        moves = [
            (knob, values[knob][at])
            for knob, value in config.items()
            for at in (values[knob].index(value) - 1, values[knob].index(value) + 1)
            if 0 <= at < len(values[knob])
        ]
        single = [{**config, knob: value} for knob, value in moves]
        double = [
            {**config, knob: value, other: another}
            for at, (knob, value) in enumerate(moves)
            for other, another in moves[at + 1 :]
            if other != knob
        ]
        return single, double


def _mixed(lists: Sequence[Sequence[Config]]) -> list[Config]:
    """The first of each, then the second of each, and so on."""
    longest = max(map(len, lists), default=0)
    return [each[at] for at in range(longest) for each in lists if at < len(each)]


@dataclass
class _Run:
    """One run of a study. since: timings since the last gain."""

    study: Study
    evaluate: Callable[[Config], Outcome | None]
    prepare: Callable[[Sequence[Config]], None]
    stopped: Callable[[], bool]
    ready: Callable[[Config], bool]
    best: float = math.inf
    since: int = 0

    @property
    def settled(self) -> bool:
        study = self.study
        return not study.exhaustive and self.since >= PATIENCE and study.measured >= LEAST

    @property
    def over(self) -> bool:
        return self.stopped() or self.study.left <= 0 or self.settled

    def all(self, configs: Sequence[Config], until: int | None = None) -> None:
        """until: how many may have been measured."""
        study = self.study
        new = [config for config in configs if key_of(config) not in study.outcomes]
        self.prepare(new[:WINDOW])
        while new and not self.over and (until is None or study.measured < until):
            at = next((at for at, config in enumerate(new[:WINDOW]) if self.ready(config)), 0)
            self.prepare(new[WINDOW : WINDOW + 1])
            self.one(new.pop(at))

    def one(self, config: Config) -> None:
        outcome = self.evaluate(config)
        if outcome is None:
            return
        self.study.outcomes[key_of(config)] = outcome
        self.since += outcome.measured
        if outcome.us and outcome.us[1] < self.best * (1 - GAIN):
            self.best, self.since = outcome.us[1], 0
