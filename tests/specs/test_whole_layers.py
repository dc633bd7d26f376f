"""Shipped layers, all between two projections, beside Transformers' own."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from oracles import modeling, ready, remember, worst

import kvgen

Tensors = dict[str, torch.Tensor]
BATCH = 2
# nodes of a tree, by what each follows, and those that are kept
TREE, PATH = [-1, 0, 0, 2, 1, 3], [0, 2, 3]
# (what is called, tokens that stay): 300 in all
PLAN = [("extend", 151), *[("decode", 1)] * 12, ("extend", 2), *[("verify", 4)] * 8]
PLAN += [*[("tree", 3)] * 6, ("extend", 74), *[("decode", 1)] * 10, ("recurrent", 1)]


class Layer:
    """Transformers' layer with random weights: what goes into its convolutions, and what it has
    made of that where the shipped spec ends."""

    model: ClassVar[str]
    spec: ClassVar[str]
    sizes: ClassVar[dict[str, int]]
    width = 64

    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        from transformers import DynamicCache

        torch.manual_seed(0)
        self.found: list[tuple[torch.Tensor, ...]] = []
        self.own: Any
        config, self.own = self.made(module)
        self.own.to(dtype)
        self.cache: Any = DynamicCache(config=config)

    def made(self, module: Any) -> tuple[Any, Any]:
        """The config, and the layer, whose `found` gets what a hook sees of its end."""
        raise NotImplementedError

    def params(self) -> Tensors:
        raise NotImplementedError

    def inputs(self, hidden: torch.Tensor) -> Tensors:
        raise NotImplementedError

    def end(self, *given: torch.Tensor) -> torch.Tensor:
        """The layer's value where the spec ends, from what the hook has seen."""
        (found,) = given
        return found

    def state(self) -> torch.Tensor:
        return self.cache.layers[0].recurrent_states[0]

    def outputs(self, hidden: torch.Tensor) -> torch.Tensor:
        self.found.clear()
        self.own(hidden, self.cache)
        return self.end(*self.found[0]).unflatten(2, (-1, self.sizes["V"]))

    def sees(self, part: Any) -> None:
        """Have what comes into a part of the layer."""
        part.register_forward_pre_hook(lambda _, given: self.found.append(given))

    def weights(self, *names: str) -> Tensors:
        """Those of the convolutions, with their biases where the layer has some."""
        own, sizes = self.own.conv1d, self.sizes
        spans = {name: self.spans[name] for name in names}
        split = [heads * width for heads, width in spans.values()]
        given: Tensors = {}
        parts = own.weight[:, 0].T.split(split, 1)
        for (name, span), part in zip(spans.items(), parts, strict=True):
            given[f"w{name}"] = part.unflatten(1, span).contiguous()
        if own.bias is not None:
            for (name, span), part in zip(spans.items(), own.bias.split(split), strict=True):
                given[f"b{name}"] = part.unflatten(0, span)
        assert sum(split) == own.weight.shape[0] and own.weight.shape[2] == sizes["W"]
        return given

    @property
    def spans(self) -> Mapping[str, tuple[int, int]]:
        """Heads and channels of the inputs with a past."""
        keys, values = self.sizes["H"], self.sizes["HV"]
        key, value = (keys, self.sizes["K"]), (values, self.sizes["V"])
        return {"q": key, "k": key, "v": value, "x": value, "B": key, "C": key}


class Qwen(Layer):
    model, spec = "qwen3_next", "qwen3_next_layer"
    sizes: ClassVar[dict[str, int]] = {"H": 2, "HV": 4, "K": 16, "V": 16, "W": 4}

    def made(self, module: Any) -> tuple[Any, Any]:
        from transformers import Qwen3NextConfig

        config = Qwen3NextConfig(
            num_hidden_layers=1, layer_types=["linear_attention"], hidden_size=self.width,
            linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
            linear_value_head_dim=16,
        )  # fmt: skip
        own = module.Qwen3NextGatedDeltaNet(config, 0)
        remember(own.A_log, own.dt_bias)
        torch.nn.init.uniform_(own.norm.weight, 0.5, 1.5)
        self.sees(own.out_proj)
        return config, own

    def params(self) -> Tensors:
        own = self.own
        gates = {"A_log": own.A_log, "dt_bias": own.dt_bias, "g": own.norm.weight}
        return {**self.weights("q", "k", "v"), **gates}

    def inputs(self, hidden: torch.Tensor) -> Tensors:
        own = self.own
        q, k, v, z, b, a = own.fix_query_key_value_ordering(
            own.in_proj_qkvz(hidden), own.in_proj_ba(hidden)
        )
        vectors = {"q": q, "k": k, "v": v, "z": z}
        return {n: x.reshape(*hidden.shape[:2], -1, 16) for n, x in vectors.items()} | {
            "a": a,
            "b": b,
        }


class Kimi(Layer):
    model, spec = "kimi_linear", "kimi_linear_layer"
    sizes: ClassVar[dict[str, int]] = {"H": 3, "HV": 3, "K": 16, "V": 16, "W": 4}

    def made(self, module: Any) -> tuple[Any, Any]:
        from transformers import KimiLinearConfig

        config = KimiLinearConfig(
            num_hidden_layers=1, layer_types=["linear_attention"], hidden_size=self.width,
            linear_num_heads=3, linear_head_dim=16,
        )  # fmt: skip
        own = module.KimiLinearDeltaAttention(config, 0)
        remember(own.forget_gate.A_log, own.forget_gate.dt_bias)
        torch.nn.init.uniform_(own.o_norm.weight, 0.5, 1.5)
        self.sees(own.o_proj)
        return config, own

    def params(self) -> Tensors:
        gate = self.own.forget_gate
        gates = {"A_log": gate.A_log.flatten(), "dt_bias": gate.dt_bias.view(3, 16)}
        return {**self.weights("q", "k", "v"), **gates, "g": self.own.o_norm.weight}

    def inputs(self, hidden: torch.Tensor) -> Tensors:
        own, gate = self.own, self.own.forget_gate
        vectors = {
            "q": own.q_proj(hidden), "k": own.k_proj(hidden), "v": own.v_proj(hidden),
            "z": own.g_b_proj(own.g_a_proj(hidden)), "f": gate.f_b_proj(gate.f_a_proj(hidden)),
        }  # fmt: skip
        return {n: x.unflatten(2, (3, 16)) for n, x in vectors.items()} | {"b": own.b_proj(hidden)}


class Nemotron(Layer):
    model, spec = "nemotron_h", "nemotron_h_layer"
    sizes: ClassVar[dict[str, int]] = {"H": 2, "HV": 4, "K": 32, "V": 16, "W": 4}

    def made(self, module: Any) -> tuple[Any, Any]:
        from transformers import NemotronHConfig

        config = NemotronHConfig(
            layers_block_type=["mamba"], hidden_size=self.width, n_groups=2, mamba_num_heads=4,
            mamba_head_dim=16, ssm_state_size=32, chunk_size=16, time_step_min=0.0,
        )  # fmt: skip
        own = module.NemotronHMamba2Mixer(config, 0)
        remember(own.A_log, own.dt_bias)
        torch.nn.init.normal_(own.D)
        torch.nn.init.normal_(own.conv1d.bias)
        self.sees(own.norm)
        return config, own

    def params(self) -> Tensors:
        own = self.own
        gates = {"A_log": own.A_log, "dt_bias": own.dt_bias, "D": own.D}
        return {**self.weights("x", "B", "C"), **gates}

    def inputs(self, hidden: torch.Tensor) -> Tensors:
        spans = {"z": self.spans["x"], **{name: self.spans[name] for name in "xBC"}}
        found = self.own.in_proj(hidden)
        sizes = [heads * width for heads, width in spans.values()]
        *parts, dt = found.split([*sizes, self.sizes["HV"]], 2)
        pairs = zip(spans.items(), parts, strict=True)
        return {name: x.unflatten(2, span) for (name, span), x in pairs} | {"dt": dt}

    def end(self, *given: torch.Tensor) -> torch.Tensor:
        scanned, gate = given
        return scanned * torch.nn.functional.silu(gate)

    def state(self) -> torch.Tensor:
        return super().state().transpose(-1, -2)


def exactly(
    module: ModuleType, state: Any, given: Tensors, params: Tensors
) -> tuple[torch.Tensor, Any]:
    """The recurrence in float64: the outputs of some tokens, and the states after them."""
    outputs: list[torch.Tensor] = []
    fixed = {name: x.double() for name, x in params.items()}
    for token in range(next(iter(given.values())).shape[1]):
        now = {name: x[:, token].double() for name, x in given.items()}
        out, state = module.reference(state, **now, **fixed)
        outputs.append(out)
    return torch.stack(outputs, 1), state


def called(
    module: ModuleType, cache: Any, slots: torch.Tensor, call: str, given: Tensors, params: Tensors
) -> torch.Tensor:
    """The outputs of a whole step; of a tree those of the nodes that are kept."""
    tokens = given["z"].shape[1]
    counts = torch.full((BATCH,), tokens, dtype=torch.int32)
    match call:
        case "extend":
            got = module.extend(cache, 0, slots, **given, **params, lengths=counts)
            module.accept(cache, slots, counts=counts)
        case "verify":
            got = module.verify(cache, 0, slots, **given, **params)
            module.accept(cache, slots, counts=counts)
        case "tree":
            parents = torch.tensor([TREE] * BATCH, dtype=torch.int32)
            path = torch.tensor([PATH + [-1] * (tokens - len(PATH))] * BATCH, dtype=torch.int32)
            got = module.verify(cache, 0, slots, **given, **params, parents=parents)[:, PATH]
            module.accept(cache, slots, path=path)
        case _:
            token = {name: x[:, 0] for name, x in given.items()}
            got = getattr(module, call)(cache, 0, slots, **token, **params)[:, None]
            module.advance(cache, slots)
    return got


# how far the module may be from the layer in float64
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("kind", [Qwen, Kimi, Nemotron])
@torch.no_grad()
def test_a_whole_layer_is_transformers_own(
    monkeypatch: pytest.MonkeyPatch, kind: type[Layer], dtype: torch.dtype
) -> None:
    ready("cpu")
    bound = BOUNDS[dtype]
    layer = kind(modeling(kind.model, monkeypatch), dtype)
    sizes = {f"sizes.{name}": size for name, size in layer.sizes.items()}
    module = kvgen.load(layer.spec, features=("decode", "verify", "extend"), **sizes)
    params = layer.params()
    slots = torch.tensor([3, 1])
    cache = module.Cache.empty(5, device="cpu", dtype=dtype, buffer=8, window=len(TREE))
    cache.reset(slots)
    state = None
    outputs: list[tuple[torch.Tensor, ...]] = []
    for call, tokens in PLAN:
        hidden = torch.randn(BATCH, len(TREE) if call == "tree" else tokens, layer.width)
        hidden = hidden.to(dtype)
        given = layer.inputs(hidden)
        got = called(module, cache, slots, call, given, params)
        if call == "tree":
            hidden, given = hidden[:, PATH], {name: x[:, PATH] for name, x in given.items()}
        # Transformers takes one token at a time, or a prompt
        parts = [hidden] if call == "extend" else list(hidden.split(1, 1))
        wanted = torch.cat([layer.outputs(each) for each in parts], 1)
        exact, state = exactly(module, state, given, params)
        assert worst(got, exact) <= bound, call
        outputs.append((got, wanted, exact))
    got, wanted, exact = (torch.cat(each, 1) for each in zip(*outputs, strict=True))
    assert got.shape[1] == 300
    if dtype == torch.float32:
        assert worst(got, wanted) <= bound
        assert worst(cache.read(0, slots)["S"], layer.state()) <= bound
    else:
        # Transformers rounds to 16 bits between all of a layer's steps
        assert worst(got, exact) < worst(wanted, exact)
        assert worst(got, wanted) <= 2 * worst(wanted, exact)
