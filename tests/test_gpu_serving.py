"""What a server asks of a module, on a GPU: one graph for all steps, with rows that leave and come
back between replays; layers compiled by Inductor; bits that do not hang on the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kvgen import compiler
from kvgen.checking.errors import worst
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Made
from kvgen.shipped import resolve
from tests.test_gpu import captured, gpu  # noqa: F401

pytestmark = pytest.mark.gpu
LAYERS, SLOTS, WINDOW = 2, 8, 3
SIZES = {"sizes.H": "4", "sizes.HV": "8"}


def built(name: str) -> Made:
    analysis = compiler.analyse(resolve(name), SIZES)
    return Made(analysis, compiler.built(analysis))


class Row:
    """A request's exact states."""

    def __init__(self, made: Made, params: list[dict[str, torch.Tensor]]) -> None:
        spec, self.module, self.errors = made.analysis.spec, made.module, [0.0]
        self.params = [{n: x.double() for n, x in each.items()} for each in params]
        self.states = [
            {
                each.name: torch.full(
                    (1, *map(spec.size, each.axes)), each.init, dtype=torch.float64, device="cuda"
                )
                for each in spec.states
            }
            for _ in range(LAYERS)
        ]

    def follow(self, layer: int, inputs: dict[str, torch.Tensor], got: Any, keep: int) -> None:
        state = self.states[layer]
        for token in range(got.shape[0]):
            given = {name: x[token : token + 1].double() for name, x in inputs.items()}
            wanted, state = self.module.reference(state, **given, **self.params[layer])
            self.errors.append(worst(got[token : token + 1], wanted))
            if token < keep:
                self.states[layer] = state


def test_one_graph_with_rows_that_leave_and_come_back() -> None:
    made = built("gated_deltanet")
    module, sampler = made.module, Sampler(made.analysis.spec, "cuda", 3)
    layout = module.Cache.layout(SLOTS, LAYERS, dtype=torch.float32, buffer=8, window=WINDOW)
    tensors: dict[str, Any] = {
        held.name: [
            torch.zeros(
                (SLOTS, *layout[held.name].shape[2:]), dtype=layout[held.name].dtype, device="cuda"
            )
            for _ in range(LAYERS)
        ]
        for held in module.Cache.table.held
    }
    cache = module.Cache.wrap(tensors, window=WINDOW, first_slot=1)
    cache.reset(cache.every_slot)
    params = [sampler.params() for _ in range(LAYERS)]
    rows = {"a": 3, "b": 1}
    requests = {name: Row(made, params) for name in rows}
    # what the graph reads, which is filled between replays
    slots = torch.tensor([3, 0, 1], device="cuda")
    kept = torch.zeros(3, dtype=torch.int32, device="cuda")
    inputs = [
        {name: x.unflatten(0, (3, WINDOW)) for name, x in sampler.inputs(9, torch.float32).items()}
        for _ in range(LAYERS)
    ]
    shape = (3, WINDOW, cache.heads, made.analysis.spec.size("V"))
    outs = [torch.empty(shape, device="cuda") for _ in range(LAYERS)]

    def step() -> None:
        module.accept(cache, slots, counts=kept, late=True)
        for layer in range(LAYERS):
            given = {**inputs[layer], **params[layer], "out": outs[layer]}
            module.verify(cache, layer, slots, **given)

    graph = captured(step)
    cache.reset(cache.every_slot)
    lengths = torch.tensor([4, 0, 7], dtype=torch.int32, device="cuda")
    starts = torch.tensor([0, 4, 4, 11], dtype=torch.int32, device="cuda")
    for layer in range(LAYERS):
        prompt = sampler.inputs(11, torch.float32)
        out = module.extend(cache, layer, slots, **prompt, **params[layer], starts=starts)
        for request, first, last in (("a", 0, 4), ("b", 4, 11)):
            part = {name: x[first:last] for name, x in prompt.items()}
            requests[request].follow(layer, part, out[first:last], last - first)
    module.accept(cache, slots, counts=lengths)
    keep = [0, 0]
    for turn in range(24):
        for layer in range(LAYERS):
            fresh = sampler.inputs(9, torch.float32)
            for name, x in inputs[layer].items():
                x.copy_(fresh[name].unflatten(0, (3, WINDOW)))
        kept.copy_(torch.tensor([keep[0], 0, keep[1]], dtype=torch.int32))
        graph.replay()
        keep = [1 + turn % 3, 3 - turn % 3]
        for row, request, count in ((0, "a", keep[0]), (2, "b", keep[1])):
            for layer in range(LAYERS):
                part = {name: x[row] for name, x in inputs[layer].items()}
                requests[request].follow(layer, part, outs[layer][row], count)
        assert not outs[0][1].any()
        if turn % 5 == 4:
            # what the last step keeps is settled, then a row leaves for the host
            counts = torch.tensor([keep[0], 0, keep[1]], dtype=torch.int32, device="cuda")
            module.accept(cache, slots, counts=counts)
            keep = [0, 0]
            gone = torch.tensor([rows["b"]], device="cuda")
            saved = {name: x.cpu() for name, x in cache.save(gone).items()}
            cache.reset(gone)
            rows["b"] = rows["b"] % (SLOTS - 1) + 1
            rows["b"] += rows["b"] == rows["a"]
            cache.restore(torch.tensor([rows["b"]], device="cuda"), saved)
            slots.copy_(torch.tensor([rows["a"], 0, rows["b"]]))
            for request, slot in rows.items():
                for layer in range(LAYERS):
                    read = cache.read(layer, torch.tensor([slot], device="cuda"))
                    exact = requests[request].states[layer]["S"]
                    requests[request].errors.append(worst(read, exact))
    assert max(error for row in requests.values() for error in row.errors) < 2e-5


@pytest.mark.parametrize("call", ["decode", "verify"])
def test_inductor_makes_one_graph(call: str) -> None:
    made = built("gated_deltanet")
    module, sampler = made.module, Sampler(made.analysis.spec, "cuda", 3)
    options = {"device": "cuda", "buffer": 4, "window": 2}
    caches = [module.Cache.empty(SLOTS, LAYERS, **options) for _ in range(2)]
    slots = torch.tensor([2, -1, 0], device="cuda")
    params = sampler.params()

    def layers(cache: Any, inputs: Any) -> torch.Tensor:
        out = [
            getattr(module, call)(
                cache, layer, slots, **{n: x * 0.5 for n, x in inputs.items()}, **params
            )
            for layer in range(LAYERS)
        ]
        return torch.stack(out) + 1.0

    compiled = torch.compile(layers, fullgraph=True)
    for _ in range(6):
        tokens = 1 if call == "decode" else 2
        inputs = sampler.inputs(3 * tokens, torch.bfloat16)
        if call == "verify":
            inputs = {name: x.unflatten(0, (3, 2)) for name, x in inputs.items()}
        assert torch.equal(compiled(caches[1], inputs), layers(caches[0], inputs))
        for cache in caches:
            counts = torch.ones(3, dtype=torch.int32, device="cuda")
            module.accept(cache, slots, counts=counts)
    for name, tensor in caches[0].tensors.items():
        if name != "work":
            assert torch.equal(tensor, caches[1].tensors[name]), name


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention"])
def test_bits_do_not_hang_on_the_batch(name: str) -> None:
    made = built(name)
    module, spec = made.module, made.analysis.spec
    params = Sampler(spec, "cuda", 5).params()
    wanted: list[torch.Tensor] = []
    for batch in (1, 4, 16, 64, 256):
        found: list[torch.Tensor] = []
        own, others = Sampler(spec, "cuda", 1), Sampler(spec, "cuda", batch)
        cache = module.Cache.empty(257, LAYERS, device="cuda", buffer=8, window=4, invariant=True)
        slots = torch.randperm(257, generator=torch.Generator().manual_seed(batch))[:batch].cuda()
        place = batch // 2
        for step in range(100):
            kind = ("decode", "verify", "decode", "extend")[step % 4]
            tokens = {"decode": 1, "verify": 4, "extend": 24}[kind]
            for layer in range(LAYERS):
                given = others.inputs(batch * tokens, torch.bfloat16)
                mine = own.inputs(tokens, torch.bfloat16)
                given = {n: x.unflatten(0, (batch, tokens)) for n, x in given.items()}
                for n, x in given.items():
                    x[place] = mine[n]
                given = {n: x[:, 0] for n, x in given.items()} if kind == "decode" else given
                more = {}
                if kind == "extend":
                    more["lengths"] = torch.full((batch,), 24, dtype=torch.int32, device="cuda")
                out = getattr(module, kind)(cache, layer, slots, **given, **params, **more)
                found.append(out[place].clone())
            count = {"decode": 1, "verify": 1 + step % 4, "extend": 24}[kind]
            kept = torch.full((batch,), count, dtype=torch.int32, device="cuda")
            module.accept(cache, slots, counts=kept)
        found += [cache.read(layer, slots[place : place + 1]) for layer in range(LAYERS)]
        wanted = wanted or found
        assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True)), batch
