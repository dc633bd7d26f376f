"""A model in float32: vLLM's prompt kernel of linear attention takes none, its own kernel for
single tokens does, and products must not be rounded to tf32."""

from __future__ import annotations

import os
from typing import Any

from kvgen.runtime.numbers import power_of_two


def prepare() -> dict[str, Any]:
    """Let prompts go token by token; what LLM is given. Before vLLM and triton are imported."""
    os.environ["TRITON_F32_DEFAULT"] = "ieee"
    import torch

    if not torch.cuda.is_available():
        return {"dtype": "float32"}
    from vllm.model_executor.layers.mamba.gdn import qwen_gdn_linear_attn as layers

    stock = layers.ChunkGatedDeltaRule.forward_native

    def forward(
        self: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        g: torch.Tensor,
        beta: torch.Tensor,
        initial_state: torch.Tensor,
        *args: Any,
        **rest: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if q.dtype != torch.float32:
            return stock(self, q, k, v, g, beta, initial_state, *args, **rest)
        return token_by_token(q, k, v, g, beta, initial_state, rest["cu_seqlens"])

    layers.ChunkGatedDeltaRule.forward_native = forward
    return {"dtype": "float32", "attention_config": {"backend": "TRITON_ATTN"}}


def token_by_token(
    q: Any, k: Any, v: Any, g: Any, beta: Any, states: Any, starts: Any
) -> tuple[Any, Any]:
    """Packed prompts [1, tokens, …] from states [n, HV, V, K]: outputs, and the states after."""
    import torch
    from vllm.third_party.flash_linear_attention.ops import fused_recurrent

    count = states.shape[0]
    # the kernel leaves state 0 alone, and looks up where to write after each token; it is compiled
    # anew for every length of this, so there are few
    own = torch.arange(1, count + 1, dtype=torch.int32, device=q.device)
    where = own[:, None].expand(count, power_of_two(q.shape[1])).contiguous()
    held = torch.cat((torch.zeros_like(states[:1]), states)).float()
    out, held = fused_recurrent.fused_recurrent_gated_delta_rule(
        q.contiguous(), k.contiguous(), v.contiguous(), g.contiguous(), beta.contiguous(),
        initial_state=held, inplace_final_state=True, cu_seqlens=starts, ssm_state_indices=where,
    )  # fmt: skip
    return out, held[1:]
