"""One writer at a time in a folder, among all processes that share it."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# seconds between two attempts, at most; and until it is said for whom one waits
POLL, QUIET = 0.03, 10.0


@contextmanager
def held(path: Path, patience: float, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of this name; it ends with the process, however that ends.

    Waits as long as the lock is handed on: patience are the seconds that one holder may keep it.
    Raises OSError, and TimeoutError where one keeps it longer.
    """
    handle = _taken(path, patience, say)
    try:
        yield
    finally:
        os.close(handle)


def _taken(path: Path, patience: float, say: Callable[[str], None]) -> int:
    holder, since, said = b"", time.monotonic(), False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _is_locked(handle) and _is_named(path, handle):
                # who it is, and that it is another than before
                with suppress(OSError):
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, f"{os.getpid()} {time.time_ns()}".encode(), 0)
                found, handle = handle, -1
                return found
            now, before = time.monotonic(), holder
            holder = os.pread(handle, 64, 0)
        finally:
            if handle >= 0:
                os.close(handle)
        if holder != before:
            since = now
        elif now - since >= patience:
            raise TimeoutError(errno.ETIMEDOUT, f"another process holds {path}")
        elif now - since >= QUIET and not said:
            said = True
            number = holder.decode(errors="replace").partition(" ")[0]
            who = f"process {number}" if number.isdecimal() else "it does not say which"
            say(f"waiting for {path}, held by another kvgen ({who})")
        # not in step with all others who wait
        time.sleep(random.uniform(0.2, 1.0) * POLL)


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(path: Path, handle: int) -> bool:
    """Whether the file that is locked is still the one that others find."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False
