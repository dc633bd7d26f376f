"""A whole tuning run, with a worker and compilers that make their answers up."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from tuners import SMALL, FakeCompilers, fake_worker, tuner

from kvgen import compiler
from kvgen.codegen.cost import buffer_length
from kvgen.probing.compilers import Compiled
from kvgen.probing.launches import Case
from kvgen.shipped import resolve
from kvgen.tuning import plan, report, run, space, workers
from kvgen.tuning.choices import Report
from kvgen.tuning.gpu import Gpu
from kvgen.tuning.plan import Goal, Options
from kvgen.tuning.progress import Progress
from kvgen.tuning.tune import Tuner, make_job
from kvgen.tuning.workers import Job, Worker, WorkerError
from kvgen.wisdom.folder import Folder
from kvgen.wisdom.store import Store

QUICK = Options((4, 16), "quick", 100.0)


@pytest.fixture(scope="module")
def job() -> Job:
    return make_job(compiler.analyse(resolve("gated_deltanet"), SMALL), SMALL)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store([Folder(tmp_path / "wisdom", "test")], "3.6.0")


def tuned(job: Job, store: Store, options: Options = QUICK, **moods: Any) -> Report:
    said = moods.pop("said", [])
    with tuner(said.append, **moods) as found:
        return found.tune(job, options, store)


def asked(log: Path, do: str = "time") -> list[Any]:
    if not log.exists():
        return []
    return [r for line in log.read_text().splitlines() for r in [json.loads(line)] if r["do"] == do]


def test_every_goal_gets_a_record(job: Job, store: Store) -> None:
    options = Options((4, 16), "full", 100.0)
    found = tuned(job, store, options)
    goals = plan.goals(job.analysis, options)
    assert found.why == "everything was tried" and not found.refused
    assert list(found.choices) and set(found.choices) == set(goals)
    assert {"verify", "extend", "short"} <= {goal.kernel for goal in goals}
    assert plan.answered(job.analysis, options, "Test GPU", store) is None
    store.add(found.records)
    known = plan.answered(job.analysis, options, "Test GPU", store)
    assert known is not None and set(known) == set(goals)
    for goal, record in known.items():
        choice = found.choices[goal]
        assert record.config == choice.config and record.effort == "full"
        assert record.us[0] <= record.us[1] <= record.us[2]
        assert choice.before is None or record.median <= choice.before * 1.005
        assert record.env["triton"] == "3.6.0" and not record.at.get("cut")
    # where the made-up times are least
    assert known[Goal("decode", 4)].config["TILE"] == 32
    assert known[Goal("decode", 16)].config["TILE"] == 64
    assert known[Goal("buffer", 0)].config == {"buffer": found.buffer}
    # for one batch more, not all is known
    more = Options((4, 16, 64), "full", 100.0)
    assert plan.answered(job.analysis, more, "Test GPU", store) is None
    assert plan.answered(job.analysis, options, "Another GPU", store) is None


def test_one_kernel_alone(job: Job, store: Store) -> None:
    store.add(tuned(job, store, Options((4,), "quick", 100.0)).records)
    options = Options((4, 16), "full", 100.0, only=("chain", "verify"))
    found = tuned(job, store, options)
    kernels = [(goal.kernel, goal.batch) for goal in found.choices]
    assert sorted(kernels) == sorted((name, n) for name in options.only for n in (4, 16))
    assert found.why == "everything was tried" and set(plan.goals(job.analysis, options)) == set(
        found.choices
    )
    # at the length that is known to be best
    buffer = store.find(plan.key(job.analysis, Goal("buffer", 0), "Test GPU")).record
    assert buffer is not None and found.buffer == buffer.config["buffer"]
    assert {record.at["buffer"] for record in found.records} == {found.buffer}


@pytest.mark.parametrize(
    ("mood", "what", "verdict"),
    [
        ("wrong", {"do": "check"}, "wrong"),
        ("wrong", {}, "wrong"),
        ("launch", {"do": "check"}, "launch"),
        ("crash", {"do": "check"}, "crash"),
        ("hang", {}, "hang"),
    ],
)
def test_what_fails_is_reported_and_never_chosen(
    mood: str, what: Any, verdict: str, job: Job, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have been the fastest."""
    monkeypatch.setitem(workers.DEADLINES, "time", 3.0)
    # enough for the search to find it, in whichever order programs are ready
    monkeypatch.setitem(plan.BUDGETS, "quick", (80, 0))
    bad = {"TILE": 64, "num_warps": 2, "DOT": 0, "PDL": 1, "TILES": 2, "STAGES": 2}
    best = tuned(job, store).choices[Goal("decode", 16)].config
    assert bad.items() <= best.items()
    said: list[str] = []
    options = Options((4, 16), "quick", 100.0, force=True)
    found = tuned(job, store, options, said=said, **{mood: {**what, **bad}})
    assert found.why == "everything was tried"
    refused = [outcome for _, outcome in found.refused]
    assert refused and {outcome.verdict for outcome in refused} == {verdict}
    assert all(bad.items() <= outcome.config.items() for outcome in refused)
    for choice in found.choices.values():
        assert not bad.items() <= choice.config.items()
        assert not (choice.runner_up and bad.items() <= choice.runner_up[0].items())
    assert any(f"{verdict}, never chosen" in line for line in said), said
    assert {each["verdict"] for each in report.data(found)["refused"]} == {verdict}
    # at one batch it failed: at the other nobody asks again
    assert len(refused) <= 2 * len({str(outcome.config) for outcome in refused})


def test_programs_that_do_not_fit_are_not_launched(
    job: Job, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plan.BUDGETS, "quick", (25, 0))

    def used(case: Case) -> Compiled | None:
        config = case.config
        if case.kernel != "decode":
            return None
        if config["TILE"] == 16:
            return Compiled(error="it does not compile")
        if config["TILE"] == 32:
            return Compiled(64, 0, 300 << 10, 32, f"big {config}")
        if config["num_warps"] == 4:
            return Compiled(255, 4000, 1024, 128, f"spills {config}")
        return None

    log = tmp_path / "log"
    options = Options((4,), "quick", 100.0)
    found = tuned(job, store, options, compilers=FakeCompilers(used), log=str(log))
    assert found.counts["compile"] and found.counts["shared"] and found.counts["spills"]
    decodes = [r["config"] for r in asked(log) if r["kernel"] == "decode"]
    assert decodes and not any(config["TILE"] in (16, 32) for config in decodes)
    # one that spills is timed only before a program that does not has been seen
    assert sum(config["num_warps"] == 4 for config in decodes) <= 1
    assert found.choices[Goal("decode", 4)].config["TILE"] == 64


def test_of_several_tokens_the_fastest_may_spill(
    job: Job, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "BUDGETS", {"full": (25, 25)})

    def used(case: Case) -> Compiled | None:
        spills = {1: 0, 2: 600}.get(case.config["num_warps"], 4000)
        return Compiled(255, spills, 1024, 128, f"{case.kernel} {case.config}")

    log = tmp_path / "log"
    tuned(job, store, Options((4,), "full", 100.0), compilers=FakeCompilers(used), log=str(log))
    # those that were timed after a program that spills nothing
    warps: dict[str, list[int]] = {}
    for request in asked(log):
        count = request["config"]["num_warps"]
        if request["kernel"] in warps or count == 1:
            warps.setdefault(request["kernel"], []).append(count)
    for kernel, counts in warps.items():
        several = kernel in ("verify", "chain", "chunk", "extend", "sweep")
        assert set(counts) == ({1, 2} if several else {1}), warps
    assert len(warps) == len(space.kernels(job.analysis))


def test_equal_programs_are_timed_once(job: Job, store: Store, tmp_path: Path) -> None:
    def used(case: Case) -> Compiled | None:
        config = {knob: value for knob, value in case.config.items() if knob != "STAGES"}
        return Compiled(64, 0, 1024, 32, f"{case.kernel} {case.buffer} {sorted(config.items())}")

    log = tmp_path / "log"
    options = Options((4,), "quick", 100.0)
    found = tuned(job, store, options, compilers=FakeCompilers(used), log=str(log))
    assert found.counts["twin"] > 0
    keys = [json.dumps([r["kernel"], {**r["config"], "STAGES": 0}]) for r in asked(log)]
    assert len(keys) == len(set(keys))


def test_what_was_measured_is_not_measured_again(job: Job, store: Store, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a", "b", "c"))
    before = tuned(job, store, log=str(first))
    again = tuned(job, store, log=str(second))
    assert len(asked(first)) > 100 and not asked(second)
    assert again.choices[Goal("decode", 4)] == before.choices[Goal("decode", 4)]
    tuned(job, store, Options((4, 16), "quick", 100.0, force=True), log=str(third))
    assert len(asked(third)) > 100


@pytest.mark.parametrize("do", ["begin", "steps"])
def test_a_failure_of_whole_steps_leaves_the_studies(do: str, job: Job, store: Store) -> None:
    said: list[str] = []
    found = tuned(job, store, said=said, crash={"do": do})
    assert found.why == "everything was tried"
    assert any("failed: it ended" in line for line in said)
    choice = found.choices[Goal("decode", 4)]
    # no whole step was timed: the next run is to do that
    assert choice.cut is (do == "steps")
    assert (Goal("buffer", 0) in found.choices) is (do == "begin")


def test_a_crash_while_rows_are_made_is_no_configurations(job: Job, store: Store) -> None:
    said: list[str] = []
    # of more studies it would be a GPU that is broken
    found = tuned(job, store, said=said, crash={"do": "hold", "kernel": "recurrent"})
    assert found.why.startswith("rows could not be made for ")
    for batch in QUICK.batches:
        assert f"recurrent, batch {batch}" in found.why
        about = f"] recurrent, batch {batch}: its rows cannot be made: it ended, exit code 7"
        assert sum(about in line for line in said) == 1
    assert not found.refused and not found.failed
    assert {record.key.kernel for record in found.records} == {"decode", "fold", "buffer"}


def test_rows_are_made_again_in_another_process(job: Job, store: Store, tmp_path: Path) -> None:
    once, log = tmp_path / "once", tmp_path / "log"
    found = tuned(job, store, crash={"do": "hold"}, once=str(once), log=str(log))
    assert once.exists() and found.why == "everything was tried" and not found.refused
    wanted = tuned(job, store, Options((4, 16), "quick", 100.0, force=True))
    assert found.counts == wanted.counts
    tried = {str(sorted(request["config"].items())) for request in asked(log)}
    assert len(tried) > 20


@pytest.mark.parametrize("do", ["check", "hold", "time", "begin", "steps"])
def test_a_worker_that_is_killed_loses_nothing(
    do: str, job: Job, store: Store, tmp_path: Path
) -> None:
    """Whatever it was at is asked again of another process."""
    once, said = tmp_path / "once", []
    found = tuned(job, store, said=said, killed={"do": do, "nth": 1}, once=str(once))
    assert once.exists() and found.why == "everything was tried" and not found.refused
    assert not any("failed" in line for line in said)
    wanted = tuned(job, store, Options((4, 16), "quick", 100.0, force=True))
    assert found.counts == wanted.counts


def test_rows_that_memory_has_evicted(job: Job, store: Store) -> None:
    """A crash while they are made again is no configuration's fault, either."""
    found = tuned(job, store, crash={"do": "hold", "kernel": "decode", "nth": 5})
    assert found.why == "everything was tried" and not found.refused
    wanted = tuned(job, store, Options((4, 16), "quick", 100.0, force=True))
    assert found.counts == wanted.counts


def test_rows_of_drafts_do_not_push_each_other_out(job: Job, store: Store, tmp_path: Path) -> None:
    """Those that only one kernel runs on are held until its study ends."""
    log = tmp_path / "log"
    tuned(job, store, Options((4, 16), "full", 100.0), log=str(log))
    for batch in (4, 16):
        kernels = [r["kernel"] for r in asked(log, "hold") if r["batch"] == batch]
        own = [kernel for kernel in kernels if kernel not in plan.SINGLE]
        assert set(own) == {"verify", "chain", "chunk", "short"}
        assert len([kernel for kernel, _ in itertools.groupby(own)]) == 4


def test_a_gpu_that_is_broken(job: Job, store: Store) -> None:
    found = tuned(job, store, crash={"do": "check"})
    assert not found.records and "8 failures in a row" in found.why


def test_out_of_time(job: Job, store: Store) -> None:
    """What was found by then is kept, and is no answer to the next call."""
    options = Options((4, 16), "quick", 2.0)
    found = tuned(job, store, options, seconds=0.05)
    assert found.why == "the time was up" and found.seconds < 8
    assert found.records and all(record.effort == "quick" for record in found.records)
    store.add(found.records)
    assert plan.answered(job.analysis, options, "Test GPU", store) is None


# several GPUs ------------------------------------------------------------------------------------


def test_gpus_start_side_by_side() -> None:
    """Each takes seconds to import torch and to measure its GPU."""
    others = threading.Barrier(2)

    class Slow(Worker):
        def gpu(self) -> Gpu:
            if self.device is not None:
                others.wait(timeout=PATIENCE)
            return super().gpu()

    def start(device: str | None) -> Worker:
        worker = fake_worker(device, hello={"count": 3})
        return Slow(worker.device, worker._start)

    with Tuner(lambda text: None, start, FakeCompilers) as found:
        found.begin()
        assert [worker.device for worker in found.workers] == [None, "1", "2"]


def test_a_gpu_that_does_not_start() -> None:
    """Nothing is tuned on the others, and no process is left."""
    workers: list[Worker] = []

    def start(device: str | None) -> Worker:
        moods = {"crash": {"do": "hello"}} if device == "2" else {}
        workers.append(fake_worker(device, hello={"count": 3}, **moods))
        return workers[-1]

    with pytest.raises(WorkerError, match="did not start"), Tuner(print, start, FakeCompilers) as t:
        t.begin()
    assert len(workers) == 3
    assert all(worker._child is None for worker in workers)


def test_several_gpus(job: Job, store: Store, tmp_path: Path) -> None:
    """Studies are dealt over those that are like the first."""
    log, said = tmp_path / "log", []
    found = tuned(
        job, store, said=said, log=str(log), seconds=0.01,
        hello={"count": 3}, names={"2": "Another GPU"},
    )  # fmt: skip
    assert found.why == "everything was tried"
    assert {request["device"] for request in asked(log)} == {None, "1"}
    assert any("left out: Another GPU" in line for line in said)
    studies = {(r["kernel"], r["batch"]): set() for r in asked(log)}
    for request in asked(log):
        studies[request["kernel"], request["batch"]].add(request["device"])
    assert all(len(devices) == 1 for devices in studies.values()), "a study has one GPU"


def test_the_processes_end(job: Job, store: Store) -> None:
    with tuner() as found:
        found.tune(job, QUICK, store)
        children = [worker._child for worker in found.workers]
        assert all(child is not None and child.alive for child in children)
    assert not any(child is not None and child.alive for child in children)


# what it says ------------------------------------------------------------------------------------


def test_progress_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of plain text, and not many."""
    now = [1000.0]
    monkeypatch.setattr("kvgen.tuning.progress.time.monotonic", lambda: now[0])
    said: list[str] = []
    progress = Progress(said.append, 300.0, terminal=False)
    for _ in range(250):
        now[0] += 0.1
        progress.status("decode, batch 4: best 5.00 us")
    progress.line("done")
    progress.end()
    assert said == [
        "[00:00] decode, batch 4: best 5.00 us  (04:59 left)",
        "[00:10] decode, batch 4: best 5.00 us  (04:49 left)",
        "[00:20] decode, batch 4: best 5.00 us  (04:39 left)",
        "[00:25] done",
    ]


def test_progress_on_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """What is there only for now is no line."""
    said: list[str] = []
    progress = Progress(said.append, 300.0, terminal=True)
    progress.status("how far \x1b[2J")
    progress.line("stays")
    progress.end()
    assert len(said) == 1 and said[0].endswith("] stays")
    assert "\x1b[2J" not in capfd.readouterr().err


def test_what_it_says(job: Job, store: Store) -> None:
    said: list[str] = []
    tuned(job, store, said=said)
    studies = [line for line in said if "legal: " in line]
    assert len(studies) == 6
    for line in studies:
        assert re.search(r"\d+\.\d\d us \(\d+% of the floor\)  TILE=", line), line
    assert any(re.search(r"best .* of the floor  \(\d\d:\d\d left\)$", s) for s in said) or any(
        "none yet" in s for s in said
    )
    assert any("by buffer 8: " in line for line in said)


def test_steps_at_another_length_than_the_one_chosen_are_cut(
    job: Job, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was timed says so of itself where the finals did not come to it."""
    # all lengths are equally good: the smallest is chosen
    monkeypatch.setattr("kvgen.tuning.whole.EQUAL", 100.0)
    whole = tuned(job, store)
    assert whole.buffer != buffer_length(job.analysis.form, job.analysis.records)
    monkeypatch.setitem(run.SHARES, "finals", 0.0)
    found = tuned(job, store)
    assert found.buffer == whole.buffer and found.why == "the time was up"
    default = buffer_length(job.analysis.form, job.analysis.records)
    for report_, buffer, cut in ((whole, whole.buffer, None), (found, default, 1)):
        decodes = [record for record in report_.records if record.key.kernel == "decode"]
        assert {(r.at["buffer"], r.at.get("cut")) for r in decodes} == {(buffer, cut)}
        assert len(decodes) == 2
        others = [record for record in report_.records if record.key.kernel == "recurrent"]
        assert others and not any(record.at.get("cut") for record in others)


def test_when_the_time_was_up_the_same_time_is_answered_for(
    job: Job, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.SHARES, "windows", 1e-9)
    over = run.Run._over
    asked: Counter[int] = Counter()

    def later(self: run.Run) -> bool:
        """Every study of several tokens, each in a thread, measures something first."""
        if self.stage != "windows":
            return over(self)
        asked[threading.get_ident()] += 1
        return asked[threading.get_ident()] > 8 and over(self)

    monkeypatch.setattr(run.Run, "_over", later)
    options = Options((4, 16), "full", 100.0)
    found = tuned(job, store, options)
    assert found.why == "the time was up"
    cut = {record.key.kernel: record for record in found.records if record.at.get("cut")}
    assert cut and not set(cut) & {"decode", "recurrent", "fold", "buffer"}
    assert {(each.at["cut"], each.effort) for each in cut.values()} == {(100, "quick")}
    store.add(found.records)

    def known(effort: str, budget: float) -> bool:
        again = Options((4, 16), effort, budget)
        return plan.answered(job.analysis, again, "Test GPU", store) is not None

    assert set(found.choices) == set(plan.goals(job.analysis, options))
    assert known("full", 100.0) and known("full", 50.0) and not known("full", 101.0)
    # what was interrupted is gone on with
    broken = [replace(each, at={**each.at, "cut": 1}) for each in cut.values()]
    store.add(broken, anew=[each.key for each in broken])
    assert not known("full", 100.0) and known("quick", 100.0)


# the space ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention", "mlstm"])
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_legal_configurations(name: str, target: str) -> None:
    from kvgen.kernels.registry import named

    analysis = compiler.analyse(resolve(name), {})
    for kernel in space.kernels(analysis):
        found = space.legal(analysis, kernel, target)
        assert found and len({str(config) for config in found}) == len(found)
        for config in found:
            assert set(config) == set(named(kernel).knobs)
            assert named(kernel).is_safe(analysis.form, config), (kernel, config)
        for batch in (1, 4, 16, 64, 256):
            assert space.default(analysis, kernel, batch) in found
        if "PDL" in named(kernel).knobs and target == "sm_80":
            untuned = list(space.defaults(analysis, kernel).values())
            assert all(not config["PDL"] or config in untuned for config in found)


@pytest.mark.parametrize("knob", ["TILES", "PAGES"])
@pytest.mark.parametrize("value", [0, 3, 1 << 20])
def test_what_a_short_context_cannot_have_is_not_safe(knob: str, value: int) -> None:
    from kvgen.kernels.short import SHORT

    analysis = compiler.analyse(resolve("gated_deltanet"), {})
    untuned = space.default(analysis, "short", 64)
    assert SHORT.is_safe(analysis.form, untuned)
    # more tiles than heads are as many as there are heads
    safe = (knob, value) == ("TILES", 1 << 20)
    assert SHORT.is_safe(analysis.form, untuned | {knob: value}) == safe


def test_a_buffer_that_the_spec_gives() -> None:
    free = compiler.analyse(resolve("gated_deltanet"), {})
    pinned = compiler.analyse(resolve("gated_deltanet"), {"buffer": "16"})
    assert len(space.buffers(free)) > 1 and space.buffers(pinned) == [16]
    kernels = [goal.kernel for goal in plan.goals(pinned, Options((4,), "quick", 100.0))]
    assert "buffer" not in kernels
