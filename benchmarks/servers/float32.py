"""A model in float32: vLLM's prompt kernel of linear attention takes none, its own kernel for
single tokens does, and products must not be rounded to tf32. And one in which a row's bits do not
depend on the rows beside it, as far as vLLM sees to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from kvgen.runtime.numbers import power_of_two

if TYPE_CHECKING:
    import torch


def prepare(invariant: bool = False) -> dict[str, Any]:
    """Let prompts go token by token; what `engine.start` is given. Before vLLM and triton are
    imported. invariant: have vLLM and kvgen compute a row's bits so that they do not depend on the
    rows beside it."""
    os.environ["TRITON_F32_DEFAULT"] = "ieee"
    import torch

    chosen = {"dtype": "float32", "invariant": invariant}
    if not torch.cuda.is_available():
        return chosen
    if invariant:
        lift_refusal()
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
    return {**chosen, "attention_config": {"backend": "TRITON_ATTN"}}


def lift_refusal() -> None:
    """vLLM's batch-invariant mode, which it refuses models with linear attention, as nobody has
    looked at those kernels: here prompts go token by token, and single tokens through kvgen's. Its
    products for it are made for tensor cores, and slow in float32."""
    os.environ["VLLM_BATCH_INVARIANT"] = "1"
    from vllm.model_executor.layers import linear, vocab_parallel_embedding
    from vllm.v1.attention.backends.gdn_attn import GDNAttentionBackend

    GDNAttentionBackend.supports_batch_invariance = classmethod(lambda own: True)
    linear.linear_batch_invariant = product
    vocab_parallel_embedding.linear_batch_invariant = product


def product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x weight^T. In float64 the order of a sum is lost in what float32 rounds away."""
    import torch

    out = torch.nn.functional.linear(x.double(), weight.double())
    return (out if bias is None else out + bias).to(x.dtype)


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
