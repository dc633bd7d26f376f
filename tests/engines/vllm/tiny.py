"""Tiny models with drawn weights: checkpoints that vLLM reads, or what it draws itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LINEAR, FULL = "linear_attention", "full_attention"

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    # two groups of two linear layers each, and one of two others
    "layer_types": [LINEAR, LINEAR, FULL, LINEAR, LINEAR, FULL],
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "vocab_size": 64,
    "head_dim": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "decoder_sparse_step": 1,
    # all of them, so that a rounding changes little
    "num_experts": 2,
    "num_experts_per_tok": 2,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "max_position_embeddings": 1024,
    "dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def write(folder: Path, depth: float, circle: int = 0) -> None:
    """Weights that make the next token fairly sure. depth: how much layers matter beside the token
    itself. circle: after so many tokens the same ones come again, if layers do not object."""
    import torch
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    config = Qwen3NextConfig(**CONFIG)
    model = Qwen3NextForCausalLM(config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            continue
        scale = 0.5
        if "out_proj" in name or "down_proj" in name or "o_proj" in name:
            scale = depth * parameter.shape[-1] ** -0.5
        elif parameter.dim() > 1 and "conv1d" not in name:
            scale = 1.0 if "lm_head" in name else 1.5 * parameter.shape[-1] ** -0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    if circle:
        tokens = torch.arange(config.vocab_size)
        after = tokens // circle * circle + (tokens + 1) % circle
        known = torch.randn(config.vocab_size, config.hidden_size, generator=generator)
        model.model.embed_tokens.weight.data = known
        model.lm_head.weight.data = torch.zeros_like(known).index_copy(0, after, 0.3 * known)
    model.to(torch.bfloat16).save_pretrained(folder)


def write_mamba2(folder: Path) -> None:
    """A tiny Granite 4: Mamba-2, with groups of layers and pages as of the one above."""
    import torch
    from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

    config = GraniteMoeHybridConfig(
        layer_types=["mamba", "mamba", "attention"] * 2, num_hidden_layers=6, hidden_size=64,
        vocab_size=64, num_attention_heads=1, num_key_value_heads=1, intermediate_size=64,
        shared_intermediate_size=64, num_local_experts=0, num_experts_per_tok=0,
        mamba_n_heads=2, mamba_d_head=64, mamba_n_groups=1, mamba_d_state=64, mamba_expand=2,
        mamba_d_conv=4, mamba_chunk_size=16, max_position_embeddings=1024,
        position_embedding_type="rope", tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        pad_token_id=None, architectures=["GraniteMoeHybridForCausalLM"],
    )  # fmt: skip
    model = GraniteMoeHybridForCausalLM(config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith(("A_log", ".D", "dt_bias")):
            continue
        scale = 0.5
        if parameter.dim() > 1 and "conv1d" not in name:
            scale = (8 if "lm_head" in name else 1.5) * parameter.shape[-1] ** -0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    model.to(torch.bfloat16).save_pretrained(folder)


OLMO: dict[str, Any] = {
    "architectures": ["OlmoHybridForCausalLM"],
    "model_type": "olmo_hybrid",
    "layer_types": CONFIG["layer_types"],
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "linear_conv_kernel_dim": 4,
    # as in the real one no powers of two, and keys narrower than values
    "linear_key_head_dim": 24,
    "linear_value_head_dim": 48,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_allow_neg_eigval": True,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
}
# vLLM has no multi-head latent attention for a CPU: its attention is all linear
KIMI: dict[str, Any] = {
    "architectures": ["KimiLinearForCausalLM"],
    "model_type": "kimi_linear",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32,
    "v_head_dim": 32,
    "mla_use_nope": True,
    "linear_attn_config": {
        "head_dim": 32,
        "num_heads": 2,
        "short_conv_kernel_size": 4,
        "kda_layers": [1, 2, 3, 4],
        "full_attn_layers": [],
    },
    "moe_intermediate_size": 32,
    "num_experts": 2,
    "num_experts_per_token": 1,
    # no layer has experts
    "first_k_dense_replace": 4,
}


def write_config(folder: Path, config: dict[str, Any], **linear: Any) -> None:
    """A model whose weights `drawn` draws. linear: over Kimi's `linear_attn_config`."""
    common = ("vocab_size", "max_position_embeddings", "dtype", "bos_token_id", "eos_token_id")
    chosen = {name: CONFIG[name] for name in common} | config
    if linear:
        chosen["linear_attn_config"] = chosen["linear_attn_config"] | linear
    (folder / "config.json").write_text(json.dumps(chosen), encoding="utf-8")


def drawn() -> str:
    """What vLLM calls weights that are drawn by their names, before it packs them."""
    import zlib

    import torch
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    def draw(name: str, weight: torch.Tensor) -> torch.Tensor:
        source = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(weight.shape, generator=source)
        if "norm" in name:
            return 1 + 0.1 * values
        if weight.dim() == 1 or "conv1d" in name:
            return 0.5 * values
        return (4.0 if "lm_head" in name else 1.5) * weight.shape[-1] ** -0.5 * values

    @register_model_loader("by-name")
    class ByName(BaseModelLoader):
        def download_model(self, model_config: Any) -> None:
            """There is nothing to fetch."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            with torch.no_grad():
                for name, weight in model.named_parameters():
                    weight.copy_(draw(name, weight))

    return "by-name"
