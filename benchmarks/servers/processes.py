"""A server to a process: what it leaves behind goes with it, and one that hangs costs little."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

# what a server's process wants to be heard of begins so
MARK = "> "


def preset(environment: Mapping[str, str], tiny: bool) -> None:
    """What a server reads when it is imported, where it is not set already. tiny: on a machine
    without a GPU, whose kernels are interpreted."""
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if tiny:
        os.environ.setdefault("TRITON_INTERPRET", "1")


def side_by_side(
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    together: int = 1,
    needed: str = "",
    ended: Callable[[str], None] = lambda name: None,
) -> dict[str, int]:
    """Run Python on each command, so many at a time, in order; exit statuses by name.

    Output goes to FOLDER/NAME.log, marked lines and the end of what failed to stderr as well.
    needed: the one without which the others are of no use; they end where it fails.
    ended: called with the name of each that ends.
    """
    waiting = list(commands.items())
    running: dict[str, tuple[subprocess.Popen[bytes], threading.Thread]] = {}
    statuses: dict[str, int] = {}
    started = time.time()
    for old in folder.glob("gone-*"):
        old.unlink()

    def say(text: str) -> None:
        print(f"{time.time() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    def follow(name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with (folder / f"{name}.log").open("wb", buffering=0) as log:
            for line in process.stdout:
                log.write(line)
                if line.startswith(MARK.encode()):
                    say(f"{name}: {line.decode(errors='replace')[len(MARK) :].rstrip()}")

    while waiting or running:
        while waiting and len(running) < together:
            name, command = waiting.pop(0)
            process = subprocess.Popen(
                [sys.executable, "-u", "-X", "faulthandler", *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            thread = threading.Thread(target=follow, args=(name, process), daemon=True)
            thread.start()
            running[name] = process, thread
            say(f"{name} begins")
        for name, (process, thread) in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            thread.join(5.0)
            statuses[name] = status = process.returncode
            (folder / f"gone-{name}").touch()
            say(f"{name} ends" if not status else f"{name} fails: {status}")
            if status:
                text = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                print(text[-4000:], file=sys.stderr, flush=True)
                if name == needed:
                    for other, _ in running.values():
                        other.kill()
                    raise SystemExit(f"{name} is what the others are compared with")
            ended(name)
        time.sleep(0.2)
    return statuses


# in the processes themselves ---------------------------------------------------------------------


def patient(seconds: float) -> None:
    """After so many seconds without another call, say where each thread stands and end; 0: wait."""
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def all_ready(folder: Path, name: str, names: Sequence[str]) -> None:
    """Wait until every other one has come here, or is gone."""
    (folder / f"ready-{name}").touch()
    for other in names:
        while not any((folder / f"{what}-{other}").exists() for what in ("ready", "gone")):
            time.sleep(0.1)


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Nobody else measures meanwhile; whoever waits is next."""
    with (folder / "turn").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
    time.sleep(0.3)
