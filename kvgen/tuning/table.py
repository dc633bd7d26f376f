"""A table of all configurations of a kernel with their times, on which a search can be replayed."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvgen import files
from kvgen.tuning.space import Config
from kvgen.tuning.trials import Outcome, key_of


@dataclass
class Table:
    """about: what was timed, and where. batches: outcomes by configuration."""

    about: dict[str, Any]
    batches: dict[int, dict[Any, Outcome]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, about: dict[str, Any] | None = None) -> Table:
        """A table from its file; a new one where there is none, or one of something else."""
        if not path.is_file():
            return cls(about or {})
        raw = path.read_bytes()
        data = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        if about is not None and data["about"] != about:
            raise ValueError(f"{path} is of something else: {data['about']}, expected {about}")
        table = cls(data["about"])
        for batch, rows in data["batches"].items():
            table.add(int(batch), [_outcome(data["knobs"], row) for row in rows])
        return table

    def add(self, batch: int, outcomes: Sequence[Outcome]) -> None:
        found = self.batches.setdefault(batch, {})
        found |= {key_of(outcome.config): outcome for outcome in outcomes}

    def outcomes(self, batch: int) -> list[Outcome]:
        return list(self.batches.get(batch, {}).values())

    def find(self, batch: int, config: Config) -> Outcome | None:
        return self.batches[batch].get(key_of(config))

    def write(self, path: Path) -> None:
        """One configuration a line; compressed where the name ends in .gz, and then the same bytes
        for the same table."""
        knobs = sorted({knob for found in self.batches.values() for k in found for knob, _ in k})
        parts = []
        for batch, found in sorted(self.batches.items()):
            rows = [json.dumps(_row(knobs, outcome)) for outcome in found.values()]
            parts.append(f" {json.dumps(str(batch))}: [\n  " + ",\n  ".join(rows) + "]")
        text = (
            f'{{"about": {json.dumps(self.about)},\n"knobs": {json.dumps(knobs)},\n'
            + '"batches": {\n'
            + ",\n".join(parts)
            + "}}\n"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = text.encode()
        files.write(path, gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)

    def summary(self) -> str:
        counts = [f"{len(found)} at batch {batch}" for batch, found in self.batches.items()]
        return ", ".join(counts)


def _row(knobs: list[str], outcome: Outcome) -> list[Any]:
    values = [outcome.config[knob] for knob in knobs]
    us = [round(each, 4) for each in outcome.us] if outcome.us else None
    return [values, outcome.verdict, us, outcome.program, outcome.usage, outcome.error]


def _outcome(knobs: list[str], row: list[Any]) -> Outcome:
    values, verdict, us, program, usage, error = row
    config = dict(zip(knobs, values, strict=True))
    times = tuple(us) if us else None
    return Outcome(config, verdict, times, program=program, usage=usage, error=error)
