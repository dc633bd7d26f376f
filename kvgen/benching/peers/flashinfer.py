"""FlashInfer's decode kernels: Gated DeltaNet and KDA in CuTe DSL, Mamba-2 in CUDA."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kvgen.benching.peers.peer import Peer, Problem, Started
from kvgen.formats.dtypes import BFLOAT16, FLOAT32

LIBRARY = "flashinfer"
PACKAGE = "flashinfer-python"

# Gated DeltaNet -----------------------------------------------------------------------------------


def gated_delta_arguments(problem: Problem, layer: int) -> dict[str, Any]:
    """What its kernels of either layout take alike, with an axis of one token behind the rows."""
    inputs, params = problem.inputs[layer], problem.params[layer]
    named = {name: inputs[name].unsqueeze(1) for name in ("q", "k", "v", "a", "b")}
    return {**named, "A_log": params["A_log"], "dt_bias": params["dt_bias"], "use_qk_l2norm": True}


def gated_delta_rule(problem: Problem) -> Started:
    from flashinfer.gdn_decode import gated_delta_rule_decode_pretranspose

    states, out = problem.states("vk"), problem.outputs()
    slots = problem.slots
    given = [gated_delta_arguments(problem, layer) for layer in range(problem.layers)]

    def call(layer: int) -> torch.Tensor:
        gated_delta_rule_decode_pretranspose(
            **given[layer],
            state=None,
            output=out[layer],
            initial_state=states[layer],
            initial_state_indices=slots,
        )
        return out[layer]

    return Started(call)


def gated_delta_rule_rows(problem: Problem) -> Started:
    from flashinfer.gdn_decode import gated_delta_rule_decode

    states, out = problem.states("kv"), problem.outputs()
    given = [gated_delta_arguments(problem, layer) for layer in range(problem.layers)]

    def call(layer: int) -> torch.Tensor:
        gated_delta_rule_decode(**given[layer], state=states[layer], output=out[layer])
        return out[layer]

    return Started(call)


def gated_delta_unfit(sizes: Mapping[str, int]) -> str:
    return "" if sizes["K"] == sizes["V"] == 128 else "it takes K = V = 128 only"


# KDA ----------------------------------------------------------------------------------------------


def kda(problem: Problem, lower_bound: float | None = None) -> Started:
    from flashinfer.kda import recurrent_kda

    states, out, slots = problem.states("vk"), problem.outputs(), problem.slots
    biases = [params["dt_bias"].flatten() for params in problem.params]
    # rows side by side, each a sequence of one token: with an axis of rows it copies the states
    starts = torch.arange(problem.rows + 1, dtype=torch.int32, device=slots.device)
    theirs = {"q": "q", "k": "k", "v": "v", "g": "f", "beta": "b"}

    def call(layer: int) -> torch.Tensor:
        inputs = problem.inputs[layer]
        named: dict[str, Any] = {name: inputs[ours][None] for name, ours in theirs.items()}
        recurrent_kda(
            **named,
            A_log=problem.params[layer]["A_log"],
            dt_bias=biases[layer],
            initial_state=states[layer],
            use_gate_in_kernel=True,
            lower_bound=lower_bound,
            cu_seqlens=starts,
            ssm_state_indices=slots,
            output=out[layer].view(1, problem.rows, *out[layer].shape[2:]),
            beta_is_logit=True,
        )
        return out[layer]

    return Started(call)


def bounded_kda(problem: Problem) -> Started:
    return kda(problem, lower_bound=-5.0)


def kda_unfit(sizes: Mapping[str, int]) -> str:
    square = sizes["K"] == sizes["V"] and sizes["K"] in (64, 128)
    same = sizes["H"] == sizes["HV"]
    return "" if square and same else "it takes K = V = 64 or 128, and gates of key heads"


# Mamba-2 ------------------------------------------------------------------------------------------


def mamba2(problem: Problem) -> Started:
    from flashinfer.mamba import selective_state_update

    sizes, states, out = problem.sizes, problem.states("vk"), problem.outputs()
    heads, channels = sizes["HV"], sizes["V"]

    def prepared(layer: int) -> dict[str, torch.Tensor]:
        """Of each channel by a stride of 0, as it demands; dt, its bias and D in one dtype."""
        params = problem.params[layer]
        return {
            "dt": problem.inputs[layer]["dt"].float()[..., None].expand(-1, -1, channels),
            "A": (-params["A_log"].exp())[:, None, None].expand(heads, channels, sizes["K"]),
            "D": params["D"][:, None].expand(heads, channels),
            "dt_bias": params["dt_bias"][:, None].expand(heads, channels),
        }

    given = [prepared(layer) for layer in range(problem.layers)]

    def call(layer: int) -> torch.Tensor:
        inputs = problem.inputs[layer]
        selective_state_update(
            states[layer],
            inputs["x"],
            B=inputs["B"],
            C=inputs["C"],
            **given[layer],
            dt_softplus=True,
            state_batch_indices=problem.slots,
            out=out[layer][:, 0],
        )
        return out[layer]

    return Started(call)


def mamba2_unfit(sizes: Mapping[str, int]) -> str:
    return "" if sizes["K"] in (64, 128, 256) else "it takes K = 64, 128 or 256"


PEERS = (
    Peer(
        LIBRARY,
        "gated_delta_rule_decode_pretranspose",
        "gated_deltanet",
        gated_delta_rule,
        states=(FLOAT32.name, BFLOAT16.name),
        unfit=gated_delta_unfit,
    ),
    Peer(
        LIBRARY,
        "gated_delta_rule_decode",
        "gated_deltanet",
        gated_delta_rule_rows,
        states=(FLOAT32.name,),
        unfit=gated_delta_unfit,
        # in a layout of its own
        copies=1,
        note="it has no slots",
    ),
    *(
        Peer(LIBRARY, "recurrent_kda", family, start, states=(BFLOAT16.name,), unfit=kda_unfit)
        for family, start in (
            ("kimi_delta_attention", kda),
            ("kimi_delta_attention_bounded", bounded_kda),
        )
    ),
    Peer(
        LIBRARY,
        "selective_state_update",
        "mamba2",
        mamba2,
        unfit=mamba2_unfit,
        note="dt is converted to float32 before and not timed",
    ),
)
