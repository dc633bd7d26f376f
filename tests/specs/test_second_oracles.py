"""The references of the shipped specs against flash-linear-attention's naive functions."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
from oracles import ready, worst

BATCH, TOKENS, K, V = 2, 12, 16, 24
BOUND = 1e-5


def naive(name: str, file: str = "naive.py") -> ModuleType:
    """fla.ops.NAME.naive from its file: the package around it wants a GPU's triton."""
    found = importlib.util.find_spec("fla")
    if found is None or not found.submodule_search_locations:
        pytest.skip("fla-core is not installed")
    from pathlib import Path

    for folder in found.submodule_search_locations:
        path = Path(folder) / "ops" / name / file
        if path.is_file():
            spec = importlib.util.spec_from_file_location(f"naive_{path.parent.name}", path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    pytest.fail(f"fla-core has no ops/{name}/{file}")


class Run:
    """A module's reference, token by token on random values."""

    def __init__(self, name, heads, value_heads, **shapes):
        import torch

        import kvgen
        from kvgen.shipped import resolve

        ready("cpu")
        sizes = {"sizes.H": heads, "sizes.HV": value_heads, "sizes.K": K, "sizes.V": V}
        self.module = kvgen.compile(resolve(name), None, **sizes)
        self.generator = torch.Generator().manual_seed(0)
        self.inputs = {key: self.draw(BATCH, TOKENS, *shape) for key, shape in shapes.items()}
        self.state = self.draw(BATCH, value_heads, K, V)
        # states beside S, by name
        self.carried = {}
        self.group = value_heads // heads

    def draw(self, *shape):
        import torch

        return torch.randn(*shape, generator=self.generator)

    def check(self, wanted, wanted_state, wanted_carried=None, **params):
        import torch

        state, outputs = {"S": self.state, **self.carried}, []
        for token in range(TOKENS):
            inputs = {key: value[:, token] for key, value in self.inputs.items()}
            o, state = self.module.reference(state, **inputs, **params)
            outputs.append(o)
        assert outputs[0].dtype == torch.float32
        got = torch.stack(outputs, dim=1)
        assert got.shape == wanted.shape
        assert worst(got.flatten(0, 1), wanted.flatten(0, 1)) <= BOUND
        assert worst(state["S"], wanted_state) <= BOUND
        for key, value in (wanted_carried or {}).items():
            assert worst(state[key], value) <= BOUND, key


def unit(x):
    """As the kernels of fla normalise queries and keys."""
    import torch

    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def softplus(x):
    import torch

    return torch.nn.functional.softplus(x)


@pytest.mark.parametrize(("heads", "value_heads"), [(2, 4), (3, 3)])
def test_gated_deltanet(heads, value_heads):
    run = Run(
        "gated_deltanet",
        heads,
        value_heads,
        q=(heads, K),
        k=(heads, K),
        v=(value_heads, V),
        a=(value_heads,),
        b=(value_heads,),
    )
    A_log, dt_bias = run.draw(value_heads), run.draw(value_heads)
    x = run.inputs
    wanted = naive("gated_delta_rule").naive_recurrent_gated_delta_rule(
        unit(x["q"]).repeat_interleave(run.group, dim=2),
        unit(x["k"]).repeat_interleave(run.group, dim=2),
        x["v"],
        beta=x["b"].sigmoid(),
        g=-A_log.exp() * softplus(x["a"] + dt_bias),
        initial_state=run.state,
        output_final_state=True,
    )
    run.check(*wanted, A_log=A_log, dt_bias=dt_bias)


@pytest.mark.parametrize(("heads", "value_heads"), [(3, 3), (2, 4)])
def test_kimi_delta_attention(heads, value_heads):
    run = Run(
        "kimi_delta_attention",
        heads,
        value_heads,
        q=(heads, K),
        k=(heads, K),
        v=(value_heads, V),
        f=(value_heads, K),
        b=(value_heads,),
    )
    A_log, dt_bias = run.draw(value_heads), run.draw(value_heads, K)
    x = run.inputs
    wanted = naive("kda").naive_recurrent_kda(
        unit(x["q"]),
        unit(x["k"]),
        x["v"],
        g=-A_log.exp()[:, None] * softplus(x["f"] + dt_bias),
        beta=x["b"].sigmoid(),
        initial_state=run.state,
        output_final_state=True,
    )
    run.check(*wanted, A_log=A_log, dt_bias=dt_bias)


def test_lightning_attention():
    heads = 4
    run = Run("lightning_attention", heads, heads, q=(heads, K), k=(heads, K), v=(heads, V))
    slope = run.draw(heads).abs()
    x = run.inputs
    wanted = naive("simple_gla").naive_recurrent_simple_gla(
        x["q"],
        x["k"],
        x["v"],
        g=-slope.expand(BATCH, TOKENS, heads),
        scale=1.0,
        initial_state=run.state,
    )
    run.check(*wanted, slope=slope)


@pytest.mark.parametrize(("groups", "heads"), [(2, 4), (3, 3)])
def test_mamba2(groups, heads):
    run = Run("mamba2", groups, heads, x=(heads, V), B=(groups, K), C=(groups, K), dt=(heads,))
    A_log, dt_bias, D = run.draw(heads), run.draw(heads), run.draw(heads)
    x = run.inputs
    dt = softplus(x["dt"] + dt_bias)
    o, state = naive("simple_gla").naive_recurrent_simple_gla(
        x["C"].repeat_interleave(run.group, dim=2),
        x["B"].repeat_interleave(run.group, dim=2),
        dt[..., None] * x["x"],
        g=-A_log.exp() * dt,
        scale=1.0,
        initial_state=run.state,
    )
    run.check(o + D[:, None] * x["x"], state, A_log=A_log, dt_bias=dt_bias, D=D)
