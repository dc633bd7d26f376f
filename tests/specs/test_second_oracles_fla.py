"""The references of the rest of the family against flash-linear-attention's naive functions.

Gates are computed here as fla's layers do. Where fla has a kernel only, the same is written in
torch here, and the test says so.
"""

from __future__ import annotations

import math

import pytest

from tests.specs.test_second_oracles import BATCH, TOKENS, K, Run, V, naive, softplus, unit

HEADS = 3


def qkv(heads=HEADS, value_heads=HEADS):
    return {"q": (heads, K), "k": (heads, K), "v": (value_heads, V)}


def first(x):
    """Heads first, as some of fla's functions have them."""
    return x.transpose(1, 2)


def logsigmoid(x):
    import torch

    return torch.nn.functional.logsigmoid(x)


def gated(run):
    """A_log and dt_bias, and the log decay that Gated DeltaNet and its relatives make of them."""
    heads = run.inputs["a"].shape[-1]
    A_log, dt_bias = run.draw(heads), run.draw(heads)
    decay = -A_log.exp() * softplus(run.inputs["a"] + dt_bias)
    return {"A_log": A_log, "dt_bias": dt_bias}, decay


def grouped(run, x):
    return x.repeat_interleave(run.group, dim=2)


# without a delta rule ---------------------------------------------------------------------------


def test_linear_attention():
    run = Run("linear_attention", HEADS, HEADS, **qkv())
    recurrence = naive("linear_attn").naive_recurrent_linear_attn
    run.check(
        *recurrence(**run.inputs, initial_state=run.state, output_final_state=True),
    )


def test_normalised_linear_attention():
    import torch

    run = Run("normalised_linear_attention", HEADS, HEADS, **qkv())
    run.carried = {"z": run.draw(BATCH, HEADS, K).abs()}
    q, k = (1 + torch.nn.functional.elu(run.inputs[name]) for name in "qk")
    o, (state, z) = naive("linear_attn").naive_recurrent_linear_attn(
        q,
        k,
        run.inputs["v"],
        initial_state=(run.state, run.carried["z"][:, None]),
        output_final_state=True,
        normalize=True,
    )
    run.check(o, state, {"z": z[:, 0]})


def test_retnet():
    import torch

    run = Run("retnet", HEADS, HEADS, **qkv())
    x = run.inputs
    gamma = 1 - 2 ** (-5 - torch.arange(HEADS, dtype=torch.float32))
    wanted = naive("simple_gla").naive_recurrent_simple_gla(
        **x, g=gamma.log().expand(BATCH, TOKENS, HEADS), initial_state=run.state
    )
    run.check(*wanted, gamma=gamma)
    # the paper's parallel form, from no state
    run.state = torch.zeros_like(run.state)
    o = first(naive("retention").naive_retention(*(first(x[name]) for name in "qkv")))
    state = torch.einsum(
        "bthk,bthv,th->bhkv",
        x["k"],
        x["v"],
        gamma ** (TOKENS - 1 - torch.arange(TOKENS))[:, None],
    )
    run.check(o, state, gamma=gamma)


def test_simple_gla():
    run = Run("simple_gla", HEADS, HEADS, **qkv(), g=(HEADS,))
    x = run.inputs
    wanted = naive("simple_gla").naive_recurrent_simple_gla(
        x["q"], x["k"], x["v"], g=logsigmoid(x["g"]) / 16, initial_state=run.state
    )
    run.check(*wanted)


def gla(run, q, k, v, log_decay):
    recurrence = naive("gla").naive_recurrent_gla
    return recurrence(q, k, v, log_decay, initial_state=run.state, output_final_state=True)


def test_gla():
    run = Run("gla", HEADS, HEADS, **qkv(), g=(HEADS, K))
    x = run.inputs
    run.check(*gla(run, x["q"], x["k"], x["v"], logsigmoid(x["g"]) / 16))


def test_hgrn2():
    import torch

    run = Run("hgrn2", HEADS, HEADS, q=(HEADS, K), f=(HEADS, K), v=(HEADS, V))
    lower = run.draw(HEADS, K).sigmoid()
    x = run.inputs
    log_decay = torch.logaddexp(lower.log(), torch.log1p(-lower) + logsigmoid(x["f"]))
    run.check(*gla(run, x["q"], 1 - log_decay.exp(), x["v"], log_decay), lower=lower)


def test_lightnet():
    import torch

    run = Run("lightnet", HEADS, HEADS, **qkv())
    run.carried = {"z": run.draw(BATCH, HEADS, K)}
    x = run.inputs
    sums = torch.cat([run.carried["z"][:, None], x["k"]], dim=1).logcumsumexp(1)
    before, after = sums[:, :-1], sums[:, 1:]
    wanted = gla(run, x["q"], (x["k"] - after).exp(), x["v"], before - after)
    run.check(*wanted, {"z": after[:, -1]})


def test_rodimus():
    import torch

    run = Run("rodimus", 1, 1, **qkv(1, 1), g=(1, K), tau=(1, K))
    x = run.inputs
    gate, temperature = softplus(x["g"]), x["tau"].sigmoid()
    k = torch.nn.functional.normalize(x["k"], dim=-1, eps=1e-12) * gate**temperature
    run.check(*gla(run, x["q"], k, x["v"], -gate * temperature))


def test_rwkv6():
    run = Run("rwkv6", HEADS, HEADS, r=(HEADS, K), w=(HEADS, K), k=(HEADS, K), v=(HEADS, V))
    u = run.draw(HEADS, K)
    x = run.inputs
    o, state = naive("rwkv6", "recurrent_naive.py").naive_recurrent_rwkv6(
        *(first(value) for value in (x["r"], x["k"], x["v"], -x["w"].exp())),
        u,
        scale=1.0,
        initial_state=run.state,
        output_final_state=True,
    )
    run.check(first(o), state, u=u)


# delta rules ------------------------------------------------------------------------------------


def delta_rule(run, q, k, v, beta):
    o, state = naive("delta_rule").delta_rule_recurrence(
        *(first(value) for value in (q, k, v, beta)), initial_state=run.state
    )
    return first(o), state


def test_deltanet():
    run = Run("deltanet", HEADS, HEADS, **qkv(), b=(HEADS,))
    x = run.inputs
    run.check(*delta_rule(run, unit(x["q"]), unit(x["k"]), x["v"], x["b"].sigmoid()))


def test_efla():
    import torch

    # fla has the delta rule only; its beta is the paper's
    run = Run("efla", HEADS, HEADS, **qkv(), b=(HEADS,))
    run.inputs["k"] = run.inputs["k"] * torch.tensor([1e-3, 0.1, 1.0])[:, None]
    x = run.inputs
    squares = x["k"].double().square().sum(-1)
    beta = (-torch.expm1(-x["b"].double().sigmoid() * squares) / squares).float()
    run.check(*delta_rule(run, unit(x["q"]), x["k"], x["v"], beta))


@pytest.mark.parametrize(("heads", "value_heads"), [(3, 3), (2, 4)])
def test_gated_deltaproduct(heads, value_heads):
    steps = 2
    run = Run(
        "gated_deltaproduct",
        heads,
        value_heads,
        q=(heads, K),
        k=(steps, heads, K),
        v=(steps, value_heads, V),
        a=(value_heads,),
        b=(steps, value_heads),
    )
    x = run.inputs
    params, decay = gated(run)
    wanted = naive("gated_delta_product").naive_recurrent_gated_delta_product(
        grouped(run, unit(x["q"])),
        grouped(run, unit(x["k"]).flatten(1, 2)),
        x["v"].flatten(1, 2),
        decay,
        2 * x["b"].sigmoid().flatten(1, 2),
        scale=K**-0.5,
        initial_state=run.state,
        output_final_state=True,
        num_householder=steps,
    )
    run.check(*wanted, **params)


@pytest.mark.parametrize(("heads", "value_heads"), [(3, 3), (2, 4)])
def test_gated_deltanet2(heads, value_heads):
    run = Run(
        "gated_deltanet2",
        heads,
        value_heads,
        **qkv(heads, value_heads),
        f=(heads, K),
        b=(heads, K),
        w=(value_heads, V),
    )
    x = run.inputs
    A_log, dt_bias = run.draw(heads), run.draw(heads, K)
    decay = -A_log.exp()[:, None] * softplus(x["f"] + dt_bias)
    keys = (unit(x["q"]), unit(x["k"]), x["v"], decay, x["b"].sigmoid(), x["w"].sigmoid())
    q, k, v, g, b, w = (grouped(run, value) if value.shape[2] == heads else value for value in keys)
    wanted = naive("gdn2").naive_recurrent_gdn2(
        q, k, v, g, b, w, initial_state=run.state, output_final_state=True
    )
    run.check(*wanted, A_log=A_log, dt_bias=dt_bias)


def test_comba():
    run = Run("comba", HEADS, HEADS, **qkv(), a=(HEADS,), b=(HEADS,))
    x = run.inputs
    params, log_decay = gated(run)
    decay, D = run.draw(HEADS), run.draw(HEADS)
    p = x["k"] * decay.sigmoid()[:, None]
    # the chunked form reads before the decay, as the kernels do; the naive recurrence after it
    wanted = naive("comba").naive_chunk_comba(
        q=unit(x["q"] - D[:, None] * p),
        k=unit(x["k"]),
        v=x["v"],
        p=unit(p),
        g=log_decay,
        beta=x["b"].sigmoid(),
        initial_state=run.state,
        output_final_state=True,
    )
    run.check(*wanted, decay=decay, D=D, **params)


@pytest.mark.parametrize(("heads", "value_heads"), [(3, 3), (2, 4)])
def test_kimi_delta_attention_bounded(heads, value_heads):
    run = Run(
        "kimi_delta_attention_bounded",
        heads,
        value_heads,
        **qkv(heads, value_heads),
        f=(value_heads, K),
        b=(value_heads,),
    )
    x = run.inputs
    A_log, dt_bias = run.draw(value_heads), run.draw(value_heads, K)
    wanted = naive("kda").naive_recurrent_kda(
        unit(x["q"]),
        unit(x["k"]),
        x["v"],
        g=-5 * (A_log.exp()[:, None] * (x["f"] + dt_bias)).sigmoid(),
        beta=x["b"].sigmoid(),
        initial_state=run.state,
        output_final_state=True,
    )
    run.check(*wanted, A_log=A_log, dt_bias=dt_bias)


@pytest.mark.parametrize(("heads", "value_heads"), [(3, 3), (2, 4)])
def test_preconditioned_gated_deltanet(heads, value_heads):
    run = Run(
        "preconditioned_gated_deltanet",
        heads,
        value_heads,
        **qkv(heads, value_heads),
        a=(value_heads,),
        b=(value_heads,),
        a_atk=(heads,),
        b_atk=(heads,),
    )
    run.carried = {"A": run.draw(BATCH, heads, K).abs()}
    x = run.inputs
    params, log_decay = gated(run)
    A_log_atk, dt_bias_atk, center = run.draw(heads), run.draw(heads), run.draw(heads)
    # it normalises queries and keys itself
    o, state, A = naive("precond_gated_delta_rule").naive_recurrent_precond_gated_delta_rule(
        x["q"],
        x["k"],
        x["v"],
        g_atk=-A_log_atk.exp() * softplus(x["a_atk"] + dt_bias_atk),
        g=log_decay,
        beta_atk=x["b_atk"].sigmoid(),
        beta=x["b"].sigmoid(),
        initial_state=run.state,
        initial_A_state=run.carried["A"],
        output_final_state=True,
        log_atk_scale=center,
    )
    more = {"A_log_atk": A_log_atk, "dt_bias_atk": dt_bias_atk, "log_atk_scale": center}
    run.check(o, state, {"A": A}, **params, **more)


def test_iplr():
    run = Run("iplr", HEADS, HEADS, **qkv(), a=(HEADS, K), b=(HEADS, K))
    x = run.inputs
    x["a"], x["b"] = unit(x["a"]), unit(x["b"])
    o, state = naive("generalized_delta_rule/iplr").iplr_recurrence(
        *(first(x[name]) for name in "qkvab"), initial_state=run.state
    )
    run.check(first(o), state)


def test_rwkv7():
    import torch

    shapes = {name: (HEADS, K) for name in "rwka"}
    run = Run("rwkv7", HEADS, HEADS, **shapes, v=(HEADS, V))
    k_k, k_a = run.draw(HEADS, K), run.draw(HEADS, K).sigmoid()
    x = run.inputs
    a = x["a"].sigmoid()
    kk = torch.nn.functional.normalize(x["k"] * k_k, dim=-1)
    k = x["k"] * (1 + (a - 1) * k_a)
    w = -math.exp(-0.5) * x["w"].sigmoid()
    # fla's function scales the query, RWKV does not
    o, state = naive("generalized_delta_rule/dplr").dplr_recurrence(
        *(first(value) for value in (x["r"] * K**0.5, k, x["v"], -kk, kk * a, w)),
        initial_state=run.state,
    )
    run.check(first(o), state, k_k=k_k, k_a=k_a)


@pytest.mark.parametrize(("heads", "value_heads"), [(3, 3), (2, 4)])
def test_gated_oja(heads, value_heads):
    import torch

    # fla has kernels only: this is what fused_recurrent_oja_fwd_kernel does
    shapes = {"g": (value_heads, V), "b": (value_heads,)}
    run = Run("gated_oja", heads, value_heads, **qkv(heads, value_heads), **shapes)
    x = run.inputs
    q, k = grouped(run, unit(x["q"])) * K**-0.5, grouped(run, unit(x["k"]))
    v, beta = unit(x["v"]), x["b"].sigmoid()
    state, outputs = run.state, []
    for token in range(TOKENS):
        state = state * logsigmoid(x["g"][:, token]).exp()[:, :, None, :]
        held = torch.einsum("bhkv,bhv->bhk", state, v[:, token])
        key = beta[:, token, :, None] * (k[:, token] - held)
        state = state + key[..., None] * v[:, token, :, None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, token]))
    run.check(torch.stack(outputs, dim=1), state)
