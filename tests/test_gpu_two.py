"""On the GPU that is not the current one: `pytest -m gpu tests/test_gpu_two.py`, on two GPUs."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from short_contexts import PagedTwin as ShortRows
from twins import within_rounding

from kvgen import compiler
from kvgen.checking.errors import worst
from kvgen.checking.paged import PagedTwin
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Twin
from kvgen.checking.windows import Server
from kvgen.shipped import resolve
from kvgen.tuning.plan import SINGLE, Options
from kvgen.tuning.tune import Report, Tuner, make_job
from kvgen.wisdom.folder import Folder
from kvgen.wisdom.store import Store, triton_version
from tests.test_gpu import captured, gpu, made  # noqa: F401

pytestmark = pytest.mark.gpu

THERE = "cuda:1"
CALLS = ("decode", "recurrent", "verify", "extend", "advance", "accept", "flush", "best")
SMALL = {"sizes.H": "2", "sizes.HV": "4"}


@pytest.fixture(autouse=True)
def two() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    torch.cuda.set_device(0)


@contextmanager
def only_there(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is launched or copied on another GPU, nothing allocated there, and the current device
    is what it was after every call."""

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*given: Any, **named: Any) -> Any:
            found = call(*given, **named)
            assert torch.cuda.current_device() == 0
            return found

        return checked

    for name in CALLS:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, watched(getattr(module, name)))
    before = torch.cuda.memory_allocated(0)
    with ran() as events:
        yield
    assert torch.cuda.memory_allocated(0) == before
    assert any(event.name.endswith("decode_kernel") for event in events)
    assert not {event.name for event in events if event.device_index != 1}


@contextmanager
def ran() -> Iterator[list[Any]]:
    """All that has run on GPUs, when it has ended."""
    found: list[Any] = []
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        yield found
        torch.cuda.synchronize(1)
    events: Any = profile.events()
    found += [event for event in events if "cuda" in str(event.device_type).lower()]


@pytest.mark.parametrize("overrides", [{}, {"storage.state": "bfloat16"}], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention", "mlstm"])
def test_all_calls(name: str, overrides: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Single tokens, drafts, trees, prompts, steps in place, dropped steps, saved rows."""
    built = made(name, {**overrides, **(SMALL if name != "mlstm" else {})})
    pair = Twin(built, THERE, slots=7, layers=2, buffer=6, window=4)
    with only_there(built.module, monkeypatch):
        pair.admit([1, 2, 5])
        server = Server(pair, random.Random(3))
        for _ in range(12):
            server.step([1, 2, 5])
        pair.copy([2], [3])
        saved = {name: x.cpu() for name, x in pair.cache.save(pair.ids([3])).items()}
        pair.cache.reset(pair.ids([3]))
        pair.cache.restore(pair.ids([3]), saved)
        server.step([1, 3])
        pair.flush()
        pair.compare()
        assert torch.cuda.current_device() == 0
    within_rounding(pair)


def test_short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    built = made("gated_deltanet", SMALL)
    pair = PagedTwin(built, THERE, context=40, slots=6, layers=2, buffer=8, window=4)
    with only_there(built.module, monkeypatch):
        pair.admit([1])
        pair.reset([2, 4])
        for _ in range(6):
            pair.step([1, -1, 2, 4])
        pair.compare()
        pair.cache.release([4])
        assert torch.cuda.current_device() == 0
    within_rounding(pair)
    rows = ShortRows(built, THERE, context=40, dtype=torch.float32, seed=4)
    rows.serve(10, longest=20)
    assert torch.cuda.current_device() == 0
    assert max(rows.found.values()) < 2e-4, rows.found


def test_a_graph_is_captured_and_replayed() -> None:
    """Captured while its GPU is the current one, replayed while it is not."""
    built = made("gated_deltanet", SMALL)
    pair = Twin(built, THERE, slots=4, layers=2, buffer=4, dtype=torch.bfloat16)
    module, sampler = pair.module, pair.sampler
    pair.admit([1, 3])
    slots = pair.ids([3, 1])
    inputs = [sampler.inputs(2, pair.dtype) for _ in range(2)]
    shape = (2, pair.cache.heads, pair.form.spec.size("V"))
    outs = [torch.empty(shape, dtype=pair.dtype, device=THERE) for _ in range(2)]

    def step() -> None:
        for layer, out in enumerate(outs):
            given = {**inputs[layer], **pair.params[layer], "out": out}
            module.decode(pair.cache, layer, slots, **given)
        module.advance(pair.cache, slots)

    # Triton compiles before anything is captured
    step()
    pair.admit([1, 3])
    with torch.cuda.device(1):
        graph = captured(step)
        assert not module.capturing(torch.device("cuda:0"))
    assert torch.cuda.current_device() == 0
    with ran() as events:
        for _ in range(11):
            for layer in range(2):
                for name, x in sampler.inputs(2, pair.dtype).items():
                    inputs[layer][name].copy_(x)
            graph.replay()
            torch.cuda.synchronize(1)
            for layer in range(2):
                wanted = pair.exact(layer, [3, 1], inputs[layer])
                pair.note("output", worst(outs[layer], wanted))
    assert events and all(event.device_index == 1 for event in events)
    pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize("call", ["decode", "verify"])
def test_what_a_compiler_is_given(call: str) -> None:
    """Custom ops, of which torch makes one graph."""
    built = made("gated_deltanet", SMALL)
    module, sampler = built.module, Sampler(built.analysis.spec, THERE, 3)
    options = {"device": THERE, "buffer": 4, "window": 2}
    caches = [module.Cache.empty(4, 2, **options) for _ in range(2)]
    slots = torch.tensor([2, -1, 0], device=THERE)
    counts = torch.ones(3, dtype=torch.int32, device=THERE)
    params = sampler.params()

    def layers(cache: Any, inputs: Any) -> torch.Tensor:
        own = getattr(module, call)
        outs = [own(cache, layer, slots, **inputs, **params) for layer in range(2)]
        module.accept(cache, slots, counts=counts)
        return torch.stack(outs) + 1.0

    one_graph = torch.compile(layers, fullgraph=True)
    for _ in range(5):
        inputs = sampler.inputs(3 if call == "decode" else 6, torch.bfloat16)
        if call == "verify":
            inputs = {name: x.unflatten(0, (3, 2)) for name, x in inputs.items()}
        assert torch.equal(one_graph(caches[1], inputs), layers(caches[0], inputs))
        assert torch.cuda.current_device() == 0
    for name, tensor in caches[0].tensors.items():
        if name != "work":
            assert torch.equal(tensor, caches[1].tensors[name]), name
    torch._dynamo.reset()


def test_what_is_chosen_is_the_same() -> None:
    """Configurations and the kernel that is best: by the tensors' device. What a capture is:
    test_gpu_devices.py."""
    module = made("gated_deltanet", {"storage.state": "bfloat16"}).module
    caches = [module.Cache.empty(4, device=f"cuda:{number}") for number in range(2)]
    assert caches[0].gpu == caches[1].gpu and caches[0].buffer == caches[1].buffer
    for current in (0, 1):
        with torch.cuda.device(current):
            assert module.Cache.empty(4, device="cuda").device.index == current
            for batch in (1, 16, 256):
                here = module.best(batch)
                assert here == module.best(batch, "cuda:0") == module.best(batch, THERE)


def tuned(tmp_path: Path, during: Callable[[Tuner], None], said: list[str]) -> Report:
    analysis = compiler.analyse(resolve("gated_deltanet"), SMALL)
    store = Store([Folder(tmp_path / "wisdom", "test")], triton_version())
    with Tuner(said.append) as tuner:
        tuner.begin()
        assert len(tuner.workers) == 2, said
        watching = threading.Thread(target=during, args=(tuner,), daemon=True)
        watching.start()
        report = tuner.tune(make_job(analysis, SMALL), Options((1, 8), "quick", 200.0), store)
        watching.join(5.0)
        spent = [worker.spent.get("time", 0.0) for worker in tuner.workers]
        assert all(spent), f"one of the GPUs has timed nothing: {spent}"
    return report


def test_both_are_tuned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a worker that is killed loses nothing: another takes its place."""
    monkeypatch.setenv("KVGEN_CACHE_DIR", str(tmp_path / "cache"))
    killed: list[int] = []

    def kill(tuner: Tuner) -> None:
        last = tuner.workers[-1]
        end = time.monotonic() + 150.0
        while time.monotonic() < end and not last.spent.get("time"):
            time.sleep(0.05)
        child = last._child
        assert child is not None
        killed.append(child.pid)
        os.killpg(child.pid, signal.SIGKILL)

    said: list[str] = []
    report = tuned(tmp_path, kill, said)
    assert killed and report.why == "everything was tried", "\n".join(said)
    assert not report.failed
    assert "crash" not in {outcome.verdict for _, outcome in report.refused}
    wanted = {(kernel, batch) for kernel in SINGLE for batch in (1, 8)}
    assert wanted <= {(record.key.kernel, record.key.shape.B) for record in report.records}
    assert {record.key.gpu for record in report.records} == {torch.cuda.get_device_name(1)}
