"""Generate with Transformers' Qwen3-Next, its linear attention decoded by a generated module.

A small random model says the same tokens as it is, accelerated, and with drafts from its own
prompt, which Transformers refuses such models otherwise. Without a GPU the kernels run in Triton's
interpreter.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

if __name__ == "__main__" and not torch.cuda.is_available():
    # triton, which transformers may import, reads this when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
    # whose kernels need a GPU: Transformers takes its own functions then
    sys.modules["fla"] = None  # pyright: ignore[reportArgumentType]

from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from kvgen.integrations.transformers import accelerate, report, restore


def small_model() -> Any:
    """Qwen3-Next with every width made small: three Gated DeltaNet layers and one of attention."""
    torch.manual_seed(0)
    config = Qwen3NextConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
        # larger than for training, so that a random model has something to say
        initializer_range=0.2,
    )
    return Qwen3NextForCausalLM(config).eval()


def generate(model: Any, prompts: torch.Tensor, tokens: int, **options: Any) -> list:
    """The tokens that follow prompts [B, T], greedily."""
    said = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=tokens,
        do_sample=False,
        **options,
    )
    return said[:, prompts.shape[1] :].tolist()


def generate_both(device: str, tokens: int, buffer: int = 4) -> tuple[list, list]:
    """The tokens that a small model generates as it is and accelerated."""
    model = small_model().to(device)
    prompts = torch.randint(0, 128, (2, 20), device=device)
    wanted = generate(model, prompts, tokens)
    return wanted, generate(accelerate(model, buffer=buffer), prompts, tokens)


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = small_model().to(device)
    prompt = torch.tensor([[5, 6, 7, 8, 9] * 4], device=device)
    said = {"as it is": generate(model, prompt, 8)}
    accelerate(model, assisted=True)
    print(report(model))
    said["accelerated"] = generate(model, prompt, 8)
    said["with drafts"] = generate(model, prompt, 8, prompt_lookup_num_tokens=3)
    restore(model)
    for how, tokens in said.items():
        print(f"{how:12} {tokens[0]}")
    same = said["as it is"] == said["accelerated"] == said["with drafts"]
    print("OK: the same tokens" if same else "FAILED: other tokens")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
