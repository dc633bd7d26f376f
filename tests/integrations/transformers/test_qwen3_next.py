"""Transformers' Gated DeltaNet layer, prefilled by its own code, decoded by a generated module."""

from __future__ import annotations

import copy
import inspect
from types import ModuleType

import pytest
from oracles import modeling, ready, remember, worst

SMALL = {
    "hidden_size": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
# the state's storage, and the largest error of a core output where all else is float32: a decode
# reads the upper half of a split state, though what it folds is exact
STORAGES = {"float32": 1e-5, "split": 5e-3}


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Transformers' module, in plain torch."""
    ready("cpu")
    return modeling("qwen3_next", monkeypatch)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    ready("cuda")
    return modeling("qwen3_next", monkeypatch)


class Pair:
    """A layer and its twin that decodes with a module, each with a cache of its own."""

    def __init__(self, modeling, device, dtype, batch, storage, buffer, **sizes):
        import torch
        from transformers import DynamicCache, Qwen3NextConfig

        from kvgen.integrations.transformers import accelerate

        torch.manual_seed(0)
        config = Qwen3NextConfig(num_hidden_layers=1, layer_types=["linear_attention"], **sizes)
        own = modeling.Qwen3NextGatedDeltaNet(config, 0)
        remember(own.A_log, own.dt_bias)
        torch.nn.init.uniform_(own.norm.weight, 0.5, 1.5)
        self.own = own.to(device, dtype)
        self.twin = accelerate(copy.deepcopy(self.own), storage, buffer)
        self.own_cache, self.twin_cache = DynamicCache(config=config), DynamicCache(config=config)
        self.batch = batch
        self.draw = lambda tokens: torch.randn(
            batch, tokens, config.hidden_size, device=device, dtype=dtype
        )

    def step(self, hidden):
        """What the layer and the twin make of the same tokens."""
        return self.own(hidden, self.own_cache), self.twin(hidden, self.twin_cache)

    @property
    def states(self):
        own = self.own_cache.layers[0].recurrent_states[0]
        return own, self.twin_cache.layers[0].states.read(0)


def check(pair, modeling, monkeypatch, prompt, tokens, core_bound, output_bound, state_bound):
    """Prefill, then decode; each step's core output, hidden output and, at the end, the state."""
    import torch

    plain = inspect.unwrap(modeling.torch_recurrent_gated_delta_rule)
    wanted, got = [], []

    def in_float32(query, key, value, **options):
        core, state = plain(query.float(), key.float(), value.float(), **options)
        wanted.append(core[:, 0])
        return core.to(query.dtype), state

    monkeypatch.setattr(modeling, "torch_recurrent_gated_delta_rule", in_float32)
    pair.twin.norm.register_forward_pre_hook(
        lambda _, inputs: got.append(inputs[0].unflatten(0, (pair.batch, -1)))
    )
    with torch.no_grad():
        outputs = pair.step(pair.draw(prompt))
        assert torch.equal(*outputs)
        assert torch.equal(*pair.states)
        got.clear()
        for token in range(1, tokens + 1):
            own, twin = pair.step(pair.draw(1))
            assert len(wanted) == len(got) == token
            assert wanted[-1].shape == got[-1].shape
            assert worst(got[-1], wanted[-1]) <= core_bound, f"core output of token {token}"
            assert worst(twin, own) <= output_bound, f"output of token {token}"
        own, twin = pair.states
        assert worst(twin, own) <= state_bound


@pytest.mark.parametrize("storage", STORAGES)
def test_decodes_a_layer(cpu, monkeypatch, storage):
    import torch

    pair = Pair(cpu, "cpu", torch.float32, batch=2, storage=storage, buffer=4, **SMALL)
    bound = STORAGES[storage]
    # 14 tokens: three folds, and a buffer that is not empty at the end
    check(pair, cpu, monkeypatch, 20, 14, bound, output_bound=2 * bound, state_bound=1e-5)


def test_decodes_a_bfloat16_layer(cpu, monkeypatch):
    import torch

    pair = Pair(cpu, "cpu", torch.bfloat16, batch=2, storage="float32", buffer=4, **SMALL)
    check(pair, cpu, monkeypatch, 20, 6, 1e-2, output_bound=2e-2, state_bound=1e-2)


def test_takes_more_of_a_prompt_after_decoding(cpu):
    import torch

    pair = Pair(cpu, "cpu", torch.float32, batch=2, storage="float32", buffer=4, **SMALL)
    with torch.no_grad():
        for tokens in (7, 1, 1, 5, 1):
            own, twin = pair.step(pair.draw(tokens))
            assert worst(twin, own) <= 1e-4
        assert worst(*reversed(pair.states)) <= 1e-5


@pytest.mark.newest
def test_generates_the_same_tokens(cpu, monkeypatch):
    from examples import qwen3_next
    from kvgen.integrations.transformers.states import States

    decoded = []
    step = States.step
    monkeypatch.setattr(
        States,
        "step",
        lambda states, place, *given: decoded.append(place) or step(states, place, *given),
    )
    wanted, got = qwen3_next.generate_both("cpu", tokens=7)
    assert got == wanted
    assert decoded == [0, 1, 2] * 6


@pytest.mark.gpu
@pytest.mark.parametrize("storage", STORAGES)
def test_decodes_a_layer_of_qwen3_next_80b(gpu, monkeypatch, storage):
    import torch

    # Qwen3NextConfig's own sizes are those of the 80B
    pair = Pair(gpu, "cuda", torch.bfloat16, batch=4, storage=storage, buffer=None)
    check(pair, gpu, monkeypatch, 100, 64, 1e-2, output_bound=2e-2, state_bound=1e-2)
    assert pair.states[1].shape == (4, 32, 128, 128)


@pytest.mark.gpu
def test_generates_the_same_tokens_on_a_gpu(gpu):
    from examples import qwen3_next

    wanted, got = qwen3_next.generate_both("cuda", tokens=32)
    assert got == wanted
