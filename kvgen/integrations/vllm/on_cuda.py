"""What stays vLLM's own in a layer of Gated DeltaNet on a GPU: convolutions and prompts."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
from vllm.model_executor.layers.mamba.ops.causal_conv1d import (
    causal_conv1d_fn,
    causal_conv1d_update,
)
from vllm.third_party.flash_linear_attention.ops import fused_post_conv_prep


def state_of(layer: Any) -> torch.Tensor:
    """The convolution's state, [blocks, channels, tokens]."""
    kept = layer.kv_cache[0]
    return kept if is_conv_state_dim_first() else kept.transpose(-1, -2)


def weight_of(layer: Any) -> torch.Tensor:
    """The convolution's, [channels, tokens], oldest first."""
    return layer.conv1d.weight.flatten(1)


def convolve(layer: Any, step: Any, mixed: torch.Tensor) -> torch.Tensor:
    """One token of each row. mixed: [rows, channels]."""
    return causal_conv1d_update(
        mixed, state_of(layer), weight_of(layer), layer.conv1d.bias, layer.activation,
        conv_state_indices=step.non_spec_state_indices_tensor[: mixed.shape[0]],
        validate_data=False,
    )  # fmt: skip


def convolve_prompts(layer: Any, step: Any, mixed: torch.Tensor) -> torch.Tensor:
    """All rows of a step with prompts. mixed: [tokens, channels]."""
    found = causal_conv1d_fn(
        mixed.transpose(0, 1), weight_of(layer), layer.conv1d.bias, activation=layer.activation,
        conv_states=state_of(layer), has_initial_state=step.has_initial_state,
        cache_indices=step.non_spec_state_indices_tensor,
        query_start_loc=step.non_spec_query_start_loc, metadata=step,
    )  # fmt: skip
    return found.transpose(0, 1)


def convolve_drafts(layer: Any, step: Any, mixed: torch.Tensor, most: int) -> torch.Tensor:
    """Windows of at most so many tokens, behind what was kept of the last ones."""
    rows = step.num_spec_decodes
    return causal_conv1d_update(
        mixed, state_of(layer), weight_of(layer), layer.conv1d.bias, layer.activation,
        conv_state_indices=step.spec_state_indices_tensor[:rows, 0],
        num_accepted_tokens=step.num_accepted_tokens[:rows],
        query_start_loc=step.spec_query_start_loc[: rows + 1], max_query_len=most,
        validate_data=False,
    )  # fmt: skip


def chunk(
    layer: Any,
    step: Any,
    mixed: torch.Tensor,
    b: torch.Tensor,
    a: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts on top of the states of their rows → [tokens, HV, V] and the states after them."""
    q, k, v, g, beta = fused_post_conv_prep(
        conv_output=mixed, a=a, b=b, A_log=layer.A_log, dt_bias=layer.dt_bias,
        num_k_heads=layer.num_k_heads // layer.tp_size, head_k_dim=layer.head_k_dim,
        head_v_dim=layer.head_v_dim, apply_l2norm=True, output_g_exp=False,
    )  # fmt: skip
    out, state = layer.chunk_gated_delta_rule(
        q=q.unsqueeze(0), k=k.unsqueeze(0), v=v.unsqueeze(0), g=g.unsqueeze(0),
        beta=beta.unsqueeze(0), initial_state=state, output_final_state=True,
        cu_seqlens=step.prefill_query_start_loc, chunk_indices=step.chunk_indices,
        chunk_offsets=step.chunk_offsets, use_qk_l2norm_in_kernel=False,
    )  # fmt: skip
    return out.squeeze(0), state


def warm(layer: Any, mixed: torch.Tensor) -> None:
    """vLLM's own kernels of prompts, while there is memory for it to choose among them."""
    layer._warmup_prefill_kernels(mixed, 0)
