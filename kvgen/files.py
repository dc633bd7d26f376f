"""Files that are there whole or not at all, and none that is read without an end."""

from __future__ import annotations

import errno
import os
import select
import stat
import tempfile
import time
from pathlib import Path

# temporary files are called .<name>.<random>.tmp, so that what a kill leaves is known as such
SUFFIX = ".tmp"
# bytes of a file that is read whole, at most
MOST = 64 << 20
# seconds in which whoever is at a pipe's other end should be there
PATIENCE = 10.0


class NotPlainError(OSError):
    """What should be a file is something else, or longer than any that kvgen reads."""


def status(path: Path) -> os.stat_result:
    """Of a regular file of a length that can be read. Raises NotPlainError and other OSErrors."""
    try:
        found = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotPlainError(errno.ELOOP, "it is a link that ends nowhere", str(path)) from None
        raise
    if not stat.S_ISREG(found.st_mode):
        raise NotPlainError(errno.EINVAL, f"it is {_kind(found.st_mode)}, not a file", str(path))
    if found.st_size > MOST:
        raise NotPlainError(errno.EFBIG, _too_long(), str(path))
    return found


def read(path: Path) -> bytes:
    """A regular file. Raises NotPlainError and other OSErrors."""
    status(path)
    return path.read_bytes()


def read_given(path: Path) -> bytes:
    """A file that somebody names, or what comes through a pipe. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if stat.S_ISFIFO(os.fstat(handle).st_mode):
            # one that nobody writes to has an end
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            waiting.poll(PATIENCE * 1000)
        os.set_blocking(handle, True)
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise NotPlainError(errno.EFBIG, _too_long(), str(path))
    return data


def staged(path: Path, data: bytes) -> Path:
    """The data on disk, in a temporary file beside `path` that may replace it. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=SUFFIX)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write(path: Path, data: bytes) -> None:
    """Replace a file or create it, at once; what a link names, through the link. What is no file, a
    pipe or a device, is written into. Raises OSError."""
    # before links are followed: /dev/stdout is one to a pipe that has no path
    if path.exists() and not path.is_file():
        _write_into(path, data)
        return
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    temporary = staged(path, data)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write_into(path: Path, data: bytes) -> None:
    if not path.is_fifo():
        with path.open("wb") as file:
            file.write(data)
        return
    handle = _pipe(path)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _pipe(path: Path) -> int:
    """Opened to be written to, once somebody reads from it."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        if time.monotonic() > end:
            raise OSError(errno.ENXIO, "nobody reads from this pipe", str(path))
        time.sleep(0.02)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _too_long() -> str:
    return f"it is longer than {MOST >> 20} MiB"
