"""The tuner on a GPU: `pytest -m gpu tests/test_gpu_tuning.py`."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from kvgen import compiler
from kvgen.conversation import ChildError
from kvgen.shipped import resolve
from kvgen.tuning import plan, space
from kvgen.tuning.plan import Goal, Options
from kvgen.tuning.tune import Report, Tuner, make_job
from kvgen.tuning.workers import Job, Refused, Worker
from kvgen.wisdom.folder import Folder
from kvgen.wisdom.store import Store, triton_version

pytestmark = pytest.mark.gpu

# how a module's kernels store a token's outputs
STORED = "tl.store(out_ptr + row * out_row + head.to(tl.int64) * out_head + value, "
SMALL = {"sizes.H": "2", "sizes.HV": "4", "sizes.K": "64", "sizes.V": "64"}


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    monkeypatch.setenv("KVGEN_CACHE_DIR", str(tmp_path / "cache"))


def tuned(store: Store, options: Options, said: list[str]) -> Report:
    analysis = compiler.analyse(resolve("gated_deltanet"), SMALL)
    with Tuner(said.append) as tuner:
        return tuner.tune(make_job(analysis, SMALL), options, store)


def test_a_small_spec(tmp_path: Path) -> None:
    """Every goal gets a record that an exact look-up finds; the second call asks no GPU; and the
    memory is free afterwards."""
    store = Store([Folder(tmp_path / "wisdom", "test")], triton_version())
    options = Options((4,), "quick", 240.0)
    free = torch.cuda.mem_get_info()[0]
    said: list[str] = []
    report = tuned(store, options, said)
    assert report.why == "everything was tried", "\n".join(said)
    assert report.compiled <= 2, "what was compiled before was not found in Triton's cache"
    assert not report.refused, report.refused
    store.add(report.records)
    for record in report.records:
        assert record.us[0] <= record.us[1] <= record.us[2]
        assert record.floor_us > 0
        assert record.error < 6e-3
        assert record.env["triton"] == triton_version()
    choice = report.choices[Goal("decode", 4)]
    assert choice.before is not None and choice.us[1] <= choice.before * 1.03
    began = time.process_time()
    name = plan.gpu_name()
    assert name is not None and name == torch.cuda.get_device_name(0)
    known = plan.answered(report.analysis, options, name, store)
    assert known is not None and time.process_time() - began < 2
    assert not children(), "processes are left"
    if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
        # what other tests have on the GPU comes and goes
        return
    for _ in range(50):
        if torch.cuda.mem_get_info()[0] >= free - (64 << 20):
            break
        time.sleep(0.1)
    assert torch.cuda.mem_get_info()[0] >= free - (64 << 20)


def children() -> list[str]:
    """The processes of kvgen that this one has started and that are still there: whatever of the
    GPU's memory they hold goes with them."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[1]
            command = (process / "cmdline").read_text().replace("\0", " ")
            if int(parent) == os.getpid() and "kvgen." in command:
                found.append(command)
    return found


def opened(source: str = "", replaced: str = "") -> tuple[Worker, Job, dict[str, int]]:
    analysis = compiler.analyse(resolve("gated_deltanet"), SMALL)
    job = make_job(analysis, SMALL)
    text = job.module.read_text()
    assert source in text
    job.module.write_text(text.replace(source, replaced))
    worker = Worker()
    worker.gpu()
    return worker, job, space.default(analysis, "decode", 4)


def ask(worker: Worker, job: Job, do: str, config: dict[str, int], **what: Any) -> Any:
    return worker.ask(job, do, kernel="decode", config=config, buffer=16, **what)


def test_what_cannot_be_launched() -> None:
    """More shared memory than there is: refused, and the worker goes on."""
    worker, job, config = opened()
    try:
        # Triton says no to the one, the driver to the other
        for impossible in ({"num_warps": 64}, {"TILE": 48}):
            with pytest.raises(Refused) as refused:
                ask(worker, job, "check", {**config, **impossible})
            assert refused.value.kind == "launch"
        assert ask(worker, job, "check", config)["output"] < 6e-3
    finally:
        worker.close()


def test_an_illegal_address_ends_one_process() -> None:
    """The next request finds another process, in which the same configuration ends that one too
    and no other does."""
    # untuned kernels, of which the right answers are made, are not among them
    wrong = STORED.replace("out_ptr +", "out_ptr + (1 << 44) * (TILE == 8) +")
    worker, job, config = opened(STORED, wrong)
    kernels = ("decode", "recurrent", "chain", "verify", "extend")
    untuned = [space.defaults(job.analysis, kernel).values() for kernel in kernels]
    assert 8 not in {config["TILE"] for each in untuned for config in each}
    bad, good = {**config, "TILE": 8}, {**config, "TILE": 16}
    try:
        assert ask(worker, job, "check", good)["output"] < 6e-3
        for _ in range(2):
            with pytest.raises(ChildError, match="illegal memory access"):
                ask(worker, job, "check", bad)
            assert ask(worker, job, "check", good)["output"] < 6e-3
        assert worker.started == 3
    finally:
        worker.close()


def test_wrong_values() -> None:
    worker, job, config = opened(STORED, f"{STORED}1.01 * ")
    try:
        with pytest.raises(Refused, match="outputs off by") as refused:
            ask(worker, job, "check", config)
        assert refused.value.kind == "wrong"
    finally:
        worker.close()


def test_an_answer_is_data() -> None:
    """What a worker says of its GPU is what a record keeps."""
    worker = Worker()
    try:
        gpu = worker.gpu()
        assert gpu.processors > 1 and gpu.l2 > 1 << 20 and gpu.shared > 48 << 10
        assert gpu.bandwidth > 1e11 and gpu.driver
        assert json.dumps(worker.hello)
    finally:
        worker.close()
