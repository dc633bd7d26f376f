"""What `kvgen bench` times: which calls, on which cursors, beside which floors.

The interpreter runs every call once, at tiny sizes; the clock is made up.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from made_up import BANDWIDTH
from twins import analysed, ids, made

import cli
from kvgen import bench as benches
from kvgen import compiler
from kvgen.checking.interpreter import rounding
from kvgen.codegen.cost import Cost, buffer_length, cost
from kvgen.shipped import resolve
from kvgen.timing import drafts, errors, short, steps
from kvgen.timing.drafts import DraftRow

STORAGE = ("state=bfloat16", "records=input")


def module(name: str = "gated_deltanet"):
    return made(name, *STORAGE).module


# floors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated_deltanet", "rwkv7", "mlstm"])
def test_a_window_of_one_token_is_a_decode(name: str) -> None:
    analysis = analysed(name, *STORAGE)
    total, buffer = (f(analysis.form, analysis.records) for f in (cost, buffer_length))
    assert total.verify_only(buffer, 1) == total.decode_only(buffer)
    assert total.verify_floor(buffer, 1) == total.floor(buffer)
    assert total.extend(1) == total.recurrent() - total.newest


def test_bytes_of_a_window() -> None:
    total = Cost(
        state=1000, read=600, record=10, record_read=8, record_fold=9, carried=3, io=7, newest=2
    )
    # cursors 0 to 12, 6 in the mean; the newest record's running sum is read once
    every_token = 10 + 3 + 5
    assert total.verify_only(16, 4) == 600 + 3 + 6 * 8 + 2 + 4 * every_token
    # cursors 0, 4, 8, 12, then the state is written
    assert total.verify_floor(16, 4) == total.verify_only(16, 4) + 1000 / 4
    # a buffer of 6 has room for one window: every one begins with it empty
    assert total.verify_floor(6, 4) == 600 + 3 + 2 + 4 * every_token + 1000
    assert total.extend(100) == 2 * 1000 + 2 * 3 + 100 * 5


def test_only_a_running_sum_is_read_once() -> None:
    for name, some in (("gated_deltanet", False), ("rwkv7", True)):
        analysis = analysed(name, *STORAGE)
        assert bool(cost(analysis.form, analysis.records).newest) is some


# steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [3, 4])
def test_a_cycle_of_windows_ends_where_it_began(window: int, no_gpu: None) -> None:
    analysis, buffer = analysed("gated_deltanet", *STORAGE, K=32), 16
    step = steps.make_step(analysis, made("gated_deltanet", *STORAGE, K=32).module, 6, 1, window)
    cache = step.cache = step.module.Cache.empty(6, 1, device="cpu", buffer=buffer, window=window)
    several = steps.with_tokens(analysis, step, window)
    passes = buffer // window
    staggered = several.staggered(passes, window)
    assert staggered.tolist() == [number % passes * window for number in range(6)]
    cache.cursors.copy_(staggered)
    run = drafts.accepting(several, torch.full_like(several.slots, window))
    seen = [cache.cursors.tolist()]
    for _ in range(passes):
        run()
        seen.append(cache.cursors.tolist())
    assert seen[0] == seen[-1]
    assert {cursor for cursors in seen for cursor in cursors} == set(staggered.tolist())
    several.check("verify")


@pytest.mark.parametrize("rows", [1, 4, 13, 64])
def test_cursors_that_stay_are_spread_evenly(rows: int, no_gpu: None) -> None:
    """Their mean is what the floor counts with."""
    step = steps.Step(module(), None, torch.zeros(rows), [], [], [])
    cursors = step.spread(13)
    assert cursors.dtype == torch.int32
    assert cursors.float().mean().item() == pytest.approx(6, abs=0.1)
    assert cursors.min() >= 0 and cursors.max() <= 12
    assert rows < 13 or len(cursors.unique()) == 13


def test_outputs_that_were_not_written_are_an_error(no_gpu: None) -> None:
    step = steps.make_step(analysed("gated_deltanet", *STORAGE), module(), 2, 1)
    with pytest.raises(RuntimeError, match="decode left outputs unwritten"):
        step.check("decode")


def test_states_that_are_drawn_again_are_numbers(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was stored: zeros among them, which with the rest of other numbers would be none."""
    analysis = analysed("gated_deltanet", "state=split")
    step = steps.make_step(analysis, made("gated_deltanet", "state=split").module, 2, 1)
    for fill in (-1, 7):
        step.cache.tensors["S_lo"].fill_(fill)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "normal_", lambda tensor, **_: tensor.zero_())
            steps.draw_cache(analysis, step.cache)
        step.run("recurrent")
        assert not any(bool(out.isnan().any()) for out in step.out)


def test_cursors_stay_in_a_window_s_reach(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, both calls see the same cursors, which leave room for the window."""
    seen: list[tuple[str, list[int]]] = []
    plain = steps.Step.layers

    def layers(self: steps.Step, kernel: str, before: steps.Before | None = None) -> None:
        seen.append((kernel, self.cache.cursors.tolist()))
        plain(self, kernel, before)

    monkeypatch.setattr(steps.Step, "layers", layers)
    sizes = {"sizes.H": "1", "sizes.HV": "2", "sizes.K": "16", "sizes.V": "8", "buffer": "8"}
    analysis = compiler.analyse(resolve("gated_deltanet"), sizes)
    rows = drafts.time_drafts(analysis, compiler.built(analysis), 5, 1, 4, BANDWIDTH)
    (first, alone), (second, again) = seen[:2]
    assert (first, second) == ("decode", "verify")
    assert alone == again == [0, 1, 2, 3, 4]
    assert [row.kernel for row in rows] == [
        "decode alone",
        "verify alone",
        "decode + advance",
        "verify + accept",
    ]
    assert [row.window for row in rows] == [4, 4, 0, 4]


# reports -----------------------------------------------------------------------------------------


@rounding()
def test_report(no_gpu: None) -> None:
    analysis = analysed("gated_deltanet", *STORAGE)
    without = benches.bench(analysis, [2], layers=2)
    report = benches.bench(analysis, [2], layers=2, drafts=[4], prompts=True)
    assert report.rows == without.rows
    assert without.drafts == ()
    found = {row.kernel: row for row in report.drafts}
    assert list(found) == [
        "decode alone",
        "verify alone",
        "decode + advance",
        "verify + accept",
        "extend + accept",
    ]
    for row in report.drafts:
        assert row.error < 0.02 and row.token_us == pytest.approx(row.us / row.tokens)
        assert row.share == pytest.approx(row.floor_us / row.us)
    total = cost(analysis.form, analysis.records)
    buffer = max(4, report.buffer)
    floor = found["verify alone"].floor_us
    assert floor == pytest.approx(total.verify_only(buffer, 4) * 2 / BANDWIDTH * 1e6)
    assert found["extend + accept"].batch == 2
    assert (found["extend + accept"].state_error or 1) < 0.01
    json.dumps(report.data())


@rounding()
def test_decode_without_states_beside_decode_on_states(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = made("gated_deltanet", *STORAGE)
    seen: list[tuple[list[int], int]] = []
    layers = steps.Step.layers

    def spied(step: steps.Step, kernel: str) -> None:
        seen.append((step.cache.cursors.tolist(), getattr(step.cache, "short_context", 0)))
        layers(step, kernel)

    monkeypatch.setattr(steps.Step, "layers", spied)
    [row] = short.short_rows(both.analysis, both.module, [3], 2, 16, 5, BANDWIDTH)
    held = buffer_length(both.analysis.form, both.analysis.records)
    assert seen == [([(2 * at + 1) * held // 6 for at in range(3)], 0), ([5] * 3, 16)]
    assert 1e-4 < row.error < 0.01 and (row.tokens, row.context) == (5, 16)
    # five records read and one written, nothing of a state
    total = cost(both.analysis.form, both.analysis.records)
    moved = 5 * total.record_read + total.record + total.io
    assert row.floor_us == pytest.approx(3 * moved / BANDWIDTH * 1e6)
    assert row.share == pytest.approx(row.floor_us / row.us)


def test_modules_without_verify_get_no_rows(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = SimpleNamespace(reference=None)
    analysis = analysed("gated_deltanet")
    found = drafts.draft_rows(analysis, bare, [1], 2, [4], BANDWIDTH, print)  # type: ignore[arg-type]
    assert found == []


@rounding()
@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_errors_are_those_of_rounding(name: str, no_gpu: None) -> None:
    both = made(name, *STORAGE)
    assert 1e-4 < errors.verify_error(both.analysis, both.module, 3, windows=2) < 0.03
    prompt = drafts.make_prompt(both.analysis, both.module, 2, 5)
    output, state = prompt.errors()
    assert 1e-4 < output < 0.03 and 1e-4 < state < 0.03


def test_a_wrong_output_is_seen(no_gpu: None) -> None:
    both = made("gated_deltanet", *STORAGE)
    prompt = drafts.make_prompt(both.analysis, both.module, 2, 5)
    prompt.fresh()
    prompt.run()
    inputs = {name: value[0] for name, value in prompt.step.inputs[0].items()}
    out, state = prompt.step.out[0][0], prompt.step.cache.read(0, prompt.step.slots[:1])
    out[3] += 1
    output, right = errors.prompt_errors(
        both.module, inputs, prompt.step.params[0], out, {"S": state}
    )
    assert output > 0.5 and right < 0.03
    _, wrong = errors.prompt_errors(both.module, inputs, prompt.step.params[0], out, state * 1.1)
    assert 0.05 < wrong < 0.15


# the command line --------------------------------------------------------------------------------


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A made-up report, and what it was asked for with."""
    asked: list[dict[str, object]] = []

    def bench(analysis: object, batches: object, **given: object) -> benches.Report:
        asked.append({**given, "batches": batches})
        rows = (benches.Row("decode", 1, 36, 5.0, 0.1, 8.0, 1.0, 0.2, 1e-3),)
        several = DraftRow("verify alone", 4, 4, 1, 36, 8.0, 2.0, 0.1, None, 1.0, 0.125, 2e-3)
        return benches.Report(
            "some", "float32", "bfloat16", "GPU", "torch", 3e3, 36, 16, rows,
            (several,) if given["drafts"] else (),
        )  # fmt: skip

    monkeypatch.setattr(benches, "bench", bench)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return asked


def run(*args: str) -> str:
    result = CliRunner().invoke(cli.cli, ["bench", "gated_deltanet", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_drafts_have_a_table_of_their_own(report: list[dict[str, object]]) -> None:
    first, second = run().split("\n\n")
    assert first.split()[:2] == ["kernel", "batch"]
    assert second.splitlines()[1].split()[:7] == ["verify", "alone", "4", "4", "1", "36", "8"]
    assert run("--drafts", "0").rstrip() == first
    assert [asked["drafts"] for asked in report] == [[4], []]
    assert [asked["prompts"] for asked in report] == [True, False]


def test_drafts_as_json(report: list[dict[str, object]]) -> None:
    data = json.loads(run("--json", "--drafts", "8"))
    assert report[0]["drafts"] == [8]
    [row] = data["drafts"]
    assert asdict(DraftRow(**row)) == row
    assert row["worst_us"] is None and row["token_us"] == 2.0
    assert len(data["rows"]) == 1


def test_slots_are_distinct(no_gpu: None) -> None:
    step = steps.make_step(analysed("gated_deltanet", *STORAGE), module(), 5, 1)
    assert sorted(step.slots.tolist()) == ids(0, 1, 2, 3, 4).tolist()
