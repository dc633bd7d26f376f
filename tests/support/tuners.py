"""Tuners without a GPU and without compilers: what is asked of both is answered at once.

Run as a script it is `kvgen`, but for that: python tests/support/tuners.py MOODS tune SPEC --gpu …
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from places import ROOT, SUPPORT

from kvgen.conversation import Child
from kvgen.probing.compilers import Compiled
from kvgen.probing.launches import Case
from kvgen.tuning.tune import Tuner
from kvgen.tuning.workers import Worker

SCRIPT = SUPPORT / "fake_worker.py"
SMALL = {"sizes.H": "2", "sizes.HV": "4", "sizes.K": "64", "sizes.V": "64"}


class FakeCompilers:
    """Every configuration is a program of its own that uses little, if `used` does not say else."""

    def __init__(self, used: Callable[[Case], Compiled | None] = lambda case: None) -> None:
        self.used = used
        self.begun: list[Case] = []
        self.target = ""

    def begin(self, module: Path, case: Case, later: bool = False) -> None:
        self.begun.append(case)

    def ready(self, module: Path, case: Case) -> bool:
        return True

    def wait(self, module: Path, case: Case, seconds: float | None = None) -> Compiled:
        program = f"{case.kernel} {case.buffer} {sorted(case.config.items())}"
        return self.used(case) or Compiled(64, 0, 1024, 32, program)

    def close(self) -> None:
        pass


def fake_worker(device: str | None = None, **moods: Any) -> Worker:
    def start(environment: Any) -> Child:
        return Child("worker", [json.dumps(moods)], environment, [sys.executable, str(SCRIPT)])

    return Worker(device, start)


def tuner(
    note: Callable[[str], None] = lambda text: None,
    compilers: Any = None,
    **moods: Any,
) -> Tuner:
    return Tuner(
        note,
        lambda device: fake_worker(device, **moods),
        lambda: compilers or FakeCompilers(),
    )


def command(folder: Path, *arguments: str, device: str = "0", **moods: Any) -> Any:
    """A running `kvgen` whose trials and records lie in a folder."""
    small = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    environment = os.environ | {
        "KVGEN_CACHE_DIR": str(folder / "cache"),
        "KVGEN_WISDOM": str(folder / "wisdom"),
        "CUDA_VISIBLE_DEVICES": device,
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(moods), *arguments, *small],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def main() -> None:
    import cli
    from kvgen.tuning import plan, tune

    # a background shell, as CI may have, starts its children with interrupts ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    moods = json.loads(sys.argv[1])
    tune.Tuner = lambda note: tuner(note, **moods)  # type: ignore[misc,assignment]
    plan.gpu_name = lambda: "Test GPU"
    sys.argv[1:] = sys.argv[2:]
    cli.main()


if __name__ == "__main__":
    main()
