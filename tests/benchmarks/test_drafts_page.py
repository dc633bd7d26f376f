"""docs/performance-drafts.md from made-up figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import drafts
from benchmarks.drafts_page import Found, Memory, page, pairs, read
from benchmarks.pages import level
from kvgen.bench import Report
from kvgen.compiler import Analysis
from kvgen.timing.drafts import DraftRow
from kvgen.timing.short import ShortRow


def step(kernel: str, tokens: int, batch: int, us: float, worst: float | None) -> DraftRow:
    return DraftRow(kernel, 4, tokens, batch, 36, us, us / tokens, 0.02, worst, 4.0, 4 / us, 2e-3)


def report(name: str, state: str, copy: float, windows: tuple[int, ...]) -> Report:
    rows: list[DraftRow] = []
    for batch in (16, 64):
        for tokens in windows:
            rows += [
                step("decode alone", 1, batch, 10.0, None),
                step("verify alone", tokens, batch, 11.0 + tokens, None),
                step("decode + advance", 1, batch, 12.0, 30.0),
                step("verify + accept", tokens, batch, 16.0, 31.0),
            ]
    if name == "gated_deltanet":
        prompt = step("extend + accept", 1024, 8, 1210.0, None)
        rows.append(DraftRow(**{**vars(prompt), "layers": 1, "state_error": 3e-7}))
    machine = ("bfloat16", "some GPU", "torch 1, triton 2", copy)
    return Report(name, state, *machine, 36, 16, (), tuple(rows))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    found = Found(
        [
            report("gated_deltanet", "bfloat16", 3000.0, (4, 8)),
            report("gated_deltanet", "split", 2500.0, (4, 8)),
            report("mamba2", "bfloat16", 3000.0, (4,)),
        ],
        [Memory("bfloat16", 4, 36, 32.0, 43.5, 750, 180, 170)],
        [
            ShortRow(state, 128, 32, 128, 36, 28.0, 0.1, 14.0, 0.5, 2e-3, 56.0, 0.2)
            for state in ("bfloat16", "split")
        ],
    )
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(found.data()), encoding="utf-8")
    return path


def test_page(kept: Path, golden) -> None:
    text = page(read(kept), Path("docs/performance-drafts.md"), Path("docs/data/h100-drafts.json"))
    assert golden("performance-drafts.md") == text


def test_the_page_again_from_kept_figures(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.md"
    monkeypatch.setattr("sys.argv", ["drafts.py", "--from", str(kept), "--out", str(out)])
    drafts.main()
    assert out.read_text(encoding="utf-8") == page(read(kept), out, kept)


def test_half_a_run_is_a_page_too(kept: Path) -> None:
    found = read(kept)
    text = page(Found(found.reports[:1]), kept, None)
    assert (
        "Memory of a window" not in text
        and "no state" not in text
        and "Other recurrences" not in text
    )
    assert "## gated_deltanet, bfloat16 state" in text


def test_floors_are_at_one_bandwidth(kept: Path) -> None:
    reports = read(kept).reports
    # what a slower copy gave beside the second report would flatter it
    floors = [each.drafts[0].floor_us for each in level(reports)]
    assert floors == [4.0, pytest.approx(4.0 * 2500 / 3000), 4.0]


def test_verify_is_compared_with_the_decode_before_it(kept: Path) -> None:
    first = read(kept).reports[0]
    rows = list(map(id, first.drafts))
    for (tokens, batch), (decode, verify) in pairs(first, end=False).items():
        assert (verify.tokens, verify.batch, decode.batch) == (tokens, batch, batch)
        assert rows.index(id(verify)) == rows.index(id(decode)) + 1


def test_jobs_cover_what_is_measured() -> None:
    found = drafts.jobs(Found())
    assert len(found) == len(set(found))
    for state in drafts.STATES:
        for batch in drafts.BATCHES:
            assert ("decode", drafts.SERVED, state, batch, 4) in found
            for window in drafts.WINDOWS:
                assert ("verify", drafts.SERVED, state, batch, window) in found
    for name in drafts.OTHERS:
        assert ("errors", name, "bfloat16", 16, 4) in found
    assert found[0][0] == "prompt"


def test_what_was_measured_is_not_measured_again(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read(kept)
    asked: list[str] = []

    def timed(analysis: Analysis, batches: tuple[int, ...], **_: object) -> Report:
        asked.append(analysis.spec.name)
        return report(analysis.spec.name, analysis.spec.storage.state.name, 3000.0, (4,))

    memory = before.memory[0]
    monkeypatch.setattr(drafts, "bench", timed)
    monkeypatch.setattr(drafts, "requests", lambda state: replace(memory, storage=state))
    out = tmp_path / "page.md"
    command = ["drafts.py", "--json", str(kept), "--resume", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    drafts.main()
    assert asked == [name for name in drafts.OTHERS if name != "mamba2"]
    after = read(kept)
    assert after.reports[:3] == before.reports and len(after.reports) == len(drafts.CASES)
    assert [row.storage for row in after.memory] == list(drafts.STATES)
    assert after.short == before.short
    assert out.read_text(encoding="utf-8") == page(after, out, kept)
    assert drafts.jobs(after) == []
