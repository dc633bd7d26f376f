"""Outputs whose end sums over V: where that is computed, and what it looks at."""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch

from kvgen import compiler
from kvgen.checking.paged import PagedTwin
from kvgen.checking.twin import Made, Twin
from kvgen.checking.windows import Extend, Server, Verify
from kvgen.kernels.sweep import SWEEP

# tensors of all axes at the end, and a bias that is seen where an output should be blank
SPEC = """\
kvgen: 1
name: ended
sizes: {H: 2, HV: 4, K: 8, V: 12, N: 2}
inputs: {q: [H, K], k: [H, K], v: [HV, V], z: [H, V], a: [HV], b: [HV], c: [N, H], u: [], w: [K]}
params: {A_log: [HV], dt_bias: [HV], g: [V], bias: [HV, V]}
state: {S: [HV, K, V]}
sample: {A_log: log_uniform, dt_bias: gate}
step: |
  k = l2norm(k)
  S = exp(-exp(A_log) * softplus(a + dt_bias)) * S
  S = S + outer(k, sigmoid(b) * (v - k @ S))
  o = l2norm(q) @ S
  o = rmsnorm(o, eps=1e-3) * g * silu(z) + bias * c[1] + l2norm(z) * (u + w @ w)
"""


@cache
def made() -> Made:
    analysis = compiler.analyse(SPEC)
    assert analysis.form.finish is not None
    return Made(analysis, compiler.built(analysis))


@pytest.fixture
def module() -> ModuleType:
    return made().module


def narrow(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no program hold all of V."""
    default = {
        kernel: {batch: {**config, "TILE": 4, "TILES": 1} for batch, config in batches.items()}
        for kernel, batches in module.CONFIGS["default"].items()
    }
    monkeypatch.setitem(module.CONFIGS, "default", default)


@pytest.fixture
def finishes(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Each launch of what finishes outputs: whether it is of packed prompts."""
    launches: list[bool] = []

    class Heard:
        def __getitem__(self, grid: Any) -> Any:
            def run(*args: Any, **options: Any) -> None:
                launches.append(options["PACKED"])
                kernel[grid](*args, **options)

            return run

    kernel = module._finish_kernel
    monkeypatch.setattr(module, "_finish_kernel", Heard())
    return launches


def inputs(module: ModuleType, *front: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    sizes = module.SIZES
    return {
        n: torch.randn(*front, *(sizes[a] for a in axes)).to(dtype)
        for n, axes in module.INPUTS.items()
    }


def parameters(module: ModuleType) -> dict[str, torch.Tensor]:
    sizes = module.SIZES
    return {n: torch.randn(*(sizes[a] for a in axes)) for n, axes in module.PARAMS.items()}


def test_only_a_program_with_all_of_v_finishes_itself(
    module: ModuleType, finishes: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    params, slots = parameters(module), torch.tensor([2, 0])
    token, window = inputs(module, 2), inputs(module, 2, 3)
    cache = module.Cache.empty(4, device="cpu", dtype=torch.float32, buffer=6, window=3)
    cache.reset(slots)
    whole = module.decode(cache, 0, slots, **token, **params)
    assert finishes == []
    narrow(module, monkeypatch)
    apart = module.decode(cache, 0, slots, **token, **params)
    torch.testing.assert_close(whole, apart, rtol=1e-6, atol=1e-6)
    assert finishes == [False]
    chain = module.verify(cache, 0, slots, **window, **params)
    parents = torch.tensor([[-1, 0, 1]] * 2, dtype=torch.int32)
    tree = module.verify(cache, 0, slots, **window, **params, parents=parents)
    torch.testing.assert_close(chain, tree, rtol=1e-5, atol=1e-5)
    module.accept(cache, slots, counts=torch.tensor([3, 1], dtype=torch.int32))
    module.recurrent(cache, 0, slots, **token, **params)
    module.advance(cache, slots)
    lengths = torch.tensor([3, 1], dtype=torch.int32)
    module.extend(cache, 0, slots, **window, **params, lengths=lengths)
    module.accept(cache, slots, counts=lengths)
    assert finishes == [False] * 5


@pytest.mark.parametrize("tile", ["whole", "narrow"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_random_steps_of_a_server(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tile: str, dtype: torch.dtype
) -> None:
    if tile == "narrow":
        narrow(module, monkeypatch)
    found = Twin(made(), "cpu", window=4, buffer=5, layers=1, seed=7, dtype=dtype)
    found.admit([5, 2])
    server = Server(found, random.Random(7))
    for step in range(10):
        if step == 3:
            found.reset([6])
        server.step([5, 2, 6] if step > 3 else [5, 2])
    found.together(Verify(found, [5, 2], 4, parents=[[-1, 0, 0, 1]] * 2, paths=[[0, 2], [0, 1, 3]]))
    found.compare()
    assert found.found["padding"] == 0
    assert found.found["output"] <= (2e-5 if dtype == torch.float32 else 5e-3)


def test_an_output_is_rounded_once(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    params, slots = parameters(module), torch.tensor([2, 0, 1])
    token = inputs(module, 3, dtype=torch.bfloat16)
    cache = module.Cache.empty(4, device="cpu", buffer=6)
    cache.reset(slots)
    whole = module.decode(cache, 0, slots, **token, **params)
    narrow(module, monkeypatch)
    assert whole.dtype == torch.bfloat16
    assert module.decode(cache, 0, slots, **token, **params).equal(whole)


def test_every_kernel_of_windows_and_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of short chains, by columns, and in blocks."""
    analysis = compiler.analyse(SPEC, {"sizes.K": "16", "sizes.V": "16"})
    model = Made(analysis, compiler.built(analysis, {}, untimed=True))
    configs = model.module.CONFIGS["default"]
    assert {"chain", "chunk", "sweep"} <= set(configs)
    configs["sweep"] = {n: SWEEP.asked(each) for n, each in configs["sweep"].items()}
    launched, launch = set(), model.module.launch

    def heard(cache: Any, name: str, *args: Any, **options: Any) -> None:
        launched.add(name)
        launch(cache, name, *args, **options)

    monkeypatch.setattr(model.module, "launch", heard)
    found = Twin(model, "cpu", slots=4, layers=1, buffer=8, window=8, seed=5)
    found.reset([1, 3])
    found.together(Extend(found, [1, -1, 3], [70, 2, 3], 70))
    found.together(Verify(found, [1, 3], 3, counts=[3, 1]))
    found.together(Verify(found, [3, 1], 8, counts=[5, 0]))
    found.step([1, 3])
    found.compare()
    assert {"chain", "chunk", "prepare", "sweep", "decode", "finish"} <= launched
    assert found.found["output"] <= 2e-5 and found.found["padding"] == 0


def test_short_contexts(finishes: list[bool]) -> None:
    found = PagedTwin(made(), "cpu", context=6, window=3, buffer=5, layers=1, seed=3)
    found.admit([1, 2])
    for _ in range(8):
        found.step([2, 1])
    found.together(Verify(found, [1, 2], 3, counts=[2, 3]))
    found.step([1, 2])
    found.compare()
    assert found.found["output"] <= 2e-5
    assert len(finishes) == 10


@pytest.mark.parametrize("tile", ["whole", "narrow"])
def test_what_no_row_has_is_blank(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tile: str
) -> None:
    if tile == "narrow":
        narrow(module, monkeypatch)
    torch.manual_seed(2)
    params, slots = parameters(module), torch.tensor([-1, 3, 0])
    # a first slot for padding
    cache = module.Cache.empty(
        5, device="cpu", dtype=torch.float32, buffer=6, window=3, first_slot=1
    )
    cache.reset(slots)

    def spoilt(given: dict[str, Any], blank: torch.Tensor) -> dict[str, Any]:
        for x in given.values():
            x[blank] = float("nan")
        return given

    def only(out: torch.Tensor, blank: torch.Tensor) -> None:
        assert out[blank].eq(0).all()
        assert out[~blank].isfinite().all() and out[~blank].ne(0).any(-1).all()

    rows = torch.tensor([True, False, True])
    only(module.decode(cache, 0, slots, **spoilt(inputs(module, 3), rows), **params), rows)
    window = spoilt(inputs(module, 3, 3), rows)
    only(module.verify(cache, 0, slots, **window, **params), rows)
    module.accept(cache, slots, counts=torch.tensor([0, 2, 0], dtype=torch.int32))
    only(module.recurrent(cache, 0, slots, **spoilt(inputs(module, 3), rows), **params), rows)
    module.advance(cache, slots)
    lengths = torch.tensor([2, 3, 1], dtype=torch.int32)
    tokens = rows[:, None] | (torch.arange(4) >= lengths[:, None])
    prompt = spoilt(inputs(module, 3, 4), tokens)
    only(module.extend(cache, 0, slots, **prompt, **params, lengths=lengths), tokens)
    module.accept(cache, slots, counts=lengths)


@pytest.mark.parametrize("starts", [[0, 2, 2, 5], [1, 3, 4, 9], [2, 2, 9, 9], [0, 0, 0, 1]])
def test_packed_prompts_are_padded_ones(
    module: ModuleType, finishes: list[bool], starts: list[int]
) -> None:
    torch.manual_seed(3)
    params, slots = parameters(module), torch.tensor([2, -1, 1])
    given, ends = inputs(module, 9), torch.tensor(starts, dtype=torch.int32)
    lengths = ends.diff()
    cache = module.Cache.empty(4, device="cpu", dtype=torch.float32, buffer=3)
    packed = module.extend(cache, 0, slots, **given, **params, starts=ends)
    module.accept(cache, slots, counts=lengths)
    assert finishes == [True]
    wanted = torch.zeros_like(packed)
    cache.reset(slots)
    for row, (first, last) in enumerate(pairwise(starts)):
        if slots[row] >= 0 and last > first:
            part = {name: x[None, first:last] for name, x in given.items()}
            length, slot = lengths[row : row + 1], slots[row : row + 1]
            wanted[first:last] = module.extend(cache, 0, slot, **part, **params, lengths=length)[0]
            module.accept(cache, slot, counts=length)
    torch.testing.assert_close(packed, wanted)


def test_any_strides(module: ModuleType) -> None:
    torch.manual_seed(4)
    params, slots = parameters(module), torch.tensor([2, 0, 1])
    window = inputs(module, 3, 3)
    cache = module.Cache.empty(4, device="cpu", dtype=torch.float32, buffer=6, window=3)
    cache.reset(slots)
    wanted = module.verify(cache, 0, slots, **window, **params)
    apart = {
        name: torch.stack([x.transpose(0, 1), x.transpose(0, 1)], 1)[:, 1].transpose(0, 1)
        for name, x in window.items()
    }
    out = torch.zeros(3, 4, 3, 16)[..., :12].transpose(1, 2)
    got = module.verify(cache, 0, slots, **apart, **params, out=out)
    assert got is out and got.equal(wanted)


def test_it_begins_behind_what_the_next_may_begin_behind(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow(module, monkeypatch)
    monkeypatch.setattr(module, "check_memory", lambda cache: None)
    launches: list[tuple[str, bool]] = []

    class Heard:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: Any) -> Any:
            return lambda *_, **options: launches.append(
                (self.name, options.get("launch_pdl", False))
            )

    for name in ("decode", "finish", "recurrent", "advance", "fold"):
        monkeypatch.setattr(module, f"_{name}_kernel", Heard(name))
    step = object()
    monkeypatch.setattr(module, "step_of", lambda cache, layer, slots: (step, 1 << layer, slots))
    params, token, slots = parameters(module), inputs(module, 2), torch.tensor([2, 0])
    cache = module.Cache.empty(4, 2, device="cpu", dtype=torch.float32, buffer=6)
    for layer in range(2):
        module.decode(cache, layer, slots, **token, **params)
    assert launches == [("decode", False), ("finish", True), ("decode", True), ("finish", True)]
    launches.clear()
    # the plain kernel lets nothing begin early
    module.advance(cache, slots)
    for layer in range(2):
        module.recurrent(cache, layer, slots, **token, **params)
    assert launches[-4:] == [("recurrent", False), ("finish", False)] * 2


def test_no_other_module_has_any_of_it() -> None:
    plain = compiler.emit(compiler.analyse(SPEC.replace("rmsnorm(o, eps=1e-3)", "o").replace(
        "l2norm(z)", "z")))  # fmt: skip
    assert "finish" not in plain.lower()
