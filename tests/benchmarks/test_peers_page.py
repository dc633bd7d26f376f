"""docs/performance.md from made-up figures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from reports import BATCHES, REPLAY, report
from twins import analysed

from benchmarks import peers, peers_page
from kvgen.benching import contest, lineup
from kvgen.benching.peers.peer import Peer, Problem, Started
from kvgen.benching.report import Report
from kvgen.checking.interpreter import rounding
from kvgen.compiler import Analysis
from kvgen.terminal import legal_json

COMMAND = "python benchmarks/peers.py --json figures.json"


def kept(path: Path, *reports: Report) -> Path:
    data = {"command": COMMAND, "reports": [each.data() for each in reports]}
    path.write_text(json.dumps(legal_json(data)), encoding="utf-8")
    return path


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden) -> None:
    """The golden file shows where a peer is ahead, a row that failed and a spec without goals."""
    holes = tuple(r for r in report().rows if (r.kernel, r.batch) != (REPLAY, 64))
    path = kept(
        tmp_path / "kept.json",
        report(),
        replace(report("mamba2", "bfloat16", copy=2500.0), rows=holes, absent=()),
    )
    out = tmp_path / "performance.md"
    monkeypatch.setattr("sys.argv", ["peers_page.py", str(path), "--out", str(out)])
    peers_page.main()
    text = out.read_text(encoding="utf-8")
    assert golden("performance-peers.md") == text


def cells(text: str, batch: int | str) -> dict[str, str]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines()]
    [row] = [line for line in lines if line[0] == str(batch)]
    return dict(zip(lines[0], row, strict=False))


def test_a_table_says_where_a_peer_is_ahead() -> None:
    text = peers_page.table(report())
    assert cells(text, 16)["ahead"] == f"0.93: **SGLang {REPLAY[7:]} is ahead**"
    assert cells(text, 64)["ahead"] == "1.19"
    assert cells(text, 1)["plain"] == "**3.50**" and cells(text, 1)["buffered"] == "4.00"
    goals = [cells(text, batch)["goal"] for batch in BATCHES]
    assert goals == ["2.4", "3.7", "9.5", "36", "135"]
    assert cells(text, "error")["FLA"] == "1.7e-03"


def test_no_peers_no_columns_of_them() -> None:
    alone = replace(report("mamba2"), rows=tuple(r for r in report().rows if r.library == "kvgen"))
    head = peers_page.table(alone).splitlines()[0]
    assert re.findall(r"[\w%]+", head) == ["batch", "buffered", "plain", "floor", "share"]


def test_a_run_writes_everything_at_every_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def bench(analysis: Analysis, batches: list[int], layers: int, against: list[str]) -> Report:
        assert batches == [1, 16] and against == ["fla", "sglang", "flashinfer"]
        name, state = analysis.spec.name, analysis.spec.storage.state.name
        if asked:
            raise KeyboardInterrupt
        asked.append((name, state))
        return report(name, state)

    monkeypatch.setattr(peers, "bench", bench)
    out, figures = tmp_path / "performance.md", tmp_path / "kept.json"
    arguments = ["--batches", "1,16", "--out", out, "--json", figures, "--html", tmp_path]
    monkeypatch.setattr("sys.argv", ["peers.py", *map(str, arguments)])
    with pytest.raises(KeyboardInterrupt):
        peers.main()
    assert asked == [("gated_deltanet", "split")]
    [kept], command = peers_page.read(figures)
    assert kept == report() and command.startswith("python benchmarks/peers.py --batches 1,16")
    assert out.read_text(encoding="utf-8") == peers_page.page([report()], command)
    assert (tmp_path / "gated_deltanet-split.html").is_file()


@rounding()
def test_warming_calls_what_is_timed(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    theirs = contest.theirs

    def seen(analysis: Analysis, problem: Problem, entrant: lineup.Entrant) -> contest.Contestant:
        called.append(f"{entrant.peer.library} {problem.rows}")
        return theirs(analysis, problem, entrant)

    monkeypatch.setattr(contest, "theirs", seen)
    monkeypatch.setattr(peers, "analysed", lambda name, state: analysed(name, f"state={state}"))
    jobs = [("mamba2", "split", batch, ()) for batch in (0, 3)]
    assert [peers.compiled(job) for job in jobs] == ["", ""]
    found = lineup.Lineup((lineup.Entrant(stand_in(), 0.0),), ())
    monkeypatch.setattr(lineup, "lineup", lambda *given: found)
    assert peers.compiled(("mamba2", "split", 3, ("fla",))) == "" and called == ["fla 3"]
    assert peers.compiled(("mamba2", "none", 3, ())).startswith("mamba2 none 3: SpecError")


def stand_in() -> Peer:
    def start(problem: Problem) -> Started:
        return Started(lambda layer: problem.outputs()[layer])

    return Peer("fla", "kernel", "mamba2", start)


def test_tuned_is_said_only_of_what_was() -> None:
    assert "most, tuned, beside" in peers_page.page([report()], COMMAND)
    mixed = [report(), replace(report(), tuned=False)]
    assert "not all of them tuned" in peers_page.page(mixed, COMMAND)
