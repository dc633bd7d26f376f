"""The references of specs that Transformers has in plain torch against its functions."""

from __future__ import annotations

import pytest
from oracles import modeling

from tests.specs.test_second_oracles import BATCH, TOKENS, K, Run, V
from tests.specs.test_second_oracles_fla import gated, qkv


def test_olmo_hybrid(monkeypatch):
    heads = 3
    run = Run("olmo_hybrid", heads, heads, **qkv(), a=(heads,), b=(heads,))
    x = run.inputs
    params, log_decay = gated(run)
    wanted = modeling("olmo_hybrid", monkeypatch).torch_recurrent_gated_delta_rule(
        x["q"],
        x["k"],
        x["v"],
        g=log_decay,
        beta=2 * x["b"].sigmoid(),
        initial_state=run.state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    run.check(*wanted, **params)


@pytest.mark.parametrize(("groups", "heads"), [(1, 4), (2, 4)])
def test_mamba2_falcon(monkeypatch, groups, heads):
    import torch

    run = Run(
        "mamba2_falcon", groups, heads, x=(heads, V), B=(groups, K), C=(groups, K), dt=(heads,)
    )
    A_log, dt_bias, D = run.draw(heads), run.draw(heads), run.draw(heads)
    step = modeling("falcon_h1", monkeypatch).mamba2_selective_state_update
    # values first, and changed in place
    state, outputs = run.state.transpose(-1, -2).clone(), []
    for token in range(TOKENS):
        x, B, C, dt = (run.inputs[name][:, token] for name in ("x", "B", "C", "dt"))
        output = step(
            state,
            x,
            dt[..., None].expand(*dt.shape, V),
            -A_log.exp()[:, None, None].expand(heads, V, K),
            B,
            C,
            D[:, None].expand(heads, V),
            dt_bias=dt_bias[:, None].expand(heads, V),
            dt_softplus=True,
        )
        outputs.append(output.view(BATCH, heads, V))
    wanted = torch.stack(outputs, dim=1)
    run.check(wanted, state.transpose(-1, -2), A_log=A_log, dt_bias=dt_bias, D=D)


def test_mlstm(monkeypatch):
    import torch

    heads = 3
    run = Run("mlstm", heads, heads, **qkv(), i=(heads,), f=(heads,))
    x = run.inputs
    x["i"], x["f"] = 10 * x["i"], 10 * x["f"]
    run.carried = {"n": run.draw(BATCH, heads, K), "m": run.draw(BATCH, heads)}
    step = modeling("xlstm", monkeypatch).mlstm_recurrent_step_native
    states = (run.state, run.carried["n"], run.carried["m"][..., None])
    outputs = []
    for token in range(TOKENS):
        q, k, v = (x[name][:, token] for name in "qkv")
        gates = [15 * torch.tanh(x[name][:, token, :, None] / 15) for name in "if"]
        output, states = step(q, k, v, *gates, *states)
        outputs.append(output)
    state, n, m = states
    run.check(torch.stack(outputs, dim=1), state, {"n": n, "m": m[..., 0]})
