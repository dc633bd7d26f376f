"""Kimi delta attention of Kimi-Linear."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm.compilation.breakable_cudagraph import eager_break_during_capture
from vllm.model_executor.layers.mamba.gdn.kimi_gdn_linear_attn import KimiGatedDeltaNetAttention
from vllm.models.kimi_k3.nvidia.ops.third_party.kda import chunk_kda_with_fused_gate

from kvgen.integrations.vllm.delta import DeltaLayer, Gates
from kvgen.integrations.vllm.settings import Settings

# the bound of a gate's logarithm that there is a spec for
BOUND = -5.0


class BufferedKimiDeltaAttention(DeltaLayer, KimiGatedDeltaNetAttention):
    """Decodes with `kimi_delta_attention`, or with its convolutions, too, or with the one whose
    gates are bounded."""

    @staticmethod
    def unserved(wanted: Settings, *args: Any, **options: Any) -> str | None:
        config = options["config"] if "config" in options else args[0]
        bound = config.linear_attn_config.get("gate_lower_bound")
        if bound not in (None, BOUND):
            return f"its gate_lower_bound is {bound}, expected none or {BOUND}"
        return None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # its convolution is so, whatever the model's own activation is
        self.activation = "silu"
        heads, channels = self.num_heads, self.head_dim
        self.sizes = {"H": heads, "HV": heads, "K": channels, "V": channels}
        if self.gate_lower_bound is not None:
            self.serve("kimi_delta_attention_bounded", layout="vk")
            return
        self.serve("kimi_delta_attention", layout="vk", convolved="kimi_delta_attention_conv")

    @eager_break_during_capture
    def _forward(
        self,
        mixed_qkv: torch.Tensor,
        g1: torch.Tensor,
        g2: torch.Tensor,
        beta: torch.Tensor,
        core_attn_out: torch.Tensor,
    ) -> None:
        """The layer between its projections, output norm included. core_attn_out: filled."""
        step = self.metadata()
        if step is None:
            return
        if not self.served.convolves:
            # the gates lie beside q, k and v, which the convolution overwrites
            mixed_qkv = mixed_qkv.contiguous()
        self.run(step, mixed_qkv, {"f": g1[0], "b": beta[0]}, core_attn_out[0])
        core_attn_out.copy_(self.o_norm(core_attn_out, g2))

    def chunk(
        self, step: Any, mixed: torch.Tensor, gates: Gates, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = self.rearrange_mixed_qkv(mixed)
        out, state = chunk_kda_with_fused_gate(
            q=q, k=k, v=v, raw_g=gates["f"][None], raw_beta=gates["b"][None], A_log=self.A_log,
            g_bias=self.dt_bias, lower_bound=self.gate_lower_bound, initial_state=state,
            output_final_state=True, use_qk_l2norm_in_kernel=True,
            cu_seqlens=step.prefill_query_start_loc,
        )  # fmt: skip
        return out.squeeze(0), state

    def weights(self) -> dict[str, torch.Tensor]:
        return {"A_log": self.A_log, "dt_bias": self.dt_bias.unflatten(0, (-1, self.head_dim))}
