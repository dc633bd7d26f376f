"""Standard streams that may be closed, full or broken: what is lost is said, in one line."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

# what a write comes to, of which an unbuffered stream knows nothing afterwards
OF_WRITING = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)


def open_missing() -> None:
    """Put something where a standard stream is closed, so that no other file takes its number.

    Writing results is an error then, as into any file that is not open for it; what is said on
    stderr is lost.
    """
    kinds = (
        ("stdin", "r", os.O_RDONLY),
        ("stdout", "w", os.O_RDONLY),
        ("stderr", "w", os.O_WRONLY),
    )
    for number, (name, mode, flags) in enumerate(kinds):
        try:
            os.fstat(number)
        except OSError:
            # the lowest number that is free
            handle = os.open(os.devnull, flags)
            os.set_inheritable(handle, True)
            setattr(sys, name, open(handle, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def problem(error: OSError) -> str:
    """What went wrong: with the results, where they cannot be written, else what `error` says."""
    lost = error if error.filename is None and error.errno in OF_WRITING else None
    try:
        sys.stdout.flush()
    except OSError as again:
        lost = again
    if lost is None:
        return str(error)
    # or Python tries again when it ends
    drop(1)
    return f"cannot write to stdout: {lost.strerror}"


def drop(number: int) -> None:
    """What a standard stream still has to write goes nowhere."""
    with suppress(OSError):
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)
