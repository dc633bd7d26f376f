"""The file of what was measured: whatever kills the process, its whole lines are kept."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from kvgen.tuning.table import Table
from kvgen.tuning.trials import Outcome, Trials, best

ABOUT = {"spec": "mine", "batch": 4}


def outcome(tile: int, us: float | None = 5.0, verdict: str = "timed") -> Outcome:
    times = (us - 1, us, us + 1) if us else None
    return Outcome({"TILE": tile, "num_warps": 1}, verdict, times, error=1e-3, program=f"p{tile}")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "a" / "b.jsonl", ABOUT)
    assert trials.read() == []
    wanted = [outcome(8), outcome(16, None, "crash"), outcome(32, 7.5, "slow")]
    for each in wanted:
        trials.add(each)
    assert trials.read() == wanted
    first, *lines = trials.path.read_text().splitlines()
    assert json.loads(first) == {"study": ABOUT} and len(lines) == 3
    # the last of a configuration counts
    trials.add(outcome(8, 4.0))
    assert trials.read()[0].us == (3.0, 4.0, 5.0) and len(trials.read()) == 3


@pytest.mark.parametrize("length", [1, 30, 5000])
def test_a_torn_tail_is_ignored_and_cut(length: int, tmp_path: Path) -> None:
    trials = Trials(tmp_path / "t.jsonl", ABOUT)
    for tile in (8, 16):
        trials.add(outcome(tile))
    whole = trials.path.read_bytes()
    torn = json.dumps({"config": {"TILE": 99}, "verdict": "timed", "detail": "x" * 6000})
    trials.path.write_bytes(whole + torn[:length].encode())
    assert trials.read() == [outcome(8), outcome(16)]
    trials.add(outcome(32))
    assert trials.read() == [outcome(8), outcome(16), outcome(32)]
    assert trials.path.read_bytes().startswith(whole)
    assert b"99" not in trials.path.read_bytes()


def test_a_file_that_is_one_torn_line(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "t.jsonl", ABOUT)
    trials.path.write_text('{"study": {"spec": "mi')
    assert trials.read() == []
    trials.add(outcome(8))
    assert trials.read() == [outcome(8)]
    assert json.loads(trials.path.read_text().splitlines()[0]) == {"study": ABOUT}


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1, 2]",
        "{}",
        '{"config": {"TILE": "x"}, "verdict": "timed"}',
        '{"config": {"TILE": 8}, "verdict": "splendid"}',
        '{"config": {"TILE": 8}, "verdict": "timed", "us": [1, 2]}',
        '{"config": {"TILE": 8}, "verdict": "timed", "us": 3}',
        '{"config": {"TILE": 8}, "verdict": "timed", "of_later": 1}',
    ],
)
def test_a_line_that_is_no_outcome(line: str, tmp_path: Path) -> None:
    trials = Trials(tmp_path / "t.jsonl", ABOUT)
    trials.add(outcome(16))
    with trials.path.open("a") as file:
        file.write(line + "\n")
    trials.add(outcome(32))
    assert trials.read() == [outcome(16), outcome(32)]


def test_many_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"

    def write(start: int) -> None:
        trials = Trials(path, ABOUT)
        for tile in range(start, start + 25):
            trials.add(outcome(tile))

    threads = [threading.Thread(target=write, args=(100 * at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {each.config["TILE"] for each in Trials(path, ABOUT).read()}
    assert found == {100 * at + tile for at in range(4) for tile in range(25)}
    assert len(path.read_text().splitlines()) == 101


def test_the_best() -> None:
    twin = Outcome({"TILE": 4, "num_warps": 1}, "twin", (1.0, 2.0, 3.0), program="p8")
    found = [outcome(16, 3.0), outcome(8, 2.0), twin, outcome(64, None, "wrong")]
    assert [each.config["TILE"] for each in best(found, 5)] == [8, 16]


def test_a_table(tmp_path: Path) -> None:
    table = Table(ABOUT)
    table.add(4, [outcome(8), outcome(16, None, "spills")])
    table.add(1, [outcome(8, 3.0)])
    for name in ("t.json", "t.json.gz"):
        path = tmp_path / name
        table.write(path)
        again = Table.read(path)
        assert again.about == ABOUT and sorted(again.batches) == [1, 4]
        assert again.outcomes(4) == table.outcomes(4)
        found = again.find(1, {"num_warps": 1, "TILE": 8})
        assert found is not None and found.median == 3.0
        assert again.find(1, {"TILE": 16, "num_warps": 1}) is None
        written = path.read_bytes()
        again.write(path)
        assert path.read_bytes() == written
        with pytest.raises(ValueError, match="something else"):
            Table.read(path, {"spec": "other"})
