"""A module's calls inside of what `torch.compile` compiles: one graph, right results."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from twins import made

from kvgen import compiler
from kvgen.checking.samples import Sampler

SLOTS, LAYERS = 4, 2


class Layer(torch.nn.Module):
    """Around a call as models have it: projections before, a sum after."""

    def __init__(self, module: Any, cache: Any, layer: int, call: str, params: Any) -> None:
        super().__init__()
        self.module, self.cache, self.layer, self.call = module, cache, layer, call
        self.params = params

    def forward(self, slots: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: x * 0.5 for name, x in inputs.items()}
        call = self.module.decode if self.call == "decode" else self.module.verify
        return call(self.cache, self.layer, slots, **inputs, **self.params) + 1.0


@pytest.mark.parametrize("call", ["decode", "verify"])
@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_one_graph_with_right_results(name: str, call: str) -> None:
    built = made(name)
    module, sampler = built.module, Sampler(built.analysis.spec, "cpu", 3)
    options = {"device": "cpu", "dtype": torch.float32, "buffer": 4, "window": 2}
    caches = [module.Cache.empty(SLOTS, LAYERS, **options) for _ in range(2)]
    slots = torch.tensor([2, -1, 0])
    params = [sampler.params() for _ in range(LAYERS)]
    layers = [
        [Layer(module, cache, layer, call, params[layer]) for layer in range(LAYERS)]
        for cache in caches
    ]
    compiled = [torch.compile(layer, fullgraph=True, backend="aot_eager") for layer in layers[1]]
    for _ in range(6):
        for layer in range(LAYERS):
            tokens = 1 if call == "decode" else 2
            inputs = sampler.inputs(3 * tokens, torch.float32)
            if call == "verify":
                inputs = {key: x.unflatten(0, (3, 2)) for key, x in inputs.items()}
            wanted = layers[0][layer](slots, inputs)
            assert torch.equal(compiled[layer](slots, inputs), wanted)
        for cache in caches:
            counts = torch.ones(3, dtype=torch.int32)
            end = module.advance if call == "decode" else module.accept
            end(cache, slots, **({} if call == "decode" else {"counts": counts}))
    for key, tensor in caches[0].tensors.items():
        if key != "work":
            assert torch.equal(tensor, caches[1].tensors[key]), key
    torch._dynamo.reset()


def test_a_whole_step_is_one_graph() -> None:
    built = made("gated_deltanet")
    module, sampler = built.module, Sampler(built.analysis.spec, "cpu", 3)
    options = {"device": "cpu", "dtype": torch.float32, "buffer": 3}
    caches = [module.Cache.empty(SLOTS, LAYERS, **options) for _ in range(2)]
    slots, params = torch.tensor([1, 3]), sampler.params()

    def step(cache: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out = module.decode(cache, 0, slots, **inputs, **params)
        out = out + module.decode(cache, 1, slots, **inputs, **params)
        module.advance(cache, slots)
        return out

    one_graph = torch.compile(step, fullgraph=True, backend="aot_eager")
    for _ in range(5):
        inputs = sampler.inputs(2, torch.float32)
        assert torch.equal(one_graph(caches[1], inputs), step(caches[0], inputs))
    assert caches[0].cursors.tolist() == caches[1].cursors.tolist()
    torch._dynamo.reset()


def test_ops_by_name() -> None:
    built = made("gated_deltanet")
    module, sampler = built.module, Sampler(built.analysis.spec, "cpu", 3)
    cache = module.Cache.empty(SLOTS, device="cpu", dtype=torch.float32, buffer=4)
    other = copy.copy(cache)
    assert other is not cache
    ops = getattr(torch.ops, f"kvgen_gated_deltanet_{module.SPEC['hash'][:8]}")
    slots, inputs, params = torch.tensor([1]), sampler.inputs(1, torch.float32), sampler.params()
    out = torch.empty(1, cache.heads, built.analysis.spec.size("V"))
    tensors = list(cache.tensors.values())
    ops.decode(cache.handle, tensors, 0, slots, out, *inputs.values(), *params.values())
    ops.advance(cache.handle, tensors, slots)
    assert cache.cursors.tolist() == [0, 1, 0, 0]
    torch.library.opcheck(
        ops.decode.default,
        (cache.handle, tensors, 0, slots, out, *inputs.values(), *params.values()),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_a_second_import_has_the_same_ops() -> None:
    text = compiler.emit(made("gated_deltanet").analysis)
    again = compiler.imported(compiler.temporary_module("again", text + "\n# again\n"))
    sampler = Sampler(made("gated_deltanet").analysis.spec, "cpu", 3)
    cache = again.Cache.empty(2, device="cpu", dtype=torch.float32)
    slots, inputs, params = torch.tensor([1]), sampler.inputs(1, torch.float32), sampler.params()
    call = torch.compile(again.decode, fullgraph=True, backend="aot_eager")
    assert call(cache, 0, slots, **inputs, **params).isfinite().all()
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["whole", "apart", "short"])
def test_any_number_of_rows_is_one_graph(kind: str) -> None:
    built = made("gated_deltanet")
    module, sampler = built.module, Sampler(built.analysis.spec, "cpu", 3)
    options = {"device": "cpu", "dtype": torch.float32, "buffer": 3}
    options |= {"short_context": 4} if kind == "short" else {}
    caches = [module.Cache.empty(SLOTS, LAYERS, **options) for _ in range(2)]
    if kind == "apart":
        names = [held.name for held in module.Cache.table.held]
        caches = [
            module.Cache.wrap({name: list(c.tensors[name].clone().unbind(1)) for name in names})
            for c in caches
        ]
    params = sampler.params()

    def step(cache: Any, slots: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out = module.decode(cache, 0, slots, **inputs, **params)
        out = out + module.decode(cache, 1, slots, **inputs, **params)
        module.advance(cache, slots)
        return out

    graph = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for cache in caches if kind == "short" else ():
        cache.reserve(range(SLOTS), 9)
    for slots in ([1, 3], [2, -1, 0], [3], [0, 1, 2, 3]):
        rows, inputs = torch.tensor(slots), sampler.inputs(len(slots), torch.float32)
        assert torch.equal(graph(caches[1], rows, inputs), step(caches[0], rows, inputs))
    assert caches[0].cursors.tolist() == caches[1].cursors.tolist()
    torch._dynamo.reset()


def test_ops_without_their_cache() -> None:
    module = made("gated_deltanet").module
    ops = getattr(torch.ops, module.Cache.table.namespace)
    cache, slots = module.Cache.empty(SLOTS, device="cpu"), torch.tensor([1])
    with pytest.raises(ValueError, match=r"_tensors: 7, expected the 8 of cache.flat\(\)"):
        ops.advance(cache.handle, cache.flat()[1:], slots)
    handle, tensors = cache.handle, cache.flat()
    del cache
    gc.collect()
    # another cache may lie where that one was
    others = [module.Cache.empty(SLOTS, device="cpu") for _ in range(8)]
    assert handle not in [each.handle for each in others]
    with pytest.raises(ValueError, match=r"cache: .* expected the handle of a cache that is still"):
        ops.advance(handle, tensors, slots)
