"""Engines that take turns: who goes when, what counts, and what the page says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.servers import page, turns_page, vllm_turns

COUNTED = 4


class Engine:
    """Steps of so many seconds, by a clock that all share; the first gives one token of two."""

    def __init__(self, name: str, seconds: float, clock: list[float], seen: list[str]) -> None:
        self.name, self.seconds, self.clock, self.seen = name, seconds, clock, seen

    def steps(self, count: int) -> Iterator[list[Any]]:
        for at in range(100):
            self.clock[0] += self.seconds
            self.seen.append(self.name)
            yield [SimpleNamespace(finished=False, new_token_ids=[7, 7])] * (
                1 if at == 0 else count
            )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Engine], list[str]]:
    clock, order = [0.0], []
    monkeypatch.setattr(vllm_turns.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(vllm_turns.engine, "admit", lambda llm, asked: {row: row for row in asked})
    monkeypatch.setattr(vllm_turns.engine, "steps", lambda llm, count: llm.steps(count))
    arms = {name: Engine(name, s, clock, order) for name, s in (("own", 2e-3), ("ours", 1e-3))}
    return arms, order


def taken_turns(arms: dict[str, Any], turns: int, last: bool) -> dict[str, dict[str, Any]]:
    """What is kept of each arm after a batch of two requests."""
    asked: list[Any] = ["a", "b"]
    rows: dict[str, dict[str, Any]] = {name: {"batch": 2, "steps_ms": []} for name in arms}
    vllm_turns.together(arms, asked, turns=turns, counted=COUNTED, rows=rows, last=last, given=4)
    return rows


def test_engines_take_turns_and_each_is_first_as_often(
    seen: tuple[dict[str, Engine], list[str]],
) -> None:
    arms, order = seen
    rows = taken_turns(arms, 2, last=False)
    # the step with one token of two is none of a full batch
    settled = vllm_turns.SETTLING + 1
    taken = vllm_turns.SKIPPED + COUNTED
    turns = order[2 * settled :][: 4 * taken]
    assert order[: 2 * settled] == ["own"] * settled + ["ours"] * settled
    assert turns == ["own"] * taken + ["ours"] * 2 * taken + ["own"] * taken
    assert rows["own"]["steps_ms"] == [2.0, 2.0] and rows["ours"]["steps_ms"] == [1.0, 1.0]
    assert "calls" not in rows["own"]
    assert vllm_turns.said(rows, "own").endswith("ours 1.000 ms (2.000 ± 0.000)")
    # every request was decoded to its end
    assert order.count("own") == order.count("ours") == 100


def test_calls_of_a_step_are_counted_beside_its_time(
    seen: tuple[dict[str, Engine], list[str]],
) -> None:
    arms, _ = seen
    rows = taken_turns(arms, 1, last=True)
    assert rows["own"]["calls"] == rows["ours"]["calls"] > 1
    assert len(rows["own"]["steps_ms"]) == 1


def test_arms_that_keep_other_drafts_are_not_compared(
    seen: tuple[dict[str, Engine], list[str]],
) -> None:
    arms, _ = seen
    steps = vllm_turns.decoding(arms["own"], [("a", None, None), ("b", None, None)])
    assert vllm_turns.turn(steps, COUNTED, given=4) > 0
    with pytest.raises(RuntimeError, match="gave 16 tokens, expected 32"):
        vllm_turns.turn(steps, COUNTED, given=8)


def test_what_slows_both_of_a_pair_is_no_error() -> None:
    ratio, error = vllm_turns.over([[2.0, 4.0, 3.0]], [[1.0, 2.0, 1.5]])
    assert (round(ratio, 12), round(error, 12)) == (2.0, 0.0)
    ratio, error = vllm_turns.over([[2.0, 2.0]], [[1.0, 4.0]])
    # a half and twice: 1, and the deviation of ±log 2 over the root of 2
    assert ratio == pytest.approx(1.0) and error == pytest.approx(0.693147, rel=1e-5)


def test_two_engines_of_an_arm_are_one_and_stocks_own_differ_by_their_order() -> None:
    names = vllm_turns.numbered(["own", "ours", "ours", "own"])
    assert names == ["own", "ours", "ours#2", "own#2"]
    # each is slower than the one that was started before it, by a tenth
    times = {name: [1.1**at, 1.1**at * 2] for at, name in enumerate(names)}
    assert vllm_turns.ratio(times, "ours", "own") == pytest.approx((1.0, 0.0))
    second = vllm_turns.ratio(times, "own#2", "own")
    assert second == pytest.approx((1.1**-3, 0.0))
    assert vllm_turns.ratio(times, "own", "own") is None
    assert vllm_turns.ratio(times, "own#3", "own") is None


def test_the_page_says_what_stocks_two_engines_differ_by() -> None:
    about = {"model": "next", "stock": "stock-float32"}
    arms = {"stock-float32": 2.0, "kvgen-split": 1.6, "kvgen-split#2": 1.6, "stock-float32#2": 2.0}
    runs = [{"arm": arm, "batch": 8, "steps_ms": [ms, ms]} for arm, ms in arms.items()]
    found = turns_page.by_batch({"about": about, "runs": runs})
    assert "| batch | vLLM float32 | kvgen split |" in found
    assert "| 8 | 2.00, 1.000 ± 0.000 | 1.60, **1.250** ± 0.000 |" in found


def test_the_page_has_times_calls_and_the_ratio_with_its_error(tmp_path: Path) -> None:
    about = {"gpu": "some GPU", "vllm": "0.33.0", "torch": "2.11.0", "triton": "3.6.0",
             "model": "deep", "prompt": 128, "buffer": 16, "stock": "stock-float32"}  # fmt: skip
    gpu = {"linear_us": 300.0, "total_us": 1000.0}
    own = {"arm": "stock-float32", "batch": 8, "steps_ms": [2.0, 2.0], "calls": 1000.5, "gpu": gpu}
    ours = {"arm": "kvgen-split", "batch": 8, "steps_ms": [1.6, 1.6], "calls": 1000.5, "gpu": gpu}
    part = [each | {"batch": 512} for each in (own, ours)]
    for each in part:
        del each["calls"]
    figures = {"about": about, "runs": [own, ours, *part]}
    for name in page.BLOCKS["vllm-turns-deep"][1:]:
        (tmp_path / name).write_text(json.dumps(figures), encoding="utf-8")
    found = page.filled("<!-- vllm-turns-deep -->\n<!-- end -->\n", tmp_path)
    assert found.count("beside vLLM float32**, 2 turns of 16 steps each.") == 2
    assert "| batch | vLLM float32 | kvgen split |" in found
    assert "| 8 | 2.00 (1,000) | 1.60 (1,000), **1.250** ± 0.000 |" in found
    assert "| 512 | 2.00 | 1.60, **1.250** ± 0.000 |" in found
    assert "30% at 8, 30% at 512." in found
    assert "drafts" not in found
    assert "| 512 | 300 | 300 (1.00) |" in found


def test_the_page_says_what_linear_attention_takes_and_that_drafts_are_kept(tmp_path: Path) -> None:
    about = {"gpu": "some GPU", "vllm": "0.33.0", "torch": "2.11.0", "triton": "3.6.0", "drafts": 3,
             "model": "next", "prompt": 192, "buffer": 16, "stock": "stock-float32"}  # fmt: skip
    taken = {"stock-float32": 300.0, "kvgen-split": 120.0, "stock-float32#2": None}
    runs = [
        {"arm": arm, "batch": 8, "steps_ms": [2.0, 2.0]}
        | ({"gpu": {"linear_us": us, "total_us": 1000.0}} if us else {})
        for arm, us in taken.items()
    ]
    for name in page.BLOCKS["vllm-turns-drafts"][1:]:
        (tmp_path / name).write_text(json.dumps({"about": about, "runs": runs}), encoding="utf-8")
    found = page.filled("<!-- vllm-turns-drafts -->\n<!-- end -->\n", tmp_path)
    assert "prompts of 192 tokens, drafts of 3, all kept, beside vLLM float32**" in found
    # of the first engine of an arm alone
    assert (
        "| batch | vLLM float32 | kvgen split |\n| ---: | ---: | ---: |\n| 8 | 300 | 120" in found
    )
    assert "| 8 | 300 | 120 (0.40) |" in found
