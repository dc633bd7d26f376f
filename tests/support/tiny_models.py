"""Models of Transformers with every width made small, whose random weights say something."""

from __future__ import annotations

from typing import Any

# an architecture and its configuration, by the name of Transformers' module
WIDTHS: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    # larger than for training
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HYBRID = {
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        {**HYBRID, **EXPERTS, "mlp_only_layers": [0, 1]},
    ),
    "qwen3_5": ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", HYBRID),
    "qwen3_5_moe": ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", {**HYBRID, **EXPERTS}),
    "kimi_linear": (
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        {
            "layer_types": HYBRID["layer_types"],
            "num_key_value_heads": 2,
            "head_dim": None,
            "linear_num_heads": 2,
            "linear_head_dim": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "mlp_layer_types": ["dense", "dense"],
        },
    ),
    "olmo_hybrid": ("OlmoHybridForCausalLM", "OlmoHybridConfig", HYBRID),
    "nemotron_h": (
        "NemotronHForCausalLM",
        "NemotronHConfig",
        {
            "num_hidden_layers": None,
            "layers_block_type": ["mamba", "attention"],
            "n_groups": 1,
            "mamba_num_heads": 2,
            "mamba_head_dim": 16,
            "ssm_state_size": 16,
            "chunk_size": 16,
        },
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {
            "num_hidden_layers": 1,
            "intermediate_size": None,
            "num_attention_heads": None,
            "num_key_value_heads": None,
            "num_heads": 4,
            "head_dim": 16,
            "state_size": 16,
            "n_groups": 1,
            "chunk_size": 16,
        },
    ),
}


def tiny(name: str, seed: int = 0, **changed: Any) -> Any:
    """A model by the name of its module; changed: of its configuration."""
    import torch
    import transformers

    torch.manual_seed(seed)
    kind, config, own = MODELS[name]
    settings = {key: each for key, each in {**WIDTHS, **own}.items() if each is not None}
    model = getattr(transformers, kind)(getattr(transformers, config)(**{**settings, **changed}))
    with torch.no_grad():
        for key, weight in model.named_parameters():
            # memories from a token to dozens of tokens long
            if key.endswith("A_log"):
                weight.uniform_(1, 4).log_()
            elif key.endswith("dt_bias"):
                weight.uniform_(-3, 0)
            elif key.endswith(".D"):
                weight.normal_()
            elif "norm" in key:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()
