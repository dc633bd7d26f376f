"""The process that owns a GPU, as the tuner sees it: late, dead, out of its mind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from patience import until
from tuners import SMALL, fake_worker

from kvgen import compiler
from kvgen.conversation import ROOT, Child, ChildError
from kvgen.shipped import resolve
from kvgen.tuning import workers
from kvgen.tuning.tune import make_job
from kvgen.tuning.workers import Halted, Job, Refused, Worker, WorkerError

GOOD = {"TILE": 16, "num_warps": 1}
BAD = {"TILE": 32, "num_warps": 1}


@pytest.fixture(scope="module")
def job() -> Job:
    return make_job(compiler.analyse(resolve("gated_deltanet"), SMALL), SMALL)


def timed(worker: Worker, job: Job, config: dict[str, int]) -> Any:
    return worker.ask(job, "time", kernel="decode", config=config, batch=4, buffer=16, best=None)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("mood", "kind", "said"),
    [
        ("hang", "late", "no answer after"),
        ("crash", "died", "illegal memory access"),
        ("babble", "nonsense", "this is no answer"),
    ],
)
def test_a_process_that_fails_is_replaced(
    mood: str, kind: str, said: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(workers.DEADLINES, "time", 3.0)
    worker = fake_worker(**{mood: {"TILE": 32}})
    try:
        assert worker.gpu().name == "Test GPU"
        for turn in range(2):
            assert timed(worker, job, GOOD)["us"]
            assert worker._child is not None
            pid = worker._child.pid
            with pytest.raises(ChildError, match=said) as error:
                timed(worker, job, BAD)
            assert error.value.kind == kind
            assert worker.started == turn + 1
            assert gone(pid)
        assert timed(worker, job, GOOD)["us"]
        assert worker.started == 3
    finally:
        worker.close()


def test_a_refusal_keeps_the_process(job: Job) -> None:
    worker = fake_worker(launch={"TILE": 32})
    try:
        worker.gpu()
        for _ in range(12):
            with pytest.raises(Refused, match="made to be launch") as refused:
                timed(worker, job, BAD)
            assert refused.value.kind == "launch"
        assert timed(worker, job, GOOD)["us"] and worker.started == 1
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("crash", "8 failures in a row, the last: .*illegal"),
        ("internal", "3 failures in a row, the last: made to be internal"),
        ("memory", "out of the GPU's memory: made to be memory"),
    ],
)
def test_whatever_is_asked_fails(mood: str, said: str, job: Job) -> None:
    worker = fake_worker(**{mood: {}})
    try:
        worker.gpu()
        with pytest.raises(WorkerError, match=f"(?s){said}"):
            for _ in range(20):
                with pytest.raises((Refused, ChildError)):
                    timed(worker, job, GOOD)
    finally:
        worker.close()


@pytest.mark.parametrize("do", ["hello", "open"])
def test_a_process_that_cannot_start(do: str, job: Job) -> None:
    worker = fake_worker(crash={"do": do})
    try:
        with pytest.raises(WorkerError, match=r"(?s)the worker .*illegal memory access"):
            worker.gpu()
            timed(worker, job, GOOD)
    finally:
        worker.close()


def test_a_halt_ends_an_answer_that_never_comes(job: Job) -> None:
    worker = fake_worker(hang={"TILE": 32})
    try:
        worker.gpu()
        timed(worker, job, GOOD)
        timer = threading.Timer(0.3, worker.halt)
        timer.start()
        with pytest.raises(Halted):
            timed(worker, job, BAD)
        with pytest.raises(Halted):
            timed(worker, job, GOOD)
        timer.join()
        # the next spec finds it willing
        worker.begin()
        assert timed(worker, job, GOOD)["us"]
    finally:
        worker.close()


def test_a_halt_ends_a_process_that_is_started_again(job: Job) -> None:
    """Also where it comes before there is a process to kill: it would be waited for in vain."""
    worker, stuck = fake_worker(), fake_worker(hang={"do": "hello"})
    try:
        worker.gpu()
        timed(worker, job, GOOD)
        worker.end()

        def start(environment: Mapping[str, str]) -> Child:
            worker.halt()
            return stuck._start(environment)

        worker._start = start
        with pytest.raises(Halted):
            timed(worker, job, GOOD)
        assert worker._child is None
    finally:
        worker.close()


def test_its_environment(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVGEN_CHECK", "1")
    monkeypatch.setenv("KVGEN_REQUIRE_TUNED", "1")
    log = tmp_path / "log"
    worker = fake_worker("3", log=str(log))
    try:
        assert worker.gpu().uuid == "GPU-3"
    finally:
        worker.close()
    [line] = log.read_text().splitlines()
    assert json.loads(line)["device"] == "3" and not json.loads(line)["unset"]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert workers.devices(3) == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 5")
    assert workers.devices(2) == ["GPU-a", "5"]


SLEEPER = "import time; from kvgen.conversation import *; end_with_parent(0.1); time.sleep(1000)"
PARENT = """
import sys, time
from kvgen.conversation import Child
child = Child("sleeper", [], None, [sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(1000)
"""


def test_a_killed_tuner_leaves_no_worker() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, SLEEPER], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(1.0)
    assert not gone(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: gone(pid) or ended(pid))


def ended(pid: int) -> bool:
    """Whether it has ended and only whoever adopted it has not noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_answers_that_come_late_are_not_taken_for_others() -> None:
    """Each answer goes to whoever asked, in whatever order they come."""
    backwards = (
        "import json, sys\n"
        "lines = [json.loads(sys.stdin.readline()) for _ in range(3)]\n"
        "for each in reversed(lines): print(json.dumps({'id': each['id'], 'x': each['x'] * 2}))\n"
        "sys.stdout.flush(); sys.stdin.read()"
    )
    child = Child("backwards", [], None, [sys.executable, "-c", backwards])
    try:
        futures = [child.send(x=x)[1] for x in range(3)]
        assert [future.result(10)["x"] for future in futures] == [0, 2, 4]
    finally:
        child.close()


def test_without_a_gpu_the_worker_says_so() -> None:
    """The real one."""
    worker = Worker("")
    try:
        with pytest.raises(WorkerError, match=r"the worker did not start: .*torch sees no GPU"):
            worker.gpu()
    finally:
        worker.close()


def test_a_gpu_that_cannot_be_tuned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from kvgen.tuning import worker

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    answer = worker.Worker().answered({"do": "hello"})
    assert not answer["ok"] and "only NVIDIA's can be tuned" in str(answer)


def test_memory_may_be_short_before_a_spec_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is an answer, too."""
    from kvgen.tuning import worker

    def short(*_: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(worker.Worker, "do_hello", short)
    answer = worker.Worker().answered({"do": "hello"})
    assert not answer["ok"] and answer["kind"] == "memory"
