"""flash-linear-attention's decode kernels (fla-core).

They have neither slots nor states in place: every call returns a new float32 state, which the
caller keeps. So do these, one for each layer, as a model must.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kvgen.benching.peers.peer import Peer, Problem, Started
from kvgen.formats.dtypes import FLOAT32

LIBRARY = "fla"
PACKAGE = "fla-core"

# of a layer: FLA's arguments, with an axis of one token behind the rows
Arguments = Callable[[Problem, int], dict[str, Any]]


def started(problem: Problem, function: Any, arguments: Arguments, layout: str) -> Started:
    """A call of `function` for every layer, from states in `layout`."""
    states = problem.states(layout)
    given = [arguments(problem, layer) for layer in range(problem.layers)]
    kept: dict[int, torch.Tensor] = {}

    def call(layer: int) -> torch.Tensor:
        o, kept[layer] = function(
            **given[layer], initial_state=states[layer], output_final_state=True
        )
        if problem.chained:
            states[layer].copy_(kept[layer])
        return o

    return Started(call)


def tokens(problem: Problem, layer: int, **names: str) -> dict[str, Any]:
    """Inputs [B, 1, *axes] under FLA's names."""
    inputs = problem.inputs[layer]
    return {theirs: inputs[ours].unsqueeze(1) for theirs, ours in names.items()}


def gates(problem: Problem, layer: int) -> dict[str, Any]:
    """Norms, decays and beta computed by the kernel, as ours do."""
    params = problem.params[layer]
    return {
        "A_log": params["A_log"],
        "dt_bias": params["dt_bias"].flatten(),
        "use_qk_l2norm_in_kernel": True,
        "use_gate_in_kernel": True,
        "use_beta_sigmoid_in_kernel": True,
        # the layout its own layers take
        "state_v_first": True,
    }


def gated_delta_rule(problem: Problem) -> Started:
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    def arguments(problem: Problem, layer: int) -> dict[str, Any]:
        named = tokens(problem, layer, q="q", k="k", v="v", g="a", beta="b")
        return {**named, **gates(problem, layer)}

    return started(problem, fused_recurrent_gated_delta_rule, arguments, "vk")


def kda(problem: Problem, lower_bound: float | None = None) -> Started:
    from fla.ops.kda import fused_recurrent_kda

    def arguments(problem: Problem, layer: int) -> dict[str, Any]:
        named = tokens(problem, layer, q="q", k="k", v="v", g="f", beta="b")
        return {**named, **gates(problem, layer), "lower_bound": lower_bound}

    return started(problem, fused_recurrent_kda, arguments, "vk")


def bounded_kda(problem: Problem) -> Started:
    return kda(problem, lower_bound=-5.0)


def lightning(problem: Problem) -> Started:
    # not fused_recurrent_lightning_attn: its slopes are another model's
    from fla.ops.simple_gla import fused_recurrent_simple_gla

    def arguments(problem: Problem, layer: int) -> dict[str, Any]:
        named = tokens(problem, layer, q="q", k="k", v="v")
        return {**named, "g_gamma": -problem.params[layer]["slope"], "scale": 1.0}

    return started(problem, fused_recurrent_simple_gla, arguments, "kv")


def rwkv7(problem: Problem) -> Started:
    from fla.ops.rwkv7 import fused_mul_recurrent_rwkv7

    def arguments(problem: Problem, layer: int) -> dict[str, Any]:
        inputs, params = problem.inputs[layer], problem.params[layer]
        k, a = inputs["k"].float(), inputs["a"].float().sigmoid()
        kk = k * params["k_k"]
        prepared = {
            "w": -0.6065306597126334 * inputs["w"].float().sigmoid(),
            "k": k * (1 + (a - 1) * params["k_a"]),
            "kk": torch.nn.functional.normalize(kk, dim=-1, eps=1e-12),
            "a": a,
        }
        return {
            **tokens(problem, layer, r="r", v="v"),
            **{name: value.unsqueeze(1) for name, value in prepared.items()},
        }

    return started(problem, fused_mul_recurrent_rwkv7, arguments, "kv")


def peer(kernel: str, family: str, start: Callable[[Problem], Started], note: str = "") -> Peer:
    # the call that compiles leaves states behind, and a graph has memory of its own
    return Peer(LIBRARY, kernel, family, start, states=(FLOAT32.name,), copies=2, note=note)


PEERS = (
    peer("fused_recurrent_gated_delta_rule", "gated_deltanet", gated_delta_rule),
    peer("fused_recurrent_kda", "kimi_delta_attention", kda),
    peer("fused_recurrent_kda", "kimi_delta_attention_bounded", bounded_kda),
    peer("fused_recurrent_simple_gla", "lightning_attention", lightning),
    peer(
        "fused_mul_recurrent_rwkv7",
        "rwkv7",
        rwkv7,
        note="its gates, norm and keys are computed before and not timed",
    ),
)
