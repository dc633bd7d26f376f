"""Gated DeltaNet of Qwen3-Next and Qwen3.5, one class of vLLM's."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import QwenGatedDeltaNetAttention
from vllm.platforms import current_platform

from kvgen.integrations.vllm import windows
from kvgen.integrations.vllm.layer import Buffered


class BufferedGatedDeltaNet(Buffered, QwenGatedDeltaNetAttention):
    """Convolutions and prompts are vLLM's own; single tokens and drafts are the module's."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        config = options["vllm_config"] if "vllm_config" in options else args[1]
        sizes = {
            "H": self.num_k_heads,
            "HV": self.num_v_heads,
            "K": self.head_k_dim,
            "V": self.head_v_dim,
        }
        self.serve("gated_deltanet", sizes, config)
        # these take the state out of our hands, and the output's norm with it
        self.enable_fused_gdn_spec_decode = False
        if current_platform.is_cpu():
            from kvgen.integrations.vllm import on_cpu as own

            self._forward_method = self.forward_cuda
        else:
            from kvgen.integrations.vllm import on_cuda as own
        self.own = own

    def _forward_core(
        self, mixed_qkv: torch.Tensor, b: torch.Tensor, a: torch.Tensor, core_attn_out: torch.Tensor
    ) -> None:
        """The layer between its projections, of all rows of a step. core_attn_out: filled."""
        step = self.metadata()
        if step is None:
            self.own.warm(self, mixed_qkv)
            return
        tokens = step.num_actual_tokens
        if not tokens:
            return
        mixed, b, a, out = mixed_qkv[:tokens], b[:tokens], a[:tokens], core_attn_out[:tokens]
        group = self.group
        assert group is not None
        if self.place == 0:
            group.begin(**rows_of(step, self.num_spec))
        if step.spec_sequence_masks is None:
            self.forward_rows(step, mixed, b, a, out)
        elif step.num_prefills == 0:
            out.copy_(self.forward_drafts(step, mixed, b, a))
        else:
            drafts, others = step.spec_token_indx, step.non_spec_token_indx
            out.index_copy_(
                0, drafts, self.forward_drafts(step, mixed[drafts], b[drafts], a[drafts])
            )
            rest = torch.empty_like(out[: others.shape[0]])
            self.forward_rows(step, mixed[others], b[others], a[others], rest)
            out.index_copy_(0, others, rest)
        if self.place == group.size - 1:
            group.end()

    def forward_rows(
        self, step: Any, mixed: torch.Tensor, b: torch.Tensor, a: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Rows without drafts: those with one token first, then prompts."""
        assert self.group is not None
        single = step.num_decode_tokens if step.num_prefills else mixed.shape[0]
        if step.num_prefills:
            mixed = self.own.convolve_prompts(self, step, mixed)
        else:
            mixed = self.own.convolve(self, step, mixed)
        if single:
            given = self.inputs(mixed[:single], b[:single], a[:single])
            self.group.decode(self.place, given, out[:single])
        if step.num_prefills:
            slots = step.prefill_state_indices.long()
            planes = [self.held[name] for name in self.served.module.Cache.table.planes]
            kept = self.served.settings.format
            state = kept.joined([plane[slots] for plane in planes])
            # what a row that starts finds in its block is another request's
            state[~step.prefill_has_initial_state] = 0
            prompt, state = self.own.chunk(
                self, step, mixed[single:], b[single:], a[single:], state
            )
            out[single:] = prompt
            for plane, part in zip(planes, kept.parted(state), strict=True):
                plane[slots] = part

    def forward_drafts(
        self, step: Any, mixed: torch.Tensor, b: torch.Tensor, a: torch.Tensor
    ) -> torch.Tensor:
        """Rows that verify drafts, each with its last token in front → [tokens, HV, V]."""
        assert self.group is not None
        mixed = self.own.convolve_drafts(self, step, mixed, 1 + self.num_spec)
        window = windows.of(
            step.spec_query_start_loc[: step.num_spec_decodes + 1],
            step.uniform_spec_sequence_length,
            1 + self.num_spec,
            mixed.shape[0],
        )
        given = self.inputs(window.spread(mixed), window.spread(b), window.spread(a))
        return window.gathered(self.group.verify(self.place, given))

    def inputs(self, mixed: torch.Tensor, b: torch.Tensor, a: torch.Tensor) -> dict[str, Any]:
        """What the module takes. mixed: [..., channels of q, k and v]."""
        keys, values = self.key_dim // self.tp_size, self.value_dim // self.tp_size
        q, k, v = mixed.split([keys, keys, values], dim=-1)
        return {
            "q": q.unflatten(-1, (-1, self.head_k_dim)),
            "k": k.unflatten(-1, (-1, self.head_k_dim)),
            "v": v.unflatten(-1, (-1, self.head_v_dim)),
            "a": a,
            "b": b,
            "A_log": self.A_log,
            "dt_bias": self.dt_bias,
        }

    def given(self, rows: int, tokens: int) -> tuple[dict[str, Any], torch.Tensor]:
        """Inputs of no meaning, shaped as a step has them, and `out`."""
        front = (rows,) if tokens == 1 else (rows, tokens)
        like = {"dtype": self.conv1d.weight.dtype, "device": self.A_log.device}
        heads = self.num_v_heads // self.tp_size
        mixed = torch.zeros(*front, self.conv_dim // self.tp_size, **like)
        gates = torch.zeros(*front, heads, **like)
        return self.inputs(mixed, gates, gates), torch.zeros(*front, heads, self.head_v_dim, **like)


def rows_of(step: Any, drafts: int) -> dict[str, torch.Tensor]:
    """Which rows of a step are of which kind, by blocks' numbers, for `Group.begin`."""
    found: dict[str, torch.Tensor] = {}
    if step.spec_sequence_masks is not None:
        count = step.num_spec_decodes
        found["drafted"] = step.spec_state_indices_tensor[:count, 0]
        found["accepted"] = step.num_accepted_tokens[:count]
    else:
        blocks = step.non_spec_state_indices_tensor
        found["decoding"] = blocks[
            : step.num_decodes if step.num_prefills else step.num_actual_tokens
        ]
    if step.num_prefills:
        found["prompts"] = step.prefill_state_indices.clone()
        found["continued"] = step.prefill_has_initial_state
    return found
