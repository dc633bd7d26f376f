"""Mamba-2 of Nemotron-H, Bamba, Falcon-H1 and others, one class of vLLM's."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2
from vllm.model_executor.layers.mamba.mamba_utils import is_conv_state_dim_first
from vllm.model_executor.layers.mamba.ops.causal_conv1d import causal_conv1d_update

from kvgen.integrations.vllm import windows
from kvgen.integrations.vllm.layer import Buffered
from kvgen.integrations.vllm.settings import Settings


class BufferedMambaMixer2(Buffered, MambaMixer2):
    """Decodes with `mamba2`. vLLM describes and runs prompts apart from other rows."""

    @staticmethod
    def unserved(wanted: Settings, *args: Any, **options: Any) -> str | None:
        if wanted.format.partial:
            return f"vLLM's prompts write its state, which {wanted.state} keeps in two planes"
        return None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sizes = {
            "H": self.n_groups,
            "HV": self.num_heads,
            "K": self.ssm_state_size,
            "V": self.head_dim,
        }
        self.serve("mamba2", layout="vk")

    def conv_ssm_forward(self, projected_states: torch.Tensor, output: torch.Tensor) -> Any:
        """The layer between its projections, of all rows of a step. output: filled."""
        step = self.metadata()
        if step is None:
            return super().conv_ssm_forward(projected_states, output)
        single, total = step.num_decode_tokens, step.num_decode_tokens + step.num_prefill_tokens
        if not total:
            return None
        self.begin()
        if single:
            self.run_rows(step, projected_states[:single], output[:single])
        if step.num_prefills:
            self.run_prompts(step, projected_states[single:total], output[single:total])
        self.end()
        return None

    def run_prompts(self, step: Any, projected: torch.Tensor, output: torch.Tensor) -> None:
        """vLLM's own layer, as if there were nothing but prompts."""
        context = get_forward_context()
        whole = context.attn_metadata
        alone = replace(step, num_decodes=0, num_decode_tokens=0)
        context.attn_metadata = {self.prefix: alone}
        try:
            super().conv_ssm_forward(projected, output)
        finally:
            context.attn_metadata = whole

    def run_rows(self, step: Any, projected: torch.Tensor, output: torch.Tensor) -> None:
        """Rows that decode: of one token each, or, where there are drafts, of windows."""
        assert self.group is not None
        mixed, dt = projected[..., self.tped_intermediate_size :].split(
            [self.tped_conv_size, self.tped_dt_size], dim=-1
        )
        kept = self.kv_cache[0]
        rows = step.state_indices_tensor_d.shape[0]
        drafts: dict[str, Any] = {}
        if self.served.window:
            drafts = {
                "num_accepted_tokens": step.num_accepted_tokens,
                "query_start_loc": step.query_start_loc_d,
                "max_query_len": self.served.window,
            }
        mixed = causal_conv1d_update(
            mixed,
            kept if is_conv_state_dim_first() else kept.transpose(-1, -2),
            self.conv_weights,
            self.conv1d.bias,
            self.activation,
            conv_state_indices=step.state_indices_tensor_d[:, 0],
            **drafts,
        )
        out = output.unflatten(-1, (-1, self.head_dim))
        if not drafts:
            self.group.decode(self.place, self.inputs(mixed, dt), out)
            return
        total, most = mixed.shape[0], self.served.window
        uniform = most if total == rows * most else None
        window = windows.of(step.query_start_loc_d[: rows + 1], uniform, most, total)
        given = self.inputs(window.spread(mixed), window.spread(dt))
        out.copy_(window.gathered(self.group.verify(self.place, given)))

    def rows_of(self, step: Any) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        if step.num_decodes:
            blocks = step.state_indices_tensor_d[:, 0]
            found["drafted" if self.served.window else "decoding"] = blocks
            if self.served.window:
                found["accepted"] = step.num_accepted_tokens
        if step.num_prefills:
            found["prompts"] = step.state_indices_tensor_p
            found["continued"] = step.has_initial_states_p
        return found

    # -- what the module takes

    def inputs(self, mixed: torch.Tensor, dt: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs and parameters by name. mixed: [..., channels of x, B and C]."""
        x, b, c = self.split_hidden_states_B_C_fn(mixed)
        return {
            "x": x.unflatten(-1, (-1, self.head_dim)),
            "B": b.unflatten(-1, (-1, self.ssm_state_size)),
            "C": c.unflatten(-1, (-1, self.ssm_state_size)),
            "dt": dt,
            "A_log": self.decay,
            "dt_bias": self.dt_bias,
            "D": self.D,
        }

    @functools.cached_property
    def decay(self) -> torch.Tensor:
        """A_log, of which vLLM has made A = -exp(A_log) when it read the weights."""
        return torch.log(-self.A)

    def given(self, rows: int, tokens: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Inputs of no meaning, shaped as a step has them, and `out`."""
        assert self.model_config is not None
        front = (rows,) if tokens == 1 else (rows, tokens)
        like = {"dtype": self.model_config.dtype, "device": self.A.device}
        mixed = torch.zeros(*front, self.tped_conv_size, **like)
        dt = torch.zeros(*front, self.tped_dt_size, **like)
        out = torch.zeros(*front, self.tped_dt_size, self.head_dim, **like)
        return self.inputs(mixed, dt), out
