"""Gated DeltaNet of Qwen3-Next and Qwen3.5, one class of vLLM's."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.platforms import current_platform

from kvgen.integrations.vllm.delta import DeltaLayer, Gates, own


class BufferedQwenGatedDeltaNet(DeltaLayer, QwenGatedDeltaNetAttention):
    """Decodes with `gated_deltanet`, or with its convolutions, too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sizes = {
            "H": self.num_k_heads,
            "HV": self.num_v_heads,
            "K": self.head_k_dim,
            "V": self.head_v_dim,
        }
        self.serve("gated_deltanet", convolved="gated_deltanet_conv")
        # it takes the state out of our hands, and the output's norm with it
        self.enable_fused_gdn_spec_decode = False
        if current_platform.is_cpu():
            # the same projections, around a core that is a method
            self._forward_method = self.forward_cuda

    def _forward_core(
        self, mixed_qkv: torch.Tensor, b: torch.Tensor, a: torch.Tensor, core_attn_out: torch.Tensor
    ) -> None:
        """The layer between its projections, of all rows of a step. core_attn_out: filled."""
        step = self.metadata()
        if step is None:
            own.warm(self, mixed_qkv)
        else:
            self.run(step, mixed_qkv, {"a": a, "b": b}, core_attn_out)

    def chunk(
        self, step: Any, mixed: torch.Tensor, gates: Gates, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return own.chunk(self, step, mixed, gates["b"], gates["a"], state)
