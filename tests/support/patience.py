"""How long a test waits for another process or thread: what hangs ends, and what is slow beside
other work passes. Nothing here bounds how long anything may take."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 600.0


def until(holds: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Wait until something holds. meanwhile: called before every look, to see that it still may."""
    end = time.monotonic() + PATIENCE
    while not holds():
        meanwhile()
        assert time.monotonic() < end, "it has not come true"
        time.sleep(0.05)
