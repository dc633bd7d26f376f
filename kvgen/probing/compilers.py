"""Compile many configurations of kernels at once, for a GPU that need not be here."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kvgen.conversation import Child
from kvgen.probing.launches import Case

# for one configuration
DEADLINE = 120.0


@dataclass(frozen=True)
class Compiled:
    """What a configuration's programs use at most; registers of each thread, bytes else.

    program: a digest of them, equal for programs that do the same. error: why it could not be
    compiled; then the others are empty.
    """

    registers: int = 0
    spills: int = 0
    shared: int = 0
    threads: int = 0
    program: str = ""
    error: str | None = None


def side_by_side() -> int:
    """Programs that are compiled at a time: one a core, but one that is left to whoever waits."""
    cores = len(os.sched_getaffinity(0))
    return max(1, cores - (cores > 2))


class Compilers:
    """A server of compilations; the same case is compiled once.

    target: sm_90 and so on; it may be said after the server has begun to start.
    """

    def __init__(self, target: str = "", processes: int | None = None) -> None:
        """processes: None for as many as `side_by_side` says."""
        options = {"processes": processes or side_by_side(), "seconds": DEADLINE}
        # which of the two Triton runs is decided at import
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        self._child = Child("kvgen.probing.server", [json.dumps(options)], environment)
        self._asked: dict[str, _Asked] = {}
        self._lock = threading.Lock()
        self.target = target

    def begin(self, module: Path, case: Case, later: bool = False) -> None:
        """Let it be compiled; cases are taken in the order in which they come, those for `later`
        when nothing else is to be done."""
        self._ask(module, case, later)

    def ready(self, module: Path, case: Case) -> bool:
        """Whether `wait` would not wait."""
        return self._ask(module, case).future.done()

    def wait(self, module: Path, case: Case, seconds: float | None = None) -> Compiled | None:
        """What a case uses; None where that is not known after so many seconds.

        Raises ChildError where the server itself has died.
        """
        # every process has its own deadline; cases that came before take their time
        try:
            answer = dict(self._ask(module, case).future.result(seconds))
        except Late:
            return None
        answer.pop("id", None)
        return Compiled(**answer)

    def close(self) -> None:
        self._child.kill()

    def _ask(self, module: Path, case: Case, later: bool = False) -> _Asked:
        key = json.dumps([str(module), asdict(case)], sort_keys=True)
        with self._lock:
            asked = self._asked.get(key)
            if asked is None:
                what = {"module": str(module), "case": asdict(case), "target": self.target}
                number, future = self._child.send(**what, later=later)
                asked = self._asked[key] = _Asked(number, future, later)
            elif asked.later and not later:
                asked.later = False
                if not asked.future.done():
                    self._child.tell(sooner=asked.number)
            return asked


@dataclass
class _Asked:
    """later: whether it still may wait for all others."""

    number: int
    future: Future[dict[str, Any]]
    later: bool
