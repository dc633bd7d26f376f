"""Recurrences that no paper has, written with README.md beside: the compiler knows no variant."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import TESTS

from kvgen import compiler
from kvgen.checking.check import check

CASES = ("recurrent, after decodes", "dropped steps, repeated layers")
WINDOWS = ("drafts, chains", "drafts, trees", "prompts", "short contexts")
INVENTIONS = sorted((TESTS / "inventions").glob("*.yaml"))


@pytest.mark.parametrize("path", INVENTIONS, ids=lambda path: path.stem)
@pytest.mark.parametrize("state", ["float32", "split"])
def test_passes_check(path: Path, state: str) -> None:
    small = {"sizes.H": "1", "sizes.HV": "2", "sizes.K": "12", "sizes.V": "10"}
    analysis = compiler.analyse(path, {**small, "storage.state": state})
    report = check(analysis, "cpu", only=CASES)
    assert report.ok, [row for row in report.rows if not row.ok]


@pytest.mark.parametrize(
    ("carried", "state"), [("[]", "float32"), ("[H]", "bfloat16"), ("[HV]", "float32")]
)
def test_keys_that_are_times_what_is_carried(carried: str, state: str) -> None:
    """Their products among a window's tokens are times numbers that the tokens carry."""
    text = (TESTS / "inventions" / "grown_key.yaml").read_text(encoding="utf-8")
    assert "m: [H]\n" in text
    text = text.replace("m: [H]\n", f"m: {carried}\n")
    analysis = compiler.analyse(text, {"sizes.HV": "2", "storage.state": state})
    report = check(analysis, "cpu", only=WINDOWS)
    assert report.ok, [row for row in report.rows if not row.ok]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("carried", "state"), [("[]", "bfloat16"), ("[H]", "float32"), ("[HV]", "bfloat16")]
)
def test_more_keys_that_are_times_what_is_carried(carried: str, state: str) -> None:
    test_keys_that_are_times_what_is_carried(carried, state)
