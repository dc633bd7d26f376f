"""A child process that is asked and answers in JSON lines, and may crash, hang or babble."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
# what is shown of a child's last words
TAIL = 3000
PATIENCE = 5.0
# what ends a process from outside; whatever it does wrong itself ends it with another one
KILLS = (signal.SIGKILL, signal.SIGTERM)


class ChildError(Exception):
    """A child that did not answer. kind: 'late', 'died', 'killed', by somebody else, or
    'nonsense'."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Child:
    """A Python module run as a process of its own; requests and answers carry an `id`.

    An answer that is none ends the child: whatever it says afterwards cannot be trusted. What it
    writes to stderr is kept, and is shown where it died.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """command: what is run instead of this Python and the module."""
        self.name = module
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [*(command or (sys.executable, "-P", "-m", module)), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**(environment or os.environ), "PYTHONPATH": os.pathsep.join(path)},
            text=True,
            encoding="utf-8",
            errors="replace",
            # an interrupt from the terminal is ours to handle
            start_new_session=True,
        )
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._gone: ChildError | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._gone is None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, **request: Any) -> tuple[int, Future[dict[str, Any]]]:
        """The request's `id`, and the answer when it comes; a ChildError where it never will."""
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            number = next(self._ids)
            if self._gone is not None:
                future.set_exception(self._gone)
                return number, future
            self._waiting[number] = future
            self._write({"id": number, **request})
        return number, future

    def tell(self, **what: Any) -> None:
        """Something that is not answered."""
        with self._lock:
            self._write(what)

    def _write(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # whoever has died is found out by the reader
        with suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()

    def ask(self, seconds: float, **request: Any) -> dict[str, Any]:
        """Ask and wait. A child that is late is killed. Raises ChildError."""
        _, future = self.send(**request)
        try:
            return future.result(seconds)
        except Late:
            error = ChildError("late", f"no answer after {seconds:.0f} s{self._last_words()}")
            self._end(error)
            self.kill()
            raise error from None

    def kill(self) -> None:
        """End it and all that it started."""
        if self._process.poll() is None:
            # it may have to end children in groups of their own
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(PATIENCE)

    def close(self) -> None:
        """Let it end by itself; kill it where it does not."""
        with self._lock, suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        self.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                answer = json.loads(line)
                future = self._waiting.pop(answer["id"])
            except (ValueError, KeyError, TypeError):
                self._end(ChildError("nonsense", f"it answered {line.strip()[:200]!r}"))
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                break
            future.set_result(answer)
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        kind = "killed" if -code in KILLS else "died"
        self._end(ChildError(kind, f"it ended, {how}{self._last_words()}"))

    def _end(self, error: ChildError) -> None:
        with self._lock:
            self._gone = self._gone or error
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            with suppress(Exception):
                future.set_exception(self._gone)

    def _last_words(self) -> str:
        self._errors.flush()
        text = os.pread(self._errors.fileno(), 1 << 24, 0).decode(errors="replace").strip()
        return f":\n{text[-TAIL:]}" if text else ""


# the other side ----------------------------------------------------------------------------------


def answers() -> TextIO:
    """Where a child answers. What else is written to stdout goes to stderr: libraries have messages
    of their own, which must not get between the answers."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def requests() -> Iterator[dict[str, Any]]:
    """What a child is asked, until nobody asks any more."""
    for line in sys.stdin:
        yield json.loads(line)


def end_with_parent(seconds: float = 1.0) -> None:
    """Leave when whoever asks has gone, also in the middle of an answer that never comes."""
    parent = os.getppid()

    def watch() -> None:
        pause = threading.Event()
        while os.getppid() == parent:
            pause.wait(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
