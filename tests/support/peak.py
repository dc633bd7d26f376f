"""How much memory a piece of code takes, in a fresh process."""

from __future__ import annotations

import subprocess
import sys

from places import ROOT, SUPPORT


def peak(code: str) -> int:
    """The peak of the process in MiB: its own, for getrusage begins with its parent's."""
    return peak_and_lines(code)[0]


def peak_and_lines(code: str, after: str = "") -> tuple[int, list[str]]:
    """The same, and what the code prints. after: what runs behind it, whatever that takes."""
    end = (
        "\nstatus = dict(line.split(':', 1) for line in open('/proc/self/status'))"
        "\nprint(int(status['VmHWM'].split()[0]) // 1024)\n"
    )
    paths = [str(ROOT), str(SUPPORT)]
    start = "import sys; sys.path[:0] = sys.argv[1:]\n"
    run = subprocess.run(
        [sys.executable, "-c", start + code + end + after, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, last = run.stdout.splitlines()
    return int(last), lines
