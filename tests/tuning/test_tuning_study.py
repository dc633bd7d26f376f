"""What a study tries, in which order, and when it ends; on functions instead of GPUs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest

from kvgen.tuning.space import Config
from kvgen.tuning.study import LEAST, PATIENCE, Study
from kvgen.tuning.trials import Outcome, key_of

VALUES = {"TILE": (8, 16, 32, 64, 128), "TILES": (1, 2, 4, 8), "STAGES": (1, 2, 3),
          "EARLY": (0, 1), "num_warps": (1, 2, 4, 8)}  # fmt: skip
ALL = [
    dict(zip(VALUES, chosen, strict=True))
    for chosen in itertools.product(*VALUES.values())
    if chosen[0] * chosen[4] <= 256 and (chosen[1] > 1 or chosen[2] == 1)
]


def us(config: Config) -> float:
    away = [abs(math.log2((value + 1) / (BEST[knob] + 1))) for knob, value in config.items()]
    return 10 * (1 + sum(away))


BEST = {"TILE": 64, "TILES": 4, "STAGES": 2, "EARLY": 1, "num_warps": 2}


class Tried:
    """Counts what is tried; what stands in `verdicts` has no time."""

    def __init__(self, verdicts: dict[str, tuple[str, int]] | None = None) -> None:
        self.verdicts = verdicts or {}
        self.configs: list[Config] = []

    def __call__(self, config: Config) -> Outcome | None:
        self.configs.append(config)
        for verdict, (knob, value) in self.verdicts.items():
            if config[knob] == value:
                return Outcome(config, verdict)
        time = us(config)
        return Outcome(config, "timed", (time, time, time))

    @property
    def keys(self) -> list[object]:
        return [key_of(config) for config in self.configs]


def test_a_small_space_is_searched_whole() -> None:
    study, tried = Study(ALL[:30], [ALL[7]], 30), Tried()
    study.run(tried)
    assert study.exhaustive and study.why == "all were tried"
    assert tried.configs == [ALL[7], *ALL[:7], *ALL[8:30]]


@pytest.mark.parametrize("seed", range(4))
def test_a_large_space_is_searched(seed: int) -> None:
    """Nothing twice, nothing illegal, no more than the budget, and what is best is found."""
    study, tried = Study(ALL, ALL[:1], 120, seed), Tried()
    study.run(tried)
    assert not study.exhaustive and study.measured == len(tried.configs) <= 120
    assert len(set(tried.keys)) == len(tried.keys)
    assert set(tried.keys) <= set(study.legal)
    assert tried.configs[0] == ALL[0]
    assert study.best()[0].config == BEST


def test_the_same_seed_does_the_same() -> None:
    found = []
    for seed in (1, 1, 2):
        study, tried = Study(ALL, [], 50, seed), Tried()
        study.run(tried)
        found.append(tried.keys)
    assert found[0] == found[1] != found[2]


def test_what_cannot_run_costs_no_timings() -> None:
    """Those that are pruned before they run; what the GPU was asked for in vain counts."""
    study = Study(ALL, [], 60)
    tried = Tried({"spills": ("EARLY", 0), "wrong": ("TILE", 128)})
    study.run(tried)
    assert study.measured <= 60 < len(tried.configs)
    assert study.best()[0].config["EARLY"] == 1
    assert len(set(tried.keys)) == len(tried.keys)


def test_everything_is_wrong() -> None:
    study = Study(ALL, [], 60)
    study.run(Tried({"wrong": ("EARLY", 0), "crash": ("EARLY", 1)}))
    assert study.best() == [] and study.measured == 60 and study.why == "60 were timed"


def test_what_is_known_is_not_tried_again() -> None:
    before, first = Study(ALL, [], 50, 3), Tried()
    before.run(first)
    known = list(before.outcomes.values())
    other = Outcome({"TILE": 7}, "timed", (0.1, 0.1, 0.1))
    study, tried = Study(ALL, [], 90, 3, [*known, other]), Tried()
    study.run(tried)
    assert not set(tried.keys) & set(first.keys)
    assert len(tried.keys) == 90 - len(known)
    # what is not legal any more is forgotten
    assert study.best()[0].us != other.us


def test_one_that_stops() -> None:
    study, tried = Study(ALL, [], 120), Tried()
    study.run(tried, stopped=lambda: len(tried.configs) >= 17)
    assert len(tried.configs) == 17 and study.why == "stopped"
    # and goes on
    more = Tried()
    again = Study(ALL, [], 120, known=list(study.outcomes.values()))
    again.run(more)
    assert again.why != "stopped" and not set(more.keys) & set(tried.keys)


def test_it_ends_where_nothing_gets_better() -> None:
    study = Study(ALL, [BEST], len(ALL) - 1)
    study.run(Tried())
    assert study.why == f"{PATIENCE} in a row were no faster"
    assert LEAST <= study.measured < LEAST + PATIENCE


def test_what_others_found_is_tried() -> None:
    study, tried = Study(ALL, [], 60, hints=lambda: [BEST]), Tried()
    study.run(tried)
    assert tried.configs.index(BEST) < 60 / 3 + 8


def test_what_failed_through_no_fault_of_its_own() -> None:
    """Nothing is known of it, and the study goes on."""
    study, calls = Study(ALL[:20], [], 20), Tried()

    def evaluate(config: Config) -> Outcome | None:
        found = calls(config)
        return None if len(calls.configs) % 2 else found

    study.run(evaluate)
    assert len(study.outcomes) == 10 and study.why == "stopped"


def test_what_is_ready_is_tried_first() -> None:
    """Programs are compiled in another order than they are asked for."""
    slow = key_of(ALL[0])
    asked: list[object] = []

    def prepare(configs: Sequence[Config]) -> None:
        asked.extend(key_of(config) for config in configs)

    study, tried = Study(ALL[:30], [], 30), Tried()
    study.run(tried, prepare, ready=lambda config: key_of(config) != slow)
    assert tried.keys[-1] == slow and len(tried.keys) == 30
    assert sorted(asked) == sorted(study.legal)  # type: ignore[type-var]
