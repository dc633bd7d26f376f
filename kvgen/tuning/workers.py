"""The processes that own the GPUs, as the tuner sees them: asked, watched, started again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kvgen.compiler import Analysis
from kvgen.conversation import Child, ChildError
from kvgen.tuning.gpu import Gpu

# seconds for each request
DEADLINES = {
    "hello": 180.0,
    "open": 120.0,
    "begin": 120.0,
    "check": 120.0,
    "hold": 120.0,
    "time": 30.0,
    "steps": 240.0,
    "close": 60.0,
}
# what changes how modules behave, and must not reach a worker
UNSET = ("TRITON_INTERPRET", "KVGEN_CHECK", "KVGEN_REQUIRE_TUNED")
# so many failures in a row are not the configurations' fault
FAILURES = {"internal": 3, "ended": 8}

Launcher = Callable[[Mapping[str, str]], Child]
Answer = TypeVar("Answer")


class Refused(Exception):
    """A worker's answer that is none. kind: 'launch', 'wrong', 'memory' or 'internal'."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class WorkerError(Exception):
    """The tuner cannot go on; the message says what the worker said."""


class Halted(Exception):
    """Nobody wants the answer any more."""


@dataclass(frozen=True)
class Job:
    """A spec to tune: what the compiler made of it, and how a worker makes the same."""

    analysis: Analysis
    spec: str
    overrides: dict[str, str]
    module: Path
    digest: str


def launch(environment: Mapping[str, str]) -> Child:
    return Child("kvgen.tuning.worker", environment=environment)


class Worker:
    """One GPU. A process that is late or crashes is replaced, and opens the same spec again."""

    def __init__(self, device: str | None = None, start: Launcher = launch) -> None:
        """device: what CUDA_VISIBLE_DEVICES is set to, None for as it is."""
        self.device, self._start = device, start
        self._child: Child | None = None
        self._job: Job | None = None
        self._failures = 0
        # studies take turns
        self._lock = threading.RLock()
        # processes so far; a new one holds nothing
        self.started = 0
        self.halted = False
        # seconds of answers, by what was asked; of all of them those of making rows
        self.spent: dict[str, float] = {}
        # programs that the worker had to compile itself
        self.compiled = 0
        self.hello: dict[str, Any] = {}

    def gpu(self) -> Gpu:
        """Start, and say which GPU it is. Raises WorkerError."""
        try:
            self._child = self._child or self._started()
            self.hello = self._asked("hello")
        except (ChildError, Refused) as error:
            raise WorkerError(f"the worker did not start: {error}") from None
        return Gpu.of(self.hello)

    def begin(self) -> None:
        """Forget what an earlier spec has left: whether it was halted, what it cost."""
        self.halted, self.compiled = False, 0
        self.spent.clear()

    def open(self, job: Job) -> None:
        """Take on a spec. Raises WorkerError."""
        if self._job is job and self._child is not None and self._child.alive:
            return
        try:
            if self._child is None or not self._child.alive:
                self._child = self._started()
                if self.halted:
                    # `halt` may have come before there was a child to kill
                    self.end()
                    raise Halted
                self._asked("hello")
            self._asked("open", spec=job.spec, overrides=job.overrides, module=str(job.module))
        except (ChildError, Refused) as error:
            raise WorkerError(f"the worker cannot open {job.analysis.spec.name}: {error}") from None
        self._job = job

    def ask(self, job: Job, do: str, **what: Any) -> dict[str, Any]:
        """An answer about a spec.

        Raises Refused where a configuration is at fault, ChildError where it ended the process or
        was killed for being late, WorkerError where that happens whatever is asked, and Halted.
        """
        with self._lock:
            if self.halted:
                raise Halted
            try:
                self.open(job)
                answer = self._again(do, **what)
            except Refused as error:
                if error.kind == "memory":
                    raise WorkerError(f"out of the GPU's memory: {error}") from None
                if error.kind == "internal":
                    self._failed("internal", error)
                elif error.kind == "crash":
                    self.end()
                    self._failed("ended", error)
                    raise ChildError("died", str(error)) from None
                else:
                    self._failures = 0
                raise
            except (ChildError, WorkerError) as error:
                if self.halted:
                    raise Halted from None
                if isinstance(error, WorkerError):
                    raise
                self.end()
                self._failed("ended", error)
                raise
            self._failures = 0
            self.compiled += answer.get("compiled", 0)
            self.spent["rows"] = self.spent.get("rows", 0.0) + answer.get("made", 0.0)
            return answer

    def turn(self) -> AbstractContextManager[object]:
        """Requests that no other study's come between."""
        return self._lock

    def _again(self, do: str, **what: Any) -> dict[str, Any]:
        """Ask; once more where memory was short, which the worker has given back by then."""
        try:
            return self._asked(do, **what)
        except Refused as error:
            if error.kind != "memory":
                raise
        return self._asked(do, **what)

    def halt(self) -> None:
        """From another thread: whoever waits for an answer gets Halted."""
        self.halted = True
        child = self._child
        if child is not None:
            child.kill()

    def end(self) -> None:
        """Kill it. The next request starts another one."""
        child, self._child, self._job = self._child, None, None
        if child is not None:
            child.kill()

    def close(self) -> None:
        child, self._child, self._job = self._child, None, None
        if child is not None:
            child.close()

    def _failed(self, kind: str, error: Exception) -> None:
        self._failures += 1
        if self._failures >= FAILURES[kind]:
            raise WorkerError(f"{self._failures} failures in a row, the last: {error}") from None

    def _started(self) -> Child:
        environment = {k: v for k, v in os.environ.items() if k not in UNSET}
        if self.device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.device
        self.started += 1
        return self._start(environment)

    def _asked(self, do: str, **what: Any) -> dict[str, Any]:
        assert self._child is not None
        began = time.monotonic()
        try:
            answer = self._child.ask(DEADLINES[do], do=do, **what)
        finally:
            self.spent[do] = self.spent.get(do, 0.0) + time.monotonic() - began
        if answer.get("ok") is not True:
            raise Refused(str(answer.get("kind", "internal")), str(answer.get("error", answer)))
        return answer


def unless_killed(ask: Callable[[], Answer]) -> Answer:
    """What is asked of a worker, once more where its process was killed by somebody else, which is
    no fault of what was asked."""
    try:
        return ask()
    except ChildError as error:
        if error.kind != "killed":
            raise
    return ask()


def devices(count: int) -> list[str]:
    """How each GPU that this process may see is named for a process of its own."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part.strip() for part in named.split(",") if part.strip()]
    return [str(number) for number in range(count)]
