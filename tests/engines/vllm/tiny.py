"""A tiny Qwen3-Next with drawn weights, as a checkpoint that vLLM reads."""

from __future__ import annotations

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
