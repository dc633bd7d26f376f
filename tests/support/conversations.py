"""What models of Transformers are told, and what they say."""

from __future__ import annotations

import inspect
from typing import Any


def ids(rows: list) -> Any:
    import torch

    return torch.tensor(rows)


def generated(model, prompt, new=5, **options):
    """Tokens and logits, [B, new] and [B, new, words]."""
    import torch

    settings = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "pad_token_id": 0}
    said = model.generate(
        prompt,
        max_new_tokens=new,
        min_new_tokens=new,
        return_dict_in_generate=True,
        output_logits=True,
        **{**settings, **options},
    )
    return said.sequences[:, prompt.shape[1] :], torch.stack(said.logits, 1)


def kept(model, cache):
    """A cache as an argument of a model, by the name that its class and this version have."""
    known = inspect.signature(type(model).forward).parameters
    return {
        next(name for name in ("cache", "cache_params", "past_key_values") if name in known): cache
    }


def dynamic(model):
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def said(model, tokens, cache):
    """Logits of some tokens on a cache."""
    import torch

    with torch.no_grad():
        return model(ids(tokens).to(model.device), use_cache=True, **kept(model, cache)).logits


def alike(got, wanted):
    import torch

    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
