"""A layer between its projections in one spec, beside Transformers' own layer of Qwen3-Next."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from oracles import modeling, ready, remember, worst

from kvgen import compiler

SIZES = {"H": 2, "HV": 4, "K": 16, "V": 16, "W": 4}
SPEC = """\
kvgen: 1
name: qwen3_next_layer
sizes: {H: 2, HV: 4, K: 16, V: 16, W: 4}
inputs: {q: [H, K], k: [H, K], v: [HV, V], z: [HV, V], a: [HV], b: [HV]}
params: {wq: [W, H, K], wk: [W, H, K], wv: [W, HV, V], A_log: [HV], dt_bias: [HV], g: [V]}
state: {S: [HV, K, V]}
step: |
  q = l2norm(silu(conv(q, wq)))
  k = l2norm(silu(conv(k, wk)))
  v = silu(conv(v, wv))
  S = exp(-exp(A_log) * softplus(a + dt_bias)) * S
  S = S + outer(k, sigmoid(b) * (v - k @ S))
  o = (q * K**-0.5) @ S
  o = rmsnorm(o) * g * silu(z)
"""
BATCH = 2
# (what is called, tokens): 300 tokens in all
PLAN = [("extend", 151), *[("decode", 1)] * 20, ("extend", 2), *[("verify", 4)] * 20]
PLAN += [*[("decode", 1)] * 46, ("recurrent", 1)]


@pytest.fixture
def qwen(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Transformers' module, in plain torch."""
    ready("cpu")
    return modeling("qwen3_next", monkeypatch)


class Layer:
    """Transformers' layer: what goes into its convolution, and what comes out of its norm."""

    def __init__(self, qwen: Any, dtype: torch.dtype) -> None:
        from transformers import DynamicCache, Qwen3NextConfig

        torch.manual_seed(0)
        config = Qwen3NextConfig(
            num_hidden_layers=1, layer_types=["linear_attention"], hidden_size=64,
            linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
            linear_value_head_dim=16,
        )  # fmt: skip
        self.own = qwen.Qwen3NextGatedDeltaNet(config, 0)
        remember(self.own.A_log, self.own.dt_bias)
        torch.nn.init.uniform_(self.own.norm.weight, 0.5, 1.5)
        self.own.to(dtype)
        self.cache, self.width, self.found = DynamicCache(config=config), config.hidden_size, []
        self.own.out_proj.register_forward_pre_hook(lambda _, x: self.found.append(x[0]))

    def params(self) -> dict[str, torch.Tensor]:
        own, keys = self.own, SIZES["H"] * SIZES["K"]
        parts = own.conv1d.weight[:, 0].T.split([keys, keys, SIZES["HV"] * SIZES["V"]], 1)
        given = {
            f"w{name}": x.unflatten(1, (-1, 16)).contiguous()
            for name, x in zip("qkv", parts, strict=True)
        }
        return {**given, "A_log": own.A_log, "dt_bias": own.dt_bias, "g": own.norm.weight}

    def inputs(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        own = self.own
        q, k, v, z, b, a = own.fix_query_key_value_ordering(
            own.in_proj_qkvz(hidden), own.in_proj_ba(hidden)
        )
        names = {"q": q, "k": k, "v": v, "z": z}
        return {n: x.unflatten(2, (-1, 16)) if x.dim() == 3 else x for n, x in names.items()} | {
            "a": a,
            "b": b,
        }

    def outputs(self, hidden: torch.Tensor) -> torch.Tensor:
        self.found.clear()
        self.own(hidden, self.cache)
        return self.found[0].unflatten(2, (-1, 16))


def exactly(
    module: ModuleType, state: Any, given: dict[str, torch.Tensor], params: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, Any]:
    """The recurrence in float64: the outputs of some tokens, and the states after them."""
    outputs: list[torch.Tensor] = []
    fixed = {name: x.double() for name, x in params.items()}
    for token in range(given["q"].shape[1]):
        now = {name: x[:, token].double() for name, x in given.items()}
        out, state = module.reference(state, **now, **fixed)
        outputs.append(out)
    return torch.stack(outputs, 1), state


# how far the module may be from the layer in float64
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str
)
@torch.no_grad()
def test_a_whole_layer_is_transformers_own(qwen: ModuleType, dtype: torch.dtype) -> None:
    bound = BOUNDS[dtype]
    module = compiler.compile(SPEC)
    layer = Layer(qwen, dtype)
    params = layer.params()
    slots = torch.tensor([3, 1])
    cache = module.Cache.empty(5, device="cpu", dtype=dtype, buffer=8, window=4)
    cache.reset(slots)
    state = None
    outputs: list[tuple[torch.Tensor, ...]] = []
    for call, tokens in PLAN:
        hidden = torch.randn(BATCH, tokens, layer.width, dtype=dtype)
        # Transformers takes one token at a time, or a prompt
        several = call == "extend"
        parts = [hidden] if several else list(hidden.split(1, 1))
        wanted = torch.cat([layer.outputs(each) for each in parts], 1)
        given = layer.inputs(hidden)
        counts = torch.full((BATCH,), tokens, dtype=torch.int32)
        if several:
            got = module.extend(cache, 0, slots, **given, **params, lengths=counts)
            module.accept(cache, slots, counts=counts)
        elif call == "verify":
            got = module.verify(cache, 0, slots, **given, **params)
            module.accept(cache, slots, counts=counts)
        else:
            token = {name: x[:, 0] for name, x in given.items()}
            got = getattr(module, call)(cache, 0, slots, **token, **params)[:, None]
            module.advance(cache, slots)
        exact, state = exactly(module, state, given, params)
        assert worst(got, exact) <= bound, call
        outputs.append((got, wanted, exact))
    got, wanted, exact = (torch.cat(each, 1) for each in zip(*outputs, strict=True))
    assert got.shape[1] == 300
    theirs = layer.cache.layers[0].recurrent_states[0]
    if dtype == torch.float32:
        assert worst(got, wanted) <= bound
        assert worst(cache.read(0, slots)["S"], theirs) <= bound
    else:
        # Transformers rounds to 16 bits between all of a layer's steps
        assert worst(got, exact) < worst(wanted, exact)
        assert worst(got, wanted) <= 2 * worst(wanted, exact)
