"""Optuna's TPE over the knobs of a kernel, asked and told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from kvgen.tuning.space import Config
from kvgen.tuning.trials import Outcome


class Sampler:
    """All that is deterministic, illegal combinations too, is told as PRUNED: TPE learns from that
    and learns nothing from FAIL. Repetitions are told what is known already."""

    def __init__(self, configs: Sequence[Config], seed: int) -> None:
        knobs = list(configs[0])
        self.distributions: dict[str, BaseDistribution] = {
            knob: CategoricalDistribution(sorted({config[knob] for config in configs}))
            for knob in knobs
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="minimize")
        with warnings.catch_warnings():
            # everything that has a default which changes between versions is given
            warnings.simplefilter("ignore")
            study.sampler = TPESampler(
                multivariate=True, group=False, constant_liar=True, seed=seed,
                n_startup_trials=0, n_ei_candidates=24, warn_independent_sampling=False,
            )  # fmt: skip
        self.study = study

    def ask(self) -> tuple[Any, Config]:
        trial = self.study.ask(self.distributions)
        return trial, dict(trial.params)

    def tell(self, trial: Any, outcome: Outcome | None, legal: bool = True) -> None:
        """outcome: None where it has none, for it is not legal or could not be tried."""
        if outcome is not None:
            _describe(trial.set_user_attr, outcome)
        value = _value(outcome)
        if value is not None:
            self.study.tell(trial, value)
        elif outcome is not None or not legal:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def tell_all(self, outcomes: Sequence[Outcome]) -> None:
        """What was tried without being asked for."""
        for outcome in outcomes:
            value = _value(outcome)
            attributes: dict[str, Any] = {}
            _describe(attributes.__setitem__, outcome)
            self.study.add_trial(
                create_trial(
                    state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
                    params=outcome.config,
                    distributions=self.distributions,
                    value=value,
                    user_attrs=attributes,
                )
            )


def _value(outcome: Outcome | None) -> float | None:
    return math.log(outcome.us[1]) if outcome and outcome.us else None


def _describe(put: Any, outcome: Outcome) -> None:
    put("verdict", outcome.verdict)
    if outcome.us:
        put("us", list(outcome.us))
    if outcome.program:
        put("program", outcome.program)
    for name, value in outcome.usage.items():
        put(name, value)
