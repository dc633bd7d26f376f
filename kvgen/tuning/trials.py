"""What was measured, one line for each configuration, kept while it is being measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from kvgen.tuning.space import Config

# what a configuration may turn out to be; the first three have a time
TIMED = ("timed", "slow", "twin")
VERDICTS = (*TIMED, "compile", "shared", "spills", "wrong", "launch", "crash", "hang")


@dataclass(frozen=True)
class Outcome:
    """What became of a configuration.

    verdict: 'timed'; 'slow', timed briefly as it cannot win; 'twin', another's program; else why
    it has no time. us: the 20th, 50th and 80th percentile. error: the worst of its outputs and
    states against float64, over what they may be off by. program: the digest of what was compiled.
    """

    config: Config
    verdict: str
    us: tuple[float, float, float] | None = None
    detail: str = ""
    error: float | None = None
    program: str = ""
    usage: dict[str, int] = field(default_factory=dict)

    @property
    def median(self) -> float | None:
        return self.us[1] if self.us else None

    @property
    def measured(self) -> bool:
        """Whether a GPU was asked."""
        return self.verdict in ("timed", "slow", "wrong", "launch", "crash", "hang")


def key_of(config: Config) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(config.items()))


def best(outcomes: Iterator[Outcome] | list[Outcome], count: int = 1) -> list[Outcome]:
    """The fastest, one of each program; the untimed never."""
    found: list[Outcome] = []
    timed = [o for o in outcomes if o.us]
    for outcome in sorted(timed, key=lambda o: (o.us, o.verdict == "twin", key_of(o.config))):
        if len(found) == count:
            break
        if outcome.verdict != "twin":
            found.append(outcome)
    return found


class Trials:
    """A file of outcomes that only grows. A line that was torn off at the end is forgotten; what
    stands before it is kept."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """about: what all its outcomes were measured for, written first."""
        self.path, self.about = path, about

    def read(self) -> list[Outcome]:
        """All outcomes, the last of each configuration, in the order in which they came."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        found: dict[Any, Outcome] = {}
        for line in data.split(b"\n")[:-1]:
            outcome = _parsed(line)
            if outcome is not None:
                found[key_of(outcome.config)] = outcome
        return list(found.values())

    def add(self, outcome: Outcome) -> None:
        """One line in one write, on the disk when this returns."""
        line = json.dumps({k: v for k, v in asdict(outcome).items() if v not in (None, "", {})})
        with self._open() as file:
            if os.fstat(file).st_size == 0:
                _write(file, json.dumps({"study": self.about}))
            _write(file, line)
            os.fsync(file)

    @contextmanager
    def _open(self) -> Iterator[int]:
        """Under a lock, for another tuner may write to the same file, at the end of a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                mend(file)
                yield file
            finally:
                os.close(file)


def mend(file: int) -> None:
    """Cut off a line without an end, which a process left that was killed."""
    size = os.fstat(file).st_size
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return
    end = 0
    for start in range((size - 1) // 4096 * 4096, -1, -4096):
        at = os.pread(file, min(4096, size - start), start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
    os.ftruncate(file, end)


def _write(file: int, line: str) -> None:
    os.write(file, line.encode() + b"\n")


def _parsed(line: bytes) -> Outcome | None:
    try:
        return outcome_of(json.loads(line))
    except ValueError:
        return None


def outcome_of(data: Any) -> Outcome | None:
    """An outcome from what a line says of it, or None where that is none."""
    try:
        times = data.get("us")
        us = None if times is None else tuple(float(each) for each in times)
        config = {str(k): int(v) for k, v in data["config"].items()}
        if data["verdict"] not in VERDICTS or (us is not None and len(us) != 3):
            return None
        return Outcome(**{**data, "us": us, "config": config})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
