"""On GPUs: values that are checked when asked, but for what a graph replays; tensors that lie on
another GPU than the current one."""

from __future__ import annotations

import pytest
import torch
from twins import within

from kvgen.checking.twin import Twin
from tests.test_gpu import captured, gpu, made  # noqa: F401

pytestmark = pytest.mark.gpu


def decode(pair: Twin, slots: torch.Tensor, layers: int) -> None:
    inputs = pair.sampler.inputs(slots.numel(), pair.dtype)
    for layer in range(layers):
        pair.module.decode(pair.cache, layer, slots, **inputs, **pair.params[layer])


def test_steps_are_checked_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Twin(made("gated_deltanet", {}), "cuda", slots=4, layers=2, buffer=6, window=3)
    pair.admit([1, 2])
    slots = pair.ids([1, -1, 2])
    decode(pair, slots, 1)
    pair.module.advance(pair.cache, slots)
    monkeypatch.setenv("KVGEN_CHECK", "1")
    decode(pair, slots, 1)
    with pytest.raises(ValueError, match="slots: slot 1 has no token in layer 1"):
        pair.module.advance(pair.cache, slots)
    decode(pair, slots, 2)
    with pytest.raises(ValueError, match="counts: 2 for slot 2"):
        pair.module.accept(pair.cache, slots, counts=pair.ids([1, 0, 2]))
    pair.module.advance(pair.cache, slots)
    with pytest.raises(ValueError, match="slots: slot 1 has no token in this step"):
        pair.module.advance(pair.cache, slots)


def test_what_a_graph_replays_is_not_held_against_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Twin(made("gated_deltanet", {}), "cuda", slots=4, layers=2, buffer=6)
    pair.admit([1, 2])
    slots = pair.ids([1, 2])
    inputs = pair.sampler.inputs(2, pair.dtype)
    out = torch.empty(2, pair.cache.heads, pair.form.spec.size("V"), device="cuda")

    def layers() -> None:
        for layer in range(2):
            given = {**inputs, **pair.params[layer], "out": out}
            pair.module.decode(pair.cache, layer, slots, **given)

    layers()
    monkeypatch.setenv("KVGEN_CHECK", "1")
    graph = captured(layers)
    for held in (1, 2, 3):
        graph.replay()
        pair.module.advance(pair.cache, slots)
        assert pair.cache.cursors[[1, 2]].tolist() == [held, held]


def test_reserve_and_release_are_no_part_of_a_graph() -> None:
    module = made("gated_deltanet", {}).module
    cache = module.Cache.empty(4, device="cuda", short_context=32)
    cache.reserve([1], 3)
    free = cache.free
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in (lambda: cache.reserve([2], 20), lambda: cache.release([1])):
            with pytest.raises(ValueError, match="slots: given while a graph is captured"):
                call()
        torch.zeros(1, device="cuda")
    assert cache.free == free


def test_tensors_lie_on_another_gpu() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    pair = Twin(made("gated_deltanet", {}), "cuda:1", slots=4, layers=2, buffer=4, window=2)
    assert torch.cuda.current_device() == 0
    pair.admit([1, 2])
    for _ in range(6):
        pair.step([1, -1, 2])
    pair.flush()
    pair.compare()
    within(pair)
    pages = pair.module.Cache.empty(4, device="cuda:1", short_context=32)
    pages.reserve([1, 2], 20)
    pages.release([1])
    assert torch.cuda.current_device() == 0
    assert not pair.module.capturing(pair.cache.device)
    with torch.cuda.device(1):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            torch.zeros(1, device="cuda:1")
            torch.cuda.set_device(0)
            assert pair.module.capturing(torch.device("cuda:1"))
            assert not pair.module.capturing(torch.device("cuda:0"))
            torch.cuda.set_device(1)
