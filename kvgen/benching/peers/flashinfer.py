"""FlashInfer's decode kernel of Gated DeltaNet, with float32 and with bfloat16 states."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from kvgen.benching.peers.peer import Peer, Problem, Started

LIBRARY = "flashinfer"
PACKAGE = "flashinfer-python"


def gated_delta_rule(problem: Problem) -> Started:
    from flashinfer.gdn_decode import gated_delta_rule_decode_pretranspose

    states, out = problem.states("vk"), problem.outputs()
    slots = problem.slots

    def call(layer: int) -> torch.Tensor:
        inputs, params = problem.inputs[layer], problem.params[layer]
        named: dict[str, Any] = {name: inputs[name].unsqueeze(1) for name in ("q", "k", "v")}
        gated_delta_rule_decode_pretranspose(
            **named,
            state=None,
            A_log=params["A_log"],
            a=inputs["a"].unsqueeze(1),
            dt_bias=params["dt_bias"],
            b=inputs["b"].unsqueeze(1),
            output=out[layer],
            use_qk_l2norm=True,
            initial_state=states[layer],
            initial_state_indices=slots,
        )
        return out[layer]

    return Started(call)


def unfit(sizes: Mapping[str, int]) -> str:
    return "" if sizes["K"] == sizes["V"] == 128 else "it takes K = V = 128 only"


PEERS = (
    Peer(
        LIBRARY,
        "gated_delta_rule_decode_pretranspose",
        "gated_deltanet",
        gated_delta_rule,
        states=("float32", "bfloat16"),
        unfit=unfit,
    ),
)
