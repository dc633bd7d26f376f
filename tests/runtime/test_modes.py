"""Calls in whatever mode torch is: inference, a default device, a default dtype; made in one mode,
used in another. And what needs no values: shapes alone."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from twins import ids, made

from kvgen import compiler
from kvgen.checking.samples import Sampler
from tests.runtime.test_arguments import refused

SLOTS, LAYERS = 4, 1


@contextmanager
def default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "device": lambda: torch.device("meta"),
    "default_device": default_device,
    "default_dtype": default_dtype,
}


def options(short_context: int) -> dict[str, Any]:
    paged = {"short_context": short_context} if short_context else {}
    return {"dtype": torch.float32, "buffer": 4, "window": 2, **paged}


class Session:
    """All calls of a server, with the same inputs each time."""

    def __init__(self, name: str, short_context: int, mode: str) -> None:
        pair = made(name)
        self.module, self.sampler = pair.module, Sampler(pair.analysis.spec, "cpu", 0)
        self.params = self.sampler.params()
        self.tokens = [self.sampler.inputs(2, torch.float32) for _ in range(12)]
        self.states = self.sampler.states(1)
        self.slots, self.ends = ids(2, 0), (ids(1, 0), ids(2, 1), ids(3, 2), ids(2, 1))
        self.path = torch.tensor([[1, -1], [-1, -1]], dtype=torch.int32)
        self.tree = torch.tensor([[-1, -1], [-1, 0]], dtype=torch.int32)
        self.force = torch.tensor([True, False])
        self.copied = ids(0), ids(3)
        self.loaded = ids(1)
        with MODES[mode]():
            sizes = {"device": "cpu", **options(short_context)}
            self.cache = self.module.Cache.empty(SLOTS, LAYERS, **sizes)

    def several(self, first: int, count: int) -> dict[str, torch.Tensor]:
        tokens = self.tokens[first : first + count]
        return {name: torch.stack([each[name] for each in tokens], 1) for name in tokens[0]}

    def run(self, again: Callable[[], AbstractContextManager[Any]]) -> list[torch.Tensor]:
        module, cache, slots, found = self.module, self.cache, self.slots, []
        windows, prompt = self.several(0, 2), self.several(2, 3)
        paged = bool(cache.short_context)
        state = self.states if len(self.states) > 1 else next(iter(self.states.values()))
        with again():
            cache.reset(slots)
            if paged:
                cache.reserve([2, 0], 20)
                cache.reserve([3, 1], 40)
            cache.load(0, self.loaded, state)
            for kernel, inputs, given in (
                ("decode", self.tokens[5], {}),
                ("verify", windows, {}),
                ("verify", windows, {"parents": self.tree}),
                ("extend", prompt, {"lengths": self.ends[2]}),
                ("decode" if paged else "recurrent", self.tokens[6], {}),
            ):
                for layer in range(LAYERS):
                    call = getattr(module, kernel)
                    found.append(call(cache, layer, slots, **inputs, **self.params, **given))
                if kernel == "extend":
                    module.accept(cache, slots, counts=self.ends[2])
                elif given:
                    module.accept(cache, slots, path=self.path, force=self.force)
                elif kernel == "verify":
                    module.accept(cache, slots, counts=self.ends[1])
                else:
                    module.advance(cache, slots, self.force)
            cache.copy(*self.copied)
            module.flush(cache)
            for layer in range(LAYERS):
                state = cache.read(layer, cache.every_slot)
                found += state.values() if isinstance(state, dict) else [state]
            if paged:
                cache.release([2, 1])
                cache.reserve([2], 5)
            wrapped = module.Cache.wrap(
                cache.tensors,
                window=2,
                **({"short_context": cache.short_context, "buffer": 4} if paged else {}),
            )
            if paged:
                assert wrapped.free == cache.free
        return [x.clone() for x in found]


PAIRS = [
    *((each, "plain") for each in MODES if each != "plain"),
    *(("plain", each) for each in MODES if each != "plain"),
    *(("inference", each) for each in MODES if each != "plain"),
    ("default_device", "inference"),
]


@functools.cache
def plainly(name: str, short_context: int) -> list[torch.Tensor]:
    return Session(name, short_context, "plain").run(nullcontext)


@pytest.mark.parametrize(
    ("name", "short_context", "first", "used"),
    [
        *(("gated_deltanet", 24, *pair) for pair in PAIRS),
        ("gated_deltanet", 0, "inference", "plain"),
        ("gated_deltanet", 0, "default_device", "inference"),
        ("mlstm", 24, "inference", "default_device"),
    ],
)
def test_a_cache_made_in_one_mode_works_in_another(
    name: str, short_context: int, first: str, used: str
) -> None:
    wanted = plainly(name, short_context)
    found = Session(name, short_context, first).run(MODES[used])
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.device.type == "cpu" and one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("call", ["reserve", "release"])
def test_the_books_of_host_and_device_change_together(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = made("gated_deltanet").module.Cache.empty(SLOTS, LAYERS, device="cpu", **options(24))
    cache.reserve([1, 2], 30)

    def books() -> tuple[Any, ...]:
        tables = {name: x.clone() for name, x in cache.tensors.items() if x.dtype == torch.int32}
        return cache.free, [list(x) for x in cache.pages_of], list(cache.state_of), tables

    before = books()
    sent, left = type(cache).sent, [0]

    def broken(self: Any, *given: Any) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of memory")
        return sent(self, *given)

    for least in range(3):
        left[0] = least
        with monkeypatch.context() as patch:
            patch.setattr(type(cache), "sent", broken)
            with pytest.raises(RuntimeError, match="out of memory"):
                cache.reserve([0, 1], 25) if call == "reserve" else cache.release([1])
        for one, other in zip(books()[:3], before[:3], strict=True):
            assert one == other
        for name, x in before[3].items():
            assert torch.equal(cache.tensors[name], x), name
    cache.reserve([0, 1], 25) if call == "reserve" else cache.release([1])
    assert books()[0] != before[0]


@pytest.mark.parametrize("mode", ["device", "default_device", "default_dtype"])
def test_reference_in_any_mode(mode: str) -> None:
    for name in ("mlstm", "rwkv7", "mamba2", "gated_deltanet", "kimi_delta_attention", "lightnet"):
        pair = made(name)
        sampler = Sampler(pair.analysis.spec, "cpu", 0)
        given = {**sampler.inputs(2, torch.float32), **sampler.params()}
        wanted, states = pair.module.reference(None, **given)
        with MODES[mode]():
            found, after = pair.module.reference(None, **given)
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)
        assert all(torch.equal(after[each], states[each]) for each in states)


# shapes alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize("short_context", [0, 24])
def test_a_cache_of_shapes(short_context: int) -> None:
    module = made("mlstm").module
    sizes = options(short_context)
    cache = module.Cache.empty(SLOTS, LAYERS, device="meta", **sizes)
    real = module.Cache.empty(SLOTS, LAYERS, device="cpu", **sizes)
    assert cache.tensors.keys() == real.tensors.keys()
    for name, x in real.tensors.items():
        assert cache.tensors[name].shape == x.shape and cache.tensors[name].dtype == x.dtype
        assert cache.tensors[name].device.type == "meta"
    assert cache.bytes_per_slot == real.bytes_per_slot


def test_a_cache_of_shapes_takes_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("gated_deltanet").module
    cache = module.Cache.empty(SLOTS, LAYERS, device="meta", **options(0))
    slots = torch.empty(2, dtype=torch.int32, device="meta")
    spec = made("gated_deltanet").analysis.spec
    given = {
        t.name: torch.empty([*[2] * (t.kind == "input"), *map(spec.size, t.axes)], device="meta")
        for t in (*spec.inputs, *spec.params)
    }
    for checked in ("0", "1"):
        monkeypatch.setenv("KVGEN_CHECK", checked)
        for call in (
            lambda: module.decode(cache, 0, slots, **given),
            lambda: module.recurrent(cache, 0, slots, **given),
            lambda: module.advance(cache, slots),
            lambda: module.accept(cache, slots, counts=slots),
            lambda: module.flush(cache),
            lambda: cache.reset(slots),
            lambda: cache.read(0, slots),
            lambda: cache.load(0, slots, torch.empty(2, 2, 16, 8, device="meta")),
            lambda: cache.copy(slots, slots),
        ):
            refused(call, "cache: on meta", "expected a cache on a device")


# the interpreter, the current device -------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [("", "1"), ("1", "")])
def test_triton_is_told_before_it_is_imported(before: str, after: str, tmp_path: Any) -> None:
    path = tmp_path / "gdn.py"
    path.write_text(compiler.emit(made("gated_deltanet").analysis))
    program = f"""
import os
import triton
os.environ["TRITON_INTERPRET"] = {after!r}
import gdn
gdn.Cache.empty(2, device="meta")
try:
    gdn.Cache.empty(2, device="cpu")
except ValueError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRITON_INTERPRET": before, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = "set" if after else "unset"
    assert found.stdout.startswith(f"TRITON_INTERPRET: {said} after triton was imported"), found
    assert "before triton is imported" in found.stdout


def test_best_is_asked_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("gated_deltanet").module
    times = {"here": (1.0, 2.0), "there": (2.0, 1.0)}
    configs = {
        name: {"decode": {8: {"us": one}}, "recurrent": {8: {"us": other}}}
        for name, (one, other) in times.items()
    }
    monkeypatch.setattr(module, "CONFIGS", {**module.CONFIGS, **configs})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = {"cuda": "here", "cuda:1": "there"}
    monkeypatch.setattr(module, "gpu_name", lambda table, device: names[str(device)])
    assert module.best(8) == "decode"
    assert module.best(8, "cuda:1") == module.best(8, torch.device("cuda:1")) == "recurrent"


def test_a_capture_is_one_of_the_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("gated_deltanet").module
    current = [0]

    @contextmanager
    def entered(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], device.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", entered)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[0] == 1)
    assert module.capturing(torch.device("cuda:1"))
    assert not module.capturing(torch.device("cuda:0"))
    current[0] = 1
    assert module.capturing(torch.device("cuda"))
    assert not module.capturing(torch.device("cuda:0")) and current == [1]
