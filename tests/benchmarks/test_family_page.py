"""docs/performance-family.md from made-up figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import family

TIMES = {1: (4.4, 4.0, 5.0, 4.5), 64: (63.0, 62.0, 99.0, 97.0)}
BY = "kvgen tune --gpu --effort quick"


def record(kernel: str, batch: int, us: float, before: float | None) -> dict[str, Any]:
    return {
        "key": {"kernel": kernel, "shape": {"H": 16, "HV": 32}}, "us": [us - 0.1, us, us + 0.1],
        "floor_us": 0.7 * batch,
        "error": 1.7e-3, "effort": "quick", "at": {"batch": batch, "buffer": 16, "layers": 36},
        "env": {"torch": "2", "triton": "3"}, "date": "2026-11-23", "untuned_us": before,
    }  # fmt: skip


def report(
    spec: str, storage: str = "float32", copy: float = 3000.0, slower: float = 1.0
) -> dict[str, Any]:
    records = [record("fold", 64, 1.0, 1.1), record("buffer", 0, 20.0, 20.0)]
    # a larger batch first: the page has them in order
    for batch, (before, us, plain_before, plain) in reversed(TIMES.items()):
        records.append(record("decode", batch, us * slower, before * slower))
        records.append(record("recurrent", batch, plain, plain_before))
    return {
        "spec": spec, "storage": storage, "gpu": family.PAGES["h100"].gpu, "copy_gbs": copy,
        "buffer": 16, "records": records,
    }  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *reports: dict[str, Any]) -> str:
    """Add a tuner's output to what is kept; the page."""
    added = folder / "run.json"
    added.write_text(json.dumps(reports), encoding="utf-8")
    kept, page = folder / "kept.json", folder / "page.md"
    arguments = ["--kept", kept, "--out", page, "--add", added, "--by", BY]
    monkeypatch.setattr("sys.argv", ["family.py", *map(str, arguments)])
    family.main()
    return page.read_text(encoding="utf-8")


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden) -> None:
    """With a recurrence whose plain kernel is ahead, and floors at the higher bandwidth."""
    text = run(
        monkeypatch, tmp_path,
        report("mine", "split"), report("zeta", copy=2400.0), report("alpha", slower=2.0),
    )  # fmt: skip
    assert golden("performance-family.md") == text
    [_, _, small, large] = text.partition("## zeta")[2].split("\n\n")[1].splitlines()
    assert small.split(" | ")[1:5] == ["4.40", "**4.00**", "1.10", "0.56"]
    assert large.split(" | ")[-3:] == ["99.00", "97.00", "1.56 |"]
    assert text.index("## alpha, float32") < text.index("## zeta") < text.index("## mine, split")


def test_the_last_run_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, tmp_path, report("mine"), report("other"))
    text = run(monkeypatch, tmp_path, report("mine", slower=0.5))
    found = {each.spec: each for each in family.read(tmp_path / "kept.json")}
    assert set(found) == {"mine", "other"} and found["mine"].rows[0].us == 2.0
    assert "| 1 | 2.20 | **2.00** |" in text


def test_what_was_known_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was answered by the store has no times of what is untuned."""
    run(monkeypatch, tmp_path, report("mine"))
    known = report("mine", slower=0.5)
    for each in known["records"]:
        del each["untuned_us"]
    del known["storage"], known["copy_gbs"], known["buffer"]
    run(monkeypatch, tmp_path, known)
    [tuned] = family.read(tmp_path / "kept.json")
    assert tuned.rows[0].us == 4.0


def test_what_was_cut_short_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = report("mine")
    for each in cut["records"]:
        if each["key"]["kernel"] == "decode" and each["at"]["batch"] == 1:
            each["at"]["cut"] = 1
    run(monkeypatch, tmp_path, cut)
    [tuned] = family.read(tmp_path / "kept.json")
    assert [row.batch for row in tuned.rows] == [64]


def test_a_share_of_the_heads_stands_beside_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = report("gated_deltanet", slower=0.5)
    for each in share["records"]:
        each["key"]["shape"] = {"H": 4, "HV": 8}
    text = run(monkeypatch, tmp_path, report("gated_deltanet"), share)
    assert "## gated_deltanet, float32 state" in text
    assert "## gated_deltanet, H 4, HV 8, float32 state" in text


def test_a_run_on_another_gpu_is_not_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**report("mine"), "gpu": family.PAGES["h200"].gpu}
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, other)
    assert "is of NVIDIA H200, this page of NVIDIA H100" in capsys.readouterr().err
    assert not (tmp_path / "kept.json").exists()


@pytest.mark.parametrize(
    "gpu", [name for name, page in family.PAGES.items() if page.kept.is_file()]
)
def test_the_kept_page_is_current(gpu: str) -> None:
    one = family.PAGES[gpu]
    kept = family.level(family.read(one.kept))
    assert family.page(kept, one.intro) == one.out.read_text(encoding="utf-8")
