"""FlashInfer's kernels need a GPU: here its functions are stand-ins in torch, which demand of their
arguments what those of 0.7.4 do."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize, softplus
from twins import analysed, made

from kvgen.benching import contest, lineup
from kvgen.benching.peers import flashinfer
from kvgen.benching.peers.peer import Peer, Problem
from kvgen.checking.samples import draw
from kvgen.timing import clock, errors, steps

SIZES = {
    "gated_deltanet": {"H": 2, "HV": 4},
    "kimi_delta_attention": {"H": 2, "HV": 2},
    "kimi_delta_attention_bounded": {"H": 2, "HV": 2},
    "mamba2": {"H": 2, "HV": 4, "K": 64, "V": 16},
}
BOUND = 2e-2
CASES = [(peer, state) for peer in flashinfer.PEERS for state in peer.states]


def heads(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return x.float().repeat_interleave(like.shape[1] // x.shape[1], 1)


def delta(
    pool: torch.Tensor,
    slots: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    log_decay: torch.Tensor,
    b: torch.Tensor,
) -> torch.Tensor:
    """A token of rows [B, heads, channels] on a pool [slots, HV, V, K]."""
    q, k = (heads(normalize(x.float(), dim=-1), v) for x in (q, k))
    state = pool[slots].float() * log_decay.exp()[:, :, None]
    d = b.float().sigmoid()[..., None] * (v.float() - (state * k[:, :, None]).sum(-1))
    state = state + d[..., None] * k[:, :, None]
    pool[slots] = state.to(pool.dtype)
    return (state * q[:, :, None]).sum(-1) * q.shape[-1] ** -0.5


def pretranspose(
    q, k, v, state, A_log, a, dt_bias, b,
    output=None, use_qk_l2norm=True, initial_state=None, initial_state_indices=None,
):  # fmt: skip
    rows, tokens, _, channels = q.shape
    assert state is None and use_qk_l2norm and tokens == 1 and channels == 128
    assert A_log.dtype == dt_bias.dtype == torch.float32 and a.shape == b.shape == (rows, 1, 4)
    assert initial_state.is_contiguous() and initial_state.shape[1:] == (4, 128, 128)
    assert initial_state_indices.dtype == torch.int32 and output.shape == v.shape
    log_decay = -A_log.exp() * softplus(a[:, 0].float() + dt_bias)
    o = delta(
        initial_state, initial_state_indices.long(), q[:, 0], k[:, 0], v[:, 0],
        log_decay[..., None], b[:, 0],
    )  # fmt: skip
    output.copy_(o[:, None])
    return output, initial_state


def rows_decode(q, k, v, state, A_log, a, dt_bias, b, output=None, use_qk_l2norm=True):
    assert state.dtype == torch.float32 and state.shape == (q.shape[0], 4, 128, 128)
    pool = state.transpose(2, 3).contiguous()
    slots = torch.arange(len(pool), dtype=torch.int32)
    pretranspose(
        q, k, v, None, A_log, a, dt_bias, b, output, use_qk_l2norm, pool, slots
    )  # fmt: skip
    state.copy_(pool.transpose(2, 3))
    return output, state


def recurrent_kda(
    q, k, v, g, beta, A_log=None, dt_bias=None, initial_state=None,
    use_gate_in_kernel=False, lower_bound=None, cu_seqlens=None, ssm_state_indices=None,
    output=None, beta_is_logit=False,
):  # fmt: skip
    one, rows, count, channels = q.shape
    assert one == 1 and use_gate_in_kernel and beta_is_logit
    assert all(x.is_contiguous() and x.dtype == torch.bfloat16 for x in (q, k, v, g, beta, output))
    assert cu_seqlens.tolist() == list(range(rows + 1)) and cu_seqlens.dtype == torch.int32
    assert initial_state.dtype == torch.bfloat16 and ssm_state_indices.dtype == torch.int32
    # per key head
    assert A_log.shape == (count,) and dt_bias.shape == (count * channels,)
    x = g[0].float() + dt_bias.view(count, channels)
    rate = A_log.exp()[:, None]
    log_decay = -rate * softplus(x) if lower_bound is None else lower_bound * (rate * x).sigmoid()
    o = delta(initial_state, ssm_state_indices.long(), q[0], k[0], v[0], log_decay, beta[0])
    output.copy_(o[None])
    return output, None


def selective_state_update(
    state, x, dt, A, B, C, D, z=None, dt_bias=None, dt_softplus=False,
    state_batch_indices=None, pad_slot_id=-1, out=None,
):  # fmt: skip
    assert A.stride() == (1, 0, 0) and D.stride() == dt_bias.stride() == (1, 0)
    assert dt.stride()[1:] == (1, 0) and dt.shape == x.shape and A.shape == state.shape[1:]
    # of one dtype each: weights, inputs
    assert A.dtype == dt.dtype == D.dtype == dt_bias.dtype == torch.float32 and dt_softplus
    assert x.dtype == B.dtype == C.dtype == out.dtype and out.is_contiguous()
    slots = state_batch_indices.long()
    dt = softplus(dt + dt_bias)
    b, c = heads(B, x), heads(C, x)
    new = state[slots].float() * (A * dt[..., None]).exp()
    new = new + (dt * x.float())[..., None] * b[:, :, None]
    state[slots] = new.to(state.dtype)
    out.copy_((new * c[:, :, None]).sum(-1) + D * x.float())
    return out


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, dict[str, Any]] = {
        "flashinfer": {},
        "flashinfer.gdn_decode": {
            "gated_delta_rule_decode_pretranspose": pretranspose,
            "gated_delta_rule_decode": rows_decode,
        },
        "flashinfer.kda": {"recurrent_kda": recurrent_kda},
        "flashinfer.mamba": {"selective_state_update": selective_state_update},
    }
    for name, functions in found.items():
        module = ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(steps, "DEVICE", "cpu")
    monkeypatch.setattr(clock, "captured", lambda run: nullcontext(run()))


def named(value: Peer | str) -> str:
    return value if isinstance(value, str) else f"{value.kernel} {value.family}"


@pytest.mark.parametrize(("peer", "state"), CASES, ids=named)
def test_its_functions_are_called_as_they_ask(peer: Peer, state: str) -> None:
    sizes = SIZES[peer.family]
    analysis = analysed(peer.family, f"state={state}", **sizes, **full(peer))
    module = made(peer.family, f"state={state}", **sizes, **full(peer)).module
    found = lineup.tried(peer, analysis, errors.exact(analysis, module, 10), state)
    assert isinstance(found, lineup.Entrant), found
    assert found.error < BOUND


@pytest.mark.parametrize(("peer", "state"), CASES, ids=named)
def test_they_step_through_layers(peer: Peer, state: str) -> None:
    """As they are timed: every output is written, every layer's states change."""
    analysis = analysed(peer.family, f"state={state}", **SIZES[peer.family], **full(peer))
    spec = analysis.spec
    drawn = [draw(spec, 3, dtype=torch.bfloat16, device="cpu", seed=n) for n in range(2)]
    inputs = [{tensor.name: each[tensor.name] for tensor in spec.inputs} for each in drawn]
    params = [{tensor.name: each[tensor.name] for tensor in spec.params} for each in drawn]
    slots = torch.tensor([2, 0, 1], dtype=torch.int32)
    problem = Problem(dict(spec.sizes), state, slots, inputs, params)
    found = contest.theirs(analysis, problem, lineup.Entrant(peer, 0.0))
    [layout] = problem._states
    before = [states.clone() for states in problem.states(layout)]
    found.cycle.run()
    found.check()
    assert not any(map(torch.equal, before, problem.states(layout)))


def full(peer: Peer) -> dict[str, int]:
    """The channels that its kernels are for."""
    return {} if peer.family == "mamba2" else {"K": 128, "V": 128}


def test_sizes_that_it_does_not_take() -> None:
    by_kernel = {peer.kernel: peer for peer in flashinfer.PEERS}
    square = {"H": 2, "HV": 4, "K": 128, "V": 128}
    assert by_kernel["gated_delta_rule_decode"].unfit({**square, "V": 64})
    assert by_kernel["recurrent_kda"].unfit(square)
    assert not by_kernel["recurrent_kda"].unfit({**square, "H": 4})
    assert by_kernel["selective_state_update"].unfit({**square, "K": 100})
