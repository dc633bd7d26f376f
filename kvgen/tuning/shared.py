"""Trials in a storage of Optuna's, where tuners on several hosts see each other's.

Each configuration is claimed before it is tried: by a trial that runs, the lowest number of which
wins. What came of it stands in the trial, as in the file of trials.
"""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from kvgen.tuning.space import Config
from kvgen.tuning.trials import Outcome, key_of, mend, outcome_of
from kvgen.tuning.workers import Halted, WorkerError

JOURNAL = "journal:"
# seconds after which a claim is void, whoever has it: longer than a configuration can take
STALE = 900.0
# seconds for which what was read of the storage is good enough, and between two looks at whether
# another tuner has done with a configuration
FRESH, POLL = 0.5, 0.5
# attempts to open a database; seconds after which the lock of a journal has been left by the dead
TURNS, GRACE = 4, 10


def opened(url: str) -> BaseStorage:
    """The storage of a database's URL, or of a file's: journal:PATH. Raises WorkerError."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with failures(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not url.startswith(JOURNAL):
            return _database(url)
        path = Path(url.removeprefix(JOURNAL)).expanduser().absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        lock = MendingLock(str(path))
        lock.acquire()
        lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock))


def _database(url: str) -> BaseStorage:
    """Of two that find it empty one makes the tables, and the other fails at that."""
    from sqlalchemy.exc import DBAPIError

    for _ in range(TURNS - 1):
        try:
            return get_storage(url)
        except DBAPIError:
            time.sleep(POLL)
    return get_storage(url)


class MendingLock(JournalFileOpenLock):
    """A journal with a torn line in front of a whole one cannot be read ever again: whoever is to
    write cuts off what a killed process has left."""

    def __init__(self, path: str) -> None:
        super().__init__(path, grace_period=GRACE)
        self._path = path

    def acquire(self) -> bool:
        found = super().acquire()
        file = os.open(self._path, os.O_RDWR)
        try:
            mend(file)
        finally:
            os.close(file)
        return found


@contextmanager
def failures() -> Iterator[None]:
    """What a storage raises, as something that ends a tuning run and keeps what was measured."""
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip()[:500]
        if isinstance(error, ImportError):
            text += " (that of postgresql+psycopg: pip install 'psycopg[binary]')"
        raise WorkerError(f"the storage failed: {text}") from error


class Shared:
    """A study in a storage. All methods raise WorkerError where the storage fails."""

    def __init__(
        self, storage: BaseStorage, name: str, configs: Sequence[Config], about: dict[str, Any]
    ) -> None:
        self.storage = storage
        self.distributions: dict[str, BaseDistribution] = {
            knob: CategoricalDistribution(sorted({config[knob] for config in configs}))
            for knob in configs[0]
        }
        self.owner = [platform.node(), os.getpid()]
        # of the last look: when, what is known, who is at what
        self._looked = -math.inf
        self._known: dict[Any, Outcome] = {}
        self._running: dict[Any, list[FrozenTrial]] = {}
        with failures():
            study = optuna.create_study(
                storage=storage, study_name=name, direction="minimize", load_if_exists=True
            )
            study.set_user_attr("about", about)
            self.study = storage.get_study_id_from_name(name)

    def known(self, fresh: bool = False) -> dict[Any, Outcome]:
        """What has come of configurations, by key."""
        if fresh or time.monotonic() - self._looked > FRESH:
            with failures():
                self._look()
        return self._known

    def taken(self, config: Config) -> bool:
        """Whether another tuner is at it."""
        self.known()
        return key_of(config) in self._running

    def publish(self, outcomes: Sequence[Outcome]) -> None:
        """What was measured without the storage."""
        known = self.known(fresh=True)
        for outcome in outcomes:
            if key_of(outcome.config) not in known:
                with failures():
                    self._finish(self._begun(outcome.config), outcome)

    def tried(
        self,
        config: Config,
        evaluate: Callable[[Config], Outcome | None],
        stopped: Callable[[], bool],
    ) -> Outcome | None:
        """What another tuner has found, after waiting for it where it is at it; else try. Raises
        Halted where it is to stop, and what `evaluate` raises."""
        trial = None
        while trial is None:
            outcome = self.known(fresh=True).get(key_of(config))
            if outcome is not None:
                return outcome
            with failures():
                trial = self._claim(config)
            if trial is None:
                if stopped():
                    raise Halted
                time.sleep(POLL)
        outcome = None
        try:
            outcome = evaluate(config)
        finally:
            with failures():
                self._finish(trial, outcome)
        return outcome

    # trials

    def _look(self) -> None:
        self._looked = time.monotonic()
        self._running = {}
        for trial in self.storage.get_all_trials(self.study, deepcopy=False):
            if trial.state == TrialState.RUNNING:
                if self._is_void(trial):
                    self._finish(trial._trial_id, None)
                else:
                    self._running.setdefault(key_of(trial.params), []).append(trial)
            elif "outcome" in trial.user_attrs:
                outcome = outcome_of(trial.user_attrs["outcome"])
                if outcome is not None:
                    self._known[key_of(outcome.config)] = outcome

    def _is_void(self, trial: FrozenTrial) -> bool:
        """Whether nobody will ever finish it."""
        began, owner = trial.user_attrs.get("began", 0.0), trial.user_attrs.get("owner")
        if time.time() - began > STALE:
            return True
        if owner is None or owner[0] != self.owner[0]:
            return False
        try:
            os.kill(owner[1], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _begun(self, config: Config) -> int:
        template = create_trial(
            state=TrialState.RUNNING, params=dict(config), distributions=self.distributions,
            user_attrs={"began": time.time(), "owner": self.owner},
        )  # fmt: skip
        return self.storage.create_new_trial(self.study, template)

    def _claim(self, config: Config) -> int | None:
        """The trial, if it is ours."""
        if key_of(config) in self._running:
            return None
        trial = self._begun(config)
        self._look()
        rivals = self._running.pop(key_of(config), [])
        if key_of(config) not in self._known and all(trial <= r._trial_id for r in rivals):
            return trial
        self._finish(trial, None)
        return None

    def _finish(self, trial: int, outcome: Outcome | None) -> None:
        """Without an outcome it failed, and may be tried again."""
        # another tuner may have taken it for void
        with suppress(UpdateFinishedTrialError):
            if outcome is None:
                self.storage.set_trial_state_values(trial, TrialState.FAIL)
                return
            self.storage.set_trial_user_attr(trial, "outcome", asdict(outcome))
            if outcome.us is None:
                self.storage.set_trial_state_values(trial, TrialState.PRUNED)
            else:
                value = [math.log(outcome.us[1])]
                self.storage.set_trial_state_values(trial, TrialState.COMPLETE, value)
