"""Models whose weights are drawn: real sizes where linear attention is, the rest as small as a
measurement allows. Every arm draws the same weights."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Config = dict[str, Any]

COMMON: Config = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dtype": "bfloat16",
    "eos_token_id": 0,
    "head_dim": 256,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000.0,
        "rope_type": "default",
    },
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 4096,
}
EXPERTS: Config = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "decoder_sparse_step": 1,
    "intermediate_size": 2048,
    "mlp_only_layers": [],
    "moe_intermediate_size": 512,
    "norm_topk_prob": True,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 512,
}
DENSE: Config = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "model_type": "qwen3_5_text",
    "intermediate_size": 2048,
}
# as OLMo-Hybrid-7B: heads of 96 and 192 channels, attention without groups
OLMO: Config = {
    "architectures": ["OlmoHybridForCausalLM"],
    "model_type": "olmo_hybrid",
    "head_dim": 128,
    "hidden_size": 3840,
    "intermediate_size": 2048,
    "linear_allow_neg_eigval": True,
    "linear_key_head_dim": 96,
    "linear_num_key_heads": 30,
    "linear_num_value_heads": 30,
    "linear_value_head_dim": 192,
    "num_attention_heads": 30,
    "num_key_value_heads": 30,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
}
# as Kimi-Linear-48B, with few experts: multi-head latent attention without positions
KIMI: Config = {
    "architectures": ["KimiLinearForCausalLM"],
    "model_type": "kimi_linear",
    "first_k_dense_replace": 1,
    "hidden_size": 2304,
    "intermediate_size": 2048,
    "kv_lora_rank": 512,
    "mla_use_nope": True,
    "moe_intermediate_size": 512,
    "moe_layer_freq": 1,
    "moe_renormalize": True,
    "moe_router_activation_func": "sigmoid",
    "num_attention_heads": 32,
    "num_expert_group": 1,
    "num_experts": 16,
    "num_experts_per_token": 2,
    "num_key_value_heads": 32,
    "num_shared_experts": 1,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "routed_scaling_factor": 2.446,
    "topk_group": 1,
    "use_grouped_topk": True,
    "v_head_dim": 128,
}
# what a machine without a GPU decodes in Triton's interpreter
TINY: Config = {
    "head_dim": 64,
    "hidden_size": 256,
    "intermediate_size": 128,
    "linear_key_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 64,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "vocab_size": 512,
}
TINY_ONES = ("Qwen3NextForCausalLM", "Qwen3_5ForCausalLM")
TINY_EXPERTS: Config = {
    "moe_intermediate_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 64,
}


def layers(count: int) -> Config:
    """Three layers of linear attention to one of attention, as these models have them."""
    kinds = ["full_attention" if at % 4 == 3 else "linear_attention" for at in range(count)]
    # the second as SGLang reads it
    return {"num_hidden_layers": count, "full_attention_interval": 4, "layer_types": kinds}


def kimi_layers(count: int) -> Config:
    """The same, as Kimi-Linear counts them: from one."""
    kinds = layers(count)["layer_types"]
    numbered = list(enumerate(kinds, 1))
    linear = {
        "head_dim": 128,
        "num_heads": 32,
        "short_conv_kernel_size": 4,
        "kda_layers": [at for at, kind in numbered if kind == "linear_attention"],
        "full_attn_layers": [at for at, kind in numbered if kind == "full_attention"],
    }
    return {"num_hidden_layers": count, "linear_attn_config": linear}


MODELS: dict[str, Config] = {
    # linear attention is a large share of a step
    "next": COMMON | EXPERTS | layers(12),
    # as many layers as Qwen3-Next has, so that what a step does once counts as it does there
    "deep": COMMON | EXPERTS | layers(48),
    # the other layout of the projections, and no experts
    "dense": COMMON | DENSE | layers(12),
    # its experts are most of a step
    "wide": COMMON
    | EXPERTS
    | layers(12)
    | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    # few layers, for runs of many steps; so many heads of attention that its blocks are short
    "soak": COMMON | EXPERTS | layers(4) | {"num_key_value_heads": 16},
    # other recurrences, which vLLM has kernels for on a GPU alone
    "olmo": COMMON | OLMO | layers(12),
    "kimi": COMMON | KIMI | kimi_layers(12),
}


def config(name: str, tiny: bool = False) -> Config:
    """A model's configuration, as Transformers has it. tiny: sizes for a machine without a GPU."""
    found = MODELS[name]
    if not tiny:
        return found
    if found["architectures"][0] not in TINY_ONES:
        raise ValueError(f"{name}: there are no small sizes of it, expected another or a GPU")
    smaller = TINY | layers(4) | (TINY_EXPERTS if "num_experts" in found else {})
    heads = min(found["num_key_value_heads"], TINY["num_attention_heads"])
    return found | smaller | {"num_key_value_heads": heads}


def write(folder: Path, name: str, tiny: bool = False) -> Path:
    """Write a model's configuration, all that a server needs of it; the folder that holds it."""
    made = folder / (f"{name}-tiny" if tiny else name)
    made.mkdir(parents=True, exist_ok=True)
    (made / "config.json").write_text(json.dumps(config(name, tiny), indent=1), encoding="utf-8")
    return made


def write_weights(folder: Path, name: str, tiny: bool = False) -> Path:
    """Write a model's drawn weights as a checkpoint, from which each rank takes its share; the
    folder that holds it. They are not those that a server draws for itself."""
    import torch
    import transformers

    about = config(name, tiny)
    chosen = transformers.AutoConfig.for_model(**about)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(chosen, dtype=torch.bfloat16)
    model.to_empty(device="cuda" if torch.cuda.is_available() else "cpu")
    draw(model)
    made = write(folder, name, tiny)
    model.save_pretrained(made)
    return made


def cycle(row: int, length: int, vocabulary: int) -> list[int]:
    """A prompt that goes round the cycle of its row's block of the vocabulary, as what a model that
    was drawn with a peak says goes on."""
    start = CYCLE * (row % (vocabulary // CYCLE))
    return [start + (row + at) % CYCLE for at in range(length)]


# weights -----------------------------------------------------------------------------------------


def draw(model: torch.nn.Module, seed: int = 0, peak: float = 0.0) -> None:
    """Draw all weights.

    Matrices keep the size of what goes through them, but for those that end a branch: together all
    branches are about as large as the embedding, so that roundings do not grow from layer to layer.
    The second expert counts for little where it is hardly better than the third. Decays last from a
    token to a thousand. A tensor's values depend on its name and the seed alone. peak: what
    is added, at most, to the logit of the token that a fixed cycle names; at 60 texts go round it.
    """
    import torch

    found = dict(model.named_parameters())
    norms = 0.0 if type(model).__name__.startswith(ADDING) else 1.0
    with torch.no_grad():
        for name, weight in found.items():
            values = torch.Generator(weight.device).manual_seed(seed + zlib.crc32(name.encode()))
            weight.copy_(drawn(name, weight, values, norms))
        if peak:
            repeating(found, peak)


def drawn(
    name: str, weight: torch.Tensor, source: torch.Generator, norms: float = 0.0
) -> torch.Tensor:
    """norms: what the weights of norms are about."""
    import torch

    def normal() -> torch.Tensor:
        return torch.randn(
            weight.shape, generator=source, device=weight.device, dtype=torch.float32
        )

    def uniform(low: float, high: float) -> torch.Tensor:
        fresh = torch.empty(weight.shape, device=weight.device, dtype=torch.float32)
        return fresh.uniform_(low, high, generator=source)

    for ending, special in SPECIAL.items():
        if name.endswith(ending):
            return special(normal, uniform)
    if name == "fc.weight":
        # what a head that drafts makes of an embedding and a state behind it: the first
        return torch.eye(*weight.shape, device=weight.device) + 0.02 * normal()
    if weight.dim() == 1:
        return (norms if "norm" in name else 0.0) + 0.1 * normal()
    gain = next((gain for ending, gain in GAINS.items() if name.endswith(ending)), 1.0)
    return gain * normal() * weight.shape[-1] ** -0.5


# models whose norms multiply by 1 + weight, but for those below; those of others by their weight
ADDING = "Qwen"
GAINS = {
    "lm_head.weight": 3.0,
    "mlp.gate.weight": 4.0,
    "out_proj.weight": 0.5,
    "o_proj.weight": 0.5,
    "down_proj.weight": 0.5,
    "w2_weight": 0.5,
    # as Transformers has it
    "experts.down_proj": 0.5,
}
CYCLE = 64
Fresh = Callable[[], "torch.Tensor"]
Between = Callable[[float, float], "torch.Tensor"]


def rate(normal: Fresh, uniform: Between) -> torch.Tensor:
    return uniform(1.0, 16.0).log()


def step_size(normal: Fresh, uniform: Between) -> torch.Tensor:
    """What softplus makes a step between 0.001 and 0.1 of."""
    return uniform(math.log(1e-3), math.log(1e-1)).exp().expm1().log()


SPECIAL: Mapping[str, Callable[[Fresh, Between], torch.Tensor]] = {
    "A_log": rate,
    "dt_bias": step_size,
    # these multiply by their weight in all models
    "linear_attn.norm.weight": lambda normal, uniform: 1 + 0.1 * normal(),
    "embed_tokens.weight": lambda normal, uniform: normal(),
}


def repeating(found: Mapping[str, torch.Tensor], peak: float) -> None:
    """Let each token's own embedding speak for the next of its cycle."""
    embedding = next(x for name, x in found.items() if name.endswith("embed_tokens.weight"))
    head = next(x for name, x in found.items() if name.endswith("lm_head.weight"))
    # of the vocabulary in blocks, the block's first after its last
    after = embedding.float().view(-1, CYCLE, embedding.shape[1]).roll(1, 1).flatten(0, 1)
    head.add_((peak * after / embedding.shape[1]).to(head.dtype))
