"""Being asked to end, by Ctrl-C or SIGTERM: at any time, quietly, with the exit code of shells."""

from __future__ import annotations

import atexit
import os
import signal
import sys

# as type checkers know it: nothing is imported that this does not need
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# seconds after which whoever goes on in spite of it is asked again
AGAIN = 0.5


class _State:
    """number: of the signal that has come. raised: what it became in the command."""

    number: int | None = None
    raised: BaseException | None = None


_last: list[Callable[[], object]] = []


def at_end(run: Callable[[], object]) -> None:
    """Run this when the process ends, also where it ends in the middle of an import."""
    _last.append(run)
    atexit.register(run)


def prepare() -> None:
    """Answer signals from here on. One that is ignored already, as in the background, stays so."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _asked)
    signal.signal(signal.SIGALRM, _asked_again)
    # the first that is registered runs last: what is left then has no place for a handler
    atexit.register(_ignore)
    shown = sys.unraisablehook
    sys.unraisablehook = lambda each: None if each.exc_value is _State.raised else shown(each)


def run(command: Callable[[], None]) -> None:
    """Run a command. One that a signal has ended ends with 128 and the signal's number, whatever
    the exception has become on its way."""
    error = _guarded(command)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if _State.number is not None:
        raise SystemExit(128 + _State.number)
    if error is not None:
        raise error


def _guarded(command: Callable[[], None]) -> BaseException | None:
    try:
        command()
    except BaseException as error:
        return error
    return None


def _asked(number: int, frame: FrameType | None) -> None:
    if not _can_be_raised(frame):
        _leave(number)
    _State.number = number
    raised = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    _State.raised = raised
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
    raise raised


def _asked_again(_: int, frame: FrameType | None) -> None:
    """A callback from C, or code that catches everything, swallows what is raised there; nothing
    is to be raised while what was raised is being handled."""
    if _State.number is None:
        return
    if _is_handled():
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
    else:
        _asked(_State.number, frame)


def _is_handled() -> bool:
    error = sys.exc_info()[1]
    while error is not None:
        if error is _State.raised:
            return True
        error = error.__context__
    return False


def _can_be_raised(frame: FrameType | None) -> bool:
    """Whether it reaches the command's end as what it is: not from an import, where libraries in C
    make something else of it, nor from before the command or behind it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return False
        if frame.f_back is not None and frame.f_back.f_code is _guarded.__code__:
            return True
        frame = frame.f_back
    return False


def _leave(number: int) -> None:
    """End here and now, but for what must not stay behind."""
    try:
        for each in reversed(_last):
            each()
        if number == signal.SIGINT:
            os.write(2, b"\ninterrupted\n")
    finally:
        os._exit(128 + number)


def _ignore() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
