"""Rules of thumb beside what full searches have timed: trials of `kvgen tune SPEC --gpu`, the
medians of all configurations in tests/data/untuned. Single tokens with states in 16 bits, too."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvgen import compiler
from kvgen.shipped import resolve
from kvgen.tuning import space

TABLES = sorted((Path(__file__).parent / "data/untuned").glob("*.json.gz"))
# times of the best: the geometric mean of a kernel's studies, and the worst of them
MEAN, WORST = 1.06, 1.36
# a prompt's blocks of keys that have 256 channels leave no room for a rule that suits all of them
KNOWN = {("extend", "mlstm"): 2.4}


@cache
def studies(path: Path) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(path.read_bytes()))["studies"]


def untuned(study: dict[str, Any]) -> float | None:
    """How many times as long as the best it takes; None where it was not timed."""
    analysis = compiler.analyse(resolve(study["spec"]), study["set"])
    config = space.default(analysis, study["kernel"], study["batch"])
    wanted = [config[knob] for knob in study["knobs"]]
    times = {tuple(row[:-1]): row[-1] for row in study["rows"]}
    found = times.get(tuple(wanted))
    return found and found / min(times.values())


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.name.partition(".")[0])
def test_untuned_kernels_are_close_to_the_best(path: Path) -> None:
    ratios: dict[str, list[float]] = defaultdict(list)
    missing: list[str] = []
    for study in studies(path):
        kernel, spec = study["kernel"], study["spec"]
        name = f"{kernel} of {spec} {study['set']}, batch {study['batch']}"
        ratio = untuned(study)
        if ratio is None:
            missing.append(name)
            continue
        assert ratio < KNOWN.get((kernel, spec), WORST), f"{name}: {ratio:.2f} times the best"
        if (kernel, spec) not in KNOWN:
            ratios[kernel].append(ratio)
    assert {"verify", "chain", "extend", "short"} <= set(ratios)
    for kernel, found in ratios.items():
        mean = math.exp(sum(map(math.log, found)) / len(found))
        assert mean < MEAN, f"{kernel}: {mean:.2f} times the best"
    # a rule that takes what no search has thought worth a try is a guess
    assert len(missing) < 0.1 * len(studies(path)), missing
