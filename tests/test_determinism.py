"""The same spec gives the same bytes, which are clean Python, in less than two seconds."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from twins import SPECS, STATES

from kvgen import compiler
from kvgen.shipped import resolve, shipped

ALL = [spec.name for spec in shipped()]
MODES = [
    {"storage.state": state, "storage.records": records, "storage.layout": layout}
    for state, records, layout in itertools.product(STATES, ("float32", "input"), ("kv", "vk"))
]

PRINT_HASHES = f"""
import hashlib
from kvgen import compiler
from kvgen.shipped import resolve
for name in {SPECS}:
    for mode in ({{}}, {{"storage.state": "split", "storage.records": "input"}}):
        text = compiler.emit(compiler.analyse(resolve(name), mode))
        print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_bytes_whatever_the_hash_seed() -> None:
    printed = set()
    for seed in ("0", "31337"):
        result = subprocess.run(
            [sys.executable, "-c", PRINT_HASHES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(result.stdout)
    assert len(printed) == 1
    assert len(set(printed.pop().split())) == 2 * len(SPECS)


def test_modules_are_clean_python(tmp_path: Path) -> None:
    for name, mode in zip(ALL, itertools.cycle(MODES), strict=False):
        path = tmp_path / f"{name}_{'_'.join(mode.values())}.py"
        text = compiler.emit(compiler.analyse(resolve(name), mode))
        compile(text, str(path), "exec")
        path.write_text(text, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E9,F"]
    result = subprocess.run([*ruff, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def timed(spec: Path | str) -> tuple[str, float]:
    """A spec's module, and the processor's time that it took."""
    start = time.process_time()
    text = compiler.emit(compiler.analyse(spec))
    return text, time.process_time() - start


@pytest.mark.parametrize("name", ALL)
def test_the_same_bytes_from_the_completed_spec_in_less_than_two_seconds(name: str) -> None:
    completed = compiler.analyse(resolve(name)).spec.text
    (text, once), (again, twice) = timed(resolve(name)), timed(completed)
    assert hashlib.sha256(text.encode()).digest() == hashlib.sha256(again.encode()).digest()
    # the less of two, which other processes make longer, too
    assert min(once, twice) < 2
