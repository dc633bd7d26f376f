"""What the tuner says while it works: on stderr, one line at a time, or one that changes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# seconds between lines that only say how far it is, where nobody looks at a terminal
PAUSE = 10.0


def clock(seconds: float) -> str:
    return f"{int(max(0, seconds)) // 60:02d}:{int(max(0, seconds)) % 60:02d}"


class Progress:
    """Lines stay; a status is replaced by the next one. Studies on several GPUs share it."""

    def __init__(self, note: Callable[[str], None], budget: float, terminal: bool | None = None):
        self.note, self.budget = note, budget
        self.terminal = sys.stderr.isatty() if terminal is None else terminal
        self.began = time.monotonic()
        self._lock = threading.Lock()
        self._said = 0.0
        self._status: Any = None

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        return self.budget - self.spent

    def line(self, text: str) -> None:
        with self._lock:
            self.note(f"[{clock(self.spent)}] {text}")

    def status(self, text: str) -> None:
        """How far something is; `left` is added."""
        text = f"[{clock(self.spent)}] {text}  ({clock(self.left)} left)"
        with self._lock:
            if self.terminal:
                self._shown(text)
            elif time.monotonic() - self._said > PAUSE:
                self._said = time.monotonic()
                self.note(text)

    def _shown(self, text: str) -> None:
        from rich.console import Console
        from rich.text import Text

        from kvgen.terminal import printable

        if self._status is None:
            self._status = Console(stderr=True).status("")
            self._status.start()
        self._status.update(Text(printable(text)))

    def end(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
