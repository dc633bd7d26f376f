"""Transformers' Kimi delta attention and Mamba-2 layers, decoded by generated modules.

The layer's own forward runs twice: as it is, and with its single-token recurrence replaced by a
module that gets what the layer projected, not what it made of that.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from oracles import modeling, ready, remember, worst


class Case:
    """A layer, its module's cache, and how the module's inputs are had from the layer's."""

    # of Transformers: the model, the recurrence's name, the shipped spec, the hidden width
    model: str
    recurrence: str
    spec: str

    def __init__(self, patch, device, dtype, batch, storage, buffer, sizes):
        import torch
        from transformers import DynamicCache

        import kvgen
        from kvgen.shipped import resolve

        torch.manual_seed(0)
        self.modeling = modeling(self.model, patch)
        self.plain = inspect.unwrap(getattr(self.modeling, self.recurrence))
        config, layer, sizes = self.layer(sizes)
        self.own = layer.to(device, dtype)
        self.twin = copy.deepcopy(self.own)
        overrides = {f"sizes.{name}": size for name, size in sizes.items()}
        spec = resolve(self.spec)
        self.module = kvgen.compile(spec, **overrides, **{"storage.state": storage})
        self.slots = torch.randperm(2 * batch)[:batch].to(device, torch.int32)
        self.cache = self.module.Cache.empty(2 * batch, device=device, dtype=dtype, buffer=buffer)
        self.own_cache, self.twin_cache = DynamicCache(config=config), DynamicCache(config=config)
        self.shape = {"device": device, "dtype": dtype}
        self.batch, self.width = batch, config.hidden_size
        self.patch = patch
        self.raw: dict[str, Any] = {}
        for name, projection in self.projections():
            projection.register_forward_hook(
                lambda _, inputs, output, name=name: self.raw.__setitem__(name, output[:, -1])
            )

    def draw(self, tokens):
        import torch

        return torch.randn(self.batch, tokens, self.width, **self.shape)

    def layer(self, sizes) -> tuple:
        """The config, the layer with random weights, and the spec's sizes."""
        raise NotImplementedError

    def projections(self) -> list:
        """The twin's projections whose outputs the module takes, by name."""
        raise NotImplementedError

    def decode(self, *inputs, **options):
        """The module's output for the recurrence's inputs."""
        raise NotImplementedError

    def in_float32(self, *inputs, **options):
        """The layer's recurrence in float32, as the layer gets it and as [B, HV, V]."""
        raise NotImplementedError

    def instead(self, core):
        """What the patched recurrence gives the layer for the module's output."""
        raise NotImplementedError

    def state(self, cache):
        """The layer's state as [B, HV, K, V]."""
        return cache.layers[0].recurrent_states[0].float()

    def check(self, prompt, tokens, core_bound, output_bound, state_bound):
        import torch

        wanted, got = [], []

        def own(*inputs, **options):
            result, core = self.in_float32(*inputs, **options)
            wanted.append(core)
            return result

        def twin(*inputs, **options):
            core = self.decode(*inputs, **options)
            got.append(core)
            self.module.advance(self.cache, self.slots)
            return self.instead(core)

        def run(layer, cache, hidden, recurrence: Callable):
            self.patch.setattr(self.modeling, self.recurrence, recurrence)
            return layer(hidden, cache)

        with torch.no_grad():
            hidden = self.draw(prompt)
            self.own(hidden, self.own_cache)
            self.twin(hidden, self.twin_cache)
            self.cache.reset(self.slots)
            self.cache.load(0, self.slots, self.state(self.twin_cache))
            for token in range(1, tokens + 1):
                hidden = self.draw(1)
                output = run(self.own, self.own_cache, hidden, own)
                twin_output = run(self.twin, self.twin_cache, hidden, twin)
                assert len(wanted) == len(got) == token
                assert wanted[-1].shape == got[-1].shape
                assert worst(got[-1], wanted[-1]) <= core_bound, f"core output of token {token}"
                assert worst(twin_output, output) <= output_bound, f"output of token {token}"
            state = self.cache.read(0, self.slots)
            assert worst(state, self.state(self.own_cache)) <= state_bound


class Kimi(Case):
    model = "kimi_linear"
    recurrence = "recurrent_kimi_delta_attention"
    spec = "kimi_delta_attention"

    def layer(self, sizes):
        import torch
        from transformers import KimiLinearConfig

        config = KimiLinearConfig(num_hidden_layers=1, layer_types=["linear_attention"], **sizes)
        layer = self.modeling.KimiLinearDeltaAttention(config, 0)
        remember(layer.forget_gate.A_log, layer.forget_gate.dt_bias)
        torch.nn.init.uniform_(layer.o_norm.weight, 0.5, 1.5)
        heads, width = config.linear_num_heads, config.linear_head_dim
        return config, layer, {"H": heads, "HV": heads, "K": width, "V": width}

    def projections(self):
        return [("f", self.twin.forget_gate.f_b_proj), ("b", self.twin.b_proj)]

    def decode(self, query, key, value, **options):
        heads, width = query.shape[-2:]
        gate = self.twin.forget_gate
        return self.module.decode(
            self.cache,
            0,
            self.slots,
            q=query[:, 0],
            k=key[:, 0],
            v=value[:, 0],
            f=self.raw["f"].unflatten(-1, (heads, width)),
            b=self.raw["b"],
            A_log=gate.A_log.flatten(),
            dt_bias=gate.dt_bias.view(heads, width),
        )

    def in_float32(self, query, key, value, **options):
        core, state = self.plain(query.float(), key.float(), value.float(), **options)
        return (core.to(query.dtype), state), core[:, 0]

    def instead(self, core):
        # the layer stores a state, which nothing reads again
        return core[:, None], self.state(self.twin_cache)


class Nemotron(Case):
    model = "nemotron_h"
    recurrence = "mamba2_selective_state_update"
    spec = "mamba2"

    def layer(self, sizes):
        import torch
        from transformers import NemotronHConfig

        config = NemotronHConfig(layers_block_type=["mamba"], **sizes)
        layer = self.modeling.NemotronHMamba2Mixer(config, 0)
        remember(layer.A_log, layer.dt_bias)
        torch.nn.init.normal_(layer.D)
        torch.nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
        return (
            config,
            layer,
            {
                "H": config.n_groups,
                "HV": config.mamba_num_heads,
                "K": config.ssm_state_size,
                "V": config.mamba_head_dim,
            },
        )

    def projections(self):
        return [("projected", self.twin.in_proj)]

    def decode(self, state, x, dt, A, B, C, D, **options):
        return self.module.decode(
            self.cache,
            0,
            self.slots,
            x=x,
            B=B,
            C=C,
            dt=self.raw["projected"][:, -self.twin.num_heads :],
            A_log=self.twin.A_log,
            dt_bias=self.twin.dt_bias,
            D=self.twin.D,
        )

    def in_float32(self, state, x, dt, A, B, C, D, dt_bias, **options):
        # `dt + dt_bias` is in the type of dt: float32 here, as in the kernels
        rest = (value.float() for value in (x, dt, A, B, C, D))
        core = self.plain(state, *rest, dt_bias=dt_bias.float(), **options)
        return core.to(x.dtype), core

    def instead(self, core):
        return core

    def state(self, cache):
        return super().state(cache).transpose(-1, -2)


CASES = {
    "kimi": (Kimi, {"hidden_size": 64, "linear_num_heads": 4, "linear_head_dim": 16}),
    "nemotron": (
        Nemotron,
        {
            "hidden_size": 64,
            "n_groups": 2,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 32,
            "chunk_size": 16,
        },
    ),
}


@pytest.mark.parametrize(("storage", "bound"), [("float32", 1e-5), ("split", 5e-3)])
@pytest.mark.parametrize("name", CASES)
def test_decodes_a_layer(monkeypatch, name, storage, bound):
    ready("cpu")
    import torch

    kind, sizes = CASES[name]
    case = kind(monkeypatch, "cpu", torch.float32, 2, storage, 4, sizes)
    # ten tokens: two folds, and a buffer that is not empty at the end
    case.check(20, 10, bound, output_bound=2 * bound, state_bound=1e-5)


# the models' own sizes, those of the Kimi-Linear-48B-A3B and of the Nemotron-H-8B
@pytest.mark.gpu
@pytest.mark.parametrize("storage", ["float32", "split"])
@pytest.mark.parametrize(
    ("kind", "sizes"), [(Kimi, {"hidden_size": 2304}), (Nemotron, {"hidden_size": 4096})]
)
def test_decodes_a_layer_of_full_size(monkeypatch, kind, sizes, storage):
    ready("cuda")
    import torch

    case = kind(monkeypatch, "cuda", torch.bfloat16, 4, storage, None, sizes)
    case.check(100, 64, 1e-2, output_bound=2e-2, state_bound=1e-2)
