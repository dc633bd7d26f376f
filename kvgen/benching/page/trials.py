"""What the tuner's trials say of its pruning.

Trials are JSON lines in files below `<cache>/trials`. The first line of a file is {"study": {...}},
which names the spec, GPU, kernel and batch; each of the others has a config and its verdict.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# why a configuration was not timed, in the order in which it is asked: what is said of the others
REASONS = {
    "compile": "compile",
    "shared": "fit into shared memory",
    "spills": "spill no registers",
    "twin": "are programs of their own",
    "launch": "can be launched",
    "crash": "do not crash",
    "hang": "end in time",
    "wrong": "compute right values",
}
TIMED = "timed"
# timed briefly: it cannot win
SLOW = "slow"


@dataclass(frozen=True)
class Study:
    """The verdict of every configuration of one kernel at one batch."""

    kernel: str
    batch: int
    verdicts: Mapping[str, str]


@dataclass(frozen=True)
class Stage:
    left: int
    text: str


@dataclass(frozen=True)
class Funnel:
    """Of one kernel at one batch: how many configurations were left after each step."""

    kernel: str
    batch: int
    stages: tuple[Stage, ...]


def read(folder: Path, spec: str, gpu: str) -> list[Study]:
    """The studies of this spec on this GPU."""
    found: list[Study] = []
    for path in sorted(folder.rglob("*.jsonl")) if folder.is_dir() else ():
        about: Any = {}
        verdicts: dict[str, str] = {}
        for line in objects(path):
            if "verdict" in line:
                # the last word on a configuration counts
                config = json.dumps(line.get("config"), sort_keys=True)
                verdicts[config] = str(line["verdict"])
            else:
                about = line.get("study", about)
        match about:
            case {"spec": name, "gpu": on, "kernel": str(kernel), "batch": int(batch)}:
                if (name, on) == (spec, gpu) and verdicts:
                    found.append(Study(kernel, batch, verdicts))
    return found


def objects(path: Path) -> list[dict[str, Any]]:
    """The file's objects; a line that was torn is none."""
    found: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


def funnels(studies: Iterable[Study], kernel: str = "decode") -> list[Funnel]:
    """One for each batch, of the study that went furthest, if it pruned anything."""
    largest: dict[int, Study] = {}
    for study in studies:
        other = largest.get(study.batch)
        if study.kernel == kernel and (not other or len(study.verdicts) > len(other.verdicts)):
            largest[study.batch] = study
    found = [funnel(study) for _, study in sorted(largest.items())]
    return [each for each in found if len(each.stages) > 1]


def funnel(study: Study) -> Funnel:
    counts = Counter(study.verdicts.values())
    left = counts.total()
    stages = [Stage(left, "configurations")]
    unknown = sorted(set(counts) - set(REASONS) - {TIMED, SLOW})
    for reason in [*REASONS, *unknown]:
        if counts[reason]:
            left -= counts[reason]
            stages.append(Stage(left, REASONS.get(reason, f"are not “{reason}”")))
    if counts[SLOW]:
        stages.append(Stage(counts[TIMED], "could win, and were timed at length"))
    elif len(stages) > 1:
        # what was left is what was timed
        stages[-1] = Stage(left, "timed")
    return Funnel(study.kernel, study.batch, tuple(stages))
