"""Gated DeltaNet of OLMo-Hybrid."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.mamba.gdn.olmo_gdn_linear_attn import (
    OlmoHybridGatedDeltaNetAttention,
    fused_olmo_hybrid_gdn_gating,
)
from vllm.third_party.flash_linear_attention.ops import chunk_gated_delta_rule

from kvgen.integrations.vllm.delta import DeltaLayer, Gates


class BufferedOlmoHybridGatedDeltaNet(DeltaLayer, OlmoHybridGatedDeltaNetAttention):
    """Decodes with `olmo_hybrid`, whose betas go to 2, or with `gated_deltanet`, or with the
    convolutions of either, too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sizes = {
            "H": self.num_k_heads,
            "HV": self.num_v_heads,
            "K": self.head_k_dim,
            "V": self.head_v_dim,
        }
        name = "olmo_hybrid" if self.allow_neg_eigval else "gated_deltanet"
        self.serve(name, layout="vk", convolved=f"{name}_conv")

    def _forward_core(
        self, mixed_qkv: torch.Tensor, b: torch.Tensor, a: torch.Tensor, core_attn_out: torch.Tensor
    ) -> None:
        """The layer between its projections, of all rows of a step. core_attn_out: filled."""
        step = self.metadata()
        if step is not None:
            self.run(step, mixed_qkv, {"a": a, "b": b}, core_attn_out)

    def chunk(
        self, step: Any, mixed: torch.Tensor, gates: Gates, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = self.rearrange_mixed_qkv(mixed)
        g, beta = fused_olmo_hybrid_gdn_gating(
            self.A_log, gates["a"].contiguous(), gates["b"].contiguous(), self.dt_bias,
            self.allow_neg_eigval,
        )  # fmt: skip
        out, state = chunk_gated_delta_rule(
            q=q, k=k, v=v, g=g, beta=beta, initial_state=state, output_final_state=True,
            cu_seqlens=step.prefill_query_start_loc, use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
        return out.squeeze(0), state
