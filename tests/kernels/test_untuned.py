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

import left_out
import pytest
from places import TESTS

from kvgen import compiler
from kvgen.shipped import resolve
from kvgen.tuning import space

TABLES = sorted((TESTS / "data/untuned").glob("*.json.gz"))
# times of the best: the geometric mean of a kernel's studies, and the worst of them
MEAN, WORST = 1.06, 1.36
# a prompt's blocks of keys that have 256 channels leave no room for a rule that suits all of them
KNOWN = {("extend", "mlstm"): 2.4}
# the same of a recurrence whose studies the rules have not seen
MEAN_LEFT_OUT, WORST_LEFT_OUT = 1.08, 1.8


@cache
def studies(path: Path) -> list[dict[str, Any]]:
    return json.loads(gzip.decompress(path.read_bytes()))["studies"]


@cache
def analysed(spec: str, overrides: tuple[tuple[str, str], ...]) -> compiler.Analysis:
    return compiler.analyse(resolve(spec), dict(overrides))


def untuned(study: dict[str, Any]) -> float | None:
    """How many times as long as the best it takes; None where it was not timed."""
    analysis = analysed(study["spec"], tuple(study["set"].items()))
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


def test_rules_hold_for_recurrences_that_they_were_not_fitted_to() -> None:
    """Of the GPU on which most have been studied."""
    [path] = [path for path in TABLES if path.name == "h200.json.gz"]
    ratios: dict[str, list[float]] = defaultdict(list)
    missing = 0
    for study, ratio in left_out.ratios(studies(path), untuned):
        kernel, spec = study["kernel"], study["spec"]
        missing += ratio is None
        if ratio is None or (kernel, spec) in KNOWN:
            continue
        name = f"{kernel} of {spec} {study['set']}, batch {study['batch']}"
        assert ratio < WORST_LEFT_OUT, f"{name}: {ratio:.2f} times the best"
        ratios[kernel].append(ratio)
    assert {"decode", "recurrent", "verify", "chain", "extend", "short"} <= set(ratios)
    for kernel, found in ratios.items():
        mean = math.exp(sum(map(math.log, found)) / len(found))
        assert mean < MEAN_LEFT_OUT, f"{kernel}: {mean:.2f} times the best"
    assert missing < 0.1 * len(studies(path))
