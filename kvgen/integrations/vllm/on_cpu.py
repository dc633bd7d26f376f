"""The same on a CPU: vLLM's own convolutions and prompts, with one layout of what they keep."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import vllm._custom_ops as ops
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
from vllm.model_executor.layers.mamba.ops.cpu import gdn_attention as own
from vllm.model_executor.layers.mamba.ops.cpu.causal_conv1d import (
    causal_conv1d_fn_cpu,
    causal_conv1d_update_cpu,
)

# the one that vLLM's own kernels have beside none
ACTIVATION = "silu"


def state_of(layer: Any) -> torch.Tensor:
    """The convolution's state, [blocks, channels, tokens]; with drafts there are more tokens than
    the kernel needs."""
    kept = layer.kv_cache[0]
    return kept if is_conv_state_dim_first() else kept.transpose(-1, -2)


def weight_of(layer: Any) -> torch.Tensor:
    """The convolution's, [channels, tokens], oldest first."""
    return own._unpacked_conv_weight(layer)


def native(layer: Any) -> bool:
    """Whether vLLM convolves here with its own kernels, for which weights are packed."""
    if own.is_arm_bf16():
        return True
    if layer.num_spec:
        return torch.cpu._is_amx_tile_supported()
    return torch.cpu._is_avx512_bf16_supported()


def convolve(layer: Any, step: Any, mixed: torch.Tensor) -> torch.Tensor:
    """One token of each row. mixed: [rows, channels]."""
    blocks = step.non_spec_state_indices_tensor[: mixed.shape[0]].contiguous()
    if native(layer):
        return own._causal_conv1d_update_cpu(
            x=mixed.contiguous(), conv_states=state_of(layer), weight=layer.conv1d.weight,
            bias=layer.conv1d.bias, silu_activation=layer.activation == ACTIVATION,
            conv_state_indices=blocks, is_weight_packed=True,
        )  # fmt: skip
    weight = weight_of(layer)
    return causal_conv1d_update_cpu(
        x=mixed.contiguous(), conv_state=state_of(layer)[:, :, : weight.shape[1] - 1],
        weight=weight, bias=layer.conv1d.bias, activation=layer.activation,
        conv_state_indices=blocks,
    )  # fmt: skip


def convolve_prompts(layer: Any, step: Any, mixed: torch.Tensor) -> torch.Tensor:
    """All rows of a step with prompts. mixed: [tokens, channels]."""
    rows = step.has_initial_state.shape[0]
    shared = {
        "x": mixed.contiguous().transpose(0, 1),
        "bias": layer.conv1d.bias,
        "conv_states": state_of(layer),
        "query_start_loc": step.non_spec_query_start_loc[: rows + 1],
        "cache_indices": step.non_spec_state_indices_tensor[:rows].contiguous(),
        "has_initial_state": step.has_initial_state,
    }
    if native(layer):
        found = own._causal_conv1d_fwd_cpu(
            weight=layer.conv1d.weight, silu_activation=layer.activation == ACTIVATION,
            is_weight_packed=True, **shared,
        )  # fmt: skip
    else:
        weight = weight_of(layer)
        found = causal_conv1d_fn_cpu(weight=weight, activation=layer.activation, **shared)
    return found.transpose(0, 1)


def convolve_drafts(layer: Any, step: Any, mixed: torch.Tensor, most: int) -> torch.Tensor:
    """Windows of at most so many tokens, behind what was kept of the last ones: a row finds its
    past from as many tokens on as were kept, but one, as on a GPU."""
    weight = weight_of(layer)
    past, out = weight.shape[1] - 1, torch.empty_like(mixed)
    starts = step.spec_query_start_loc.tolist()
    blocks = step.spec_state_indices_tensor[:, 0].tolist()
    accepted = step.num_accepted_tokens.tolist()
    for row in range(step.num_spec_decodes):
        first, end = starts[row : row + 2]
        kept = state_of(layer)[blocks[row]]
        before = kept[:, accepted[row] - 1 : accepted[row] - 1 + past]
        along = torch.cat([before, mixed[first:end].T.to(kept.dtype)], dim=1)
        found = F.conv1d(along[None], weight[:, None], layer.conv1d.bias, groups=along.shape[0])[0]
        out[first:end] = F.silu(found).T if layer.activation == ACTIVATION else found.T
        kept[:, : along.shape[1] - 1] = along[:, 1:]
    return out


def chunk(
    layer: Any,
    step: Any,
    mixed: torch.Tensor,
    b: torch.Tensor,
    a: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts on top of the states of their rows → [tokens, HV, V] and the states after them."""
    q, k, v = layer.rearrange_mixed_qkv(mixed)
    g, beta = ops.fused_gdn_gating_cpu(
        A_log=layer.A_log, a=a.contiguous(), b=b.contiguous(), dt_bias=layer.dt_bias
    )
    state = state.contiguous()
    # in place
    out, _ = ops.chunk_gated_delta_rule_cpu(
        query=q, key=k, value=v, g=g, beta=beta, initial_state=state, output_final_state=True,
        cu_seqlens=step.prefill_query_start_loc, head_first=False, use_qk_l2norm_in_kernel=True,
        initial_state_indices=torch.arange(state.shape[0], dtype=torch.int32),
    )  # fmt: skip
    return out.squeeze(0), state


def warm(layer: Any, mixed: torch.Tensor) -> None:
    """Nothing is compiled."""
