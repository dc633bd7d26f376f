"""A row's bits hang on neither its batch nor its neighbours nor its slot, where that is asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from twins import made

from kvgen.checking.samples import Sampler

LAYERS = 2


def run(module: Any, inputs: Any, params: Any, batch: int, slot: int, steps: int) -> list[Any]:
    """The bits of one row, in a batch of others that get other inputs."""
    options = {"device": "cpu", "dtype": torch.float32, "buffer": 4, "window": 2}
    cache = module.Cache.empty(9, LAYERS, **options, invariant=True)
    slots = torch.tensor([slot, *(other for other in range(9) if other != slot)][:batch])
    found: list[Any] = []
    for step in range(steps):
        kind = ("decode", "verify", "extend")[step % 3]
        tokens = 1 if kind == "decode" else 2
        for layer in range(LAYERS):
            given = {name: x[step][:batch, :tokens] for name, x in inputs.items()}
            given = {n: x[:, 0] for n, x in given.items()} if kind == "decode" else given
            more = {}
            if kind == "extend":
                more["lengths"] = torch.full((batch,), 2, dtype=torch.int32)
            out = getattr(module, kind)(cache, layer, slots, **given, **params, **more)
            found.append(out[0].clone())
        kept = torch.full((batch,), tokens, dtype=torch.int32)
        module.accept(cache, slots, counts=kept)
    state = cache.read(0, slots[:1])
    return [*found, *(state.values() if isinstance(state, dict) else [state])]


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_a_rows_bits_are_its_own(name: str) -> None:
    built = made(name)
    sampler = Sampler(built.analysis.spec, "cpu", 7)
    steps = 6
    inputs = {
        key: x.unflatten(0, (steps, 8, 2))
        for key, x in sampler.inputs(steps * 8 * 2, torch.float32).items()
    }
    params = sampler.params()
    wanted = run(built.module, inputs, params, 1, 0, steps)
    for batch, slot in ((3, 5), (8, 2)):
        found = run(built.module, inputs, params, batch, slot, steps)
        assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))


def test_the_batch_does_not_choose_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("gated_deltanet").module
    asked: list[int] = []
    chosen = module.configuration

    def heard(table: Any, gpu: str, kernel: str, batch: int, vectors: Any = ()) -> Any:
        asked.append(batch)
        return chosen(table, gpu, kernel, batch, vectors)

    monkeypatch.setattr(module, "configuration", heard)
    sampler = Sampler(made("gated_deltanet").analysis.spec, "cpu", 7)
    for invariant in (False, True):
        cache = module.Cache.empty(
            3, device="cpu", dtype=torch.float32, buffer=4, invariant=invariant
        )
        for rows in (1, 3):
            slots = torch.arange(rows)
            given = {**sampler.inputs(rows, torch.float32), **sampler.params()}
            module.decode(cache, 0, slots, **given)
            module.advance(cache, slots)
    assert asked[:4] == [1, 1, 3, 3] and len(set(asked[4:])) == 1
