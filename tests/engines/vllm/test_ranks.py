"""kvgen in vLLM spread over two processes: each holds its heads, and the text stays what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

SCRIPT = ROOT / "benchmarks" / "servers" / "vllm_equal.py"
pytestmark = pytest.mark.engine

# so far are log-probabilities of roundings in bfloat16 apart, where a product is a sum over ranks
APART = 0.5


def test_two_ranks_say_what_one_says(tmp_path: Path) -> None:
    out = tmp_path / "equal.json"
    command = [
        sys.executable, str(SCRIPT), str(tmp_path / "said"), "--json", str(out), "--tiny",
        "--arms", "kvgen-float32", "--ranks", "2", "--rows", "2", "--tokens", "6",
        "--together", "1",
    ]  # fmt: skip
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr[-6000:]
    arms = json.loads(out.read_text(encoding="utf-8"))["arms"]
    assert set(arms) == {"kvgen-float32", "stock-float32@2", "kvgen-float32@2"}
    told = arms["kvgen-float32@2"]["from one GPU"]
    assert told["largest"] < APART
    assert told["gap"] < APART
    # a rank has half of the heads' states and records in its pages
    one, two = (
        max(group["page_bytes"] for group in arms[name]["memory"]["groups"])
        for name in ("kvgen-float32", "kvgen-float32@2")
    )
    assert two < 0.75 * one
