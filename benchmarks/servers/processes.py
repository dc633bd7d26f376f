"""A server to a process: what it leaves behind goes with it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def side_by_side(
    commands: Mapping[str, Sequence[str]], folder: Path, together: int = 1, needed: str = ""
) -> dict[str, int]:
    """Run Python on each command, so many at a time, in order; exit statuses by name.

    Output goes to FOLDER/NAME.log; the end of what failed to stderr. needed: the one without which
    the others are of no use; they end where it fails.
    """
    waiting = list(commands.items())
    running: dict[str, subprocess.Popen[bytes]] = {}
    statuses: dict[str, int] = {}
    started = time.time()

    def say(text: str) -> None:
        print(f"{time.time() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    while waiting or running:
        while waiting and len(running) < together:
            name, command = waiting.pop(0)
            with (folder / f"{name}.log").open("wb") as log:
                running[name] = subprocess.Popen(
                    [sys.executable, "-u", *command], stdout=log, stderr=subprocess.STDOUT
                )
            say(f"{name} begins")
        for name, process in list(running.items()):
            if (status := process.poll()) is None:
                continue
            del running[name]
            statuses[name] = status
            say(f"{name} ends" if not status else f"{name} fails: {status}")
            if status:
                text = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                print(text[-3000:], file=sys.stderr, flush=True)
                if name == needed:
                    for other in running.values():
                        other.kill()
                    raise SystemExit(f"{name} is what the others are compared with")
        time.sleep(0.2)
    return statuses
