"""Decode Transformers' Qwen3-Next with a generated module.

`BufferedGatedDeltaNet` is Transformers' layer with its single-token path replaced: the projections,
the convolution, the gated norm and the output projection stay the layer's own, and the recurrence
between them is the module's. Prompts are the layer's own affair; the state they leave is loaded
into the module's cache. `decode_with` does this to every such layer of a model:

    gdn = compiled(model.config)
    slots = torch.arange(batch, dtype=torch.int32, device="cuda")
    decode_with(model, gdn, slots)
    model.generate(...)

Run as a script, it generates with a small random model both ways and compares the tokens; without
a GPU the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

if not torch.cuda.is_available():
    # triton, which transformers may import, reads this when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
from transformers.models.qwen3_next import modeling_qwen3_next as modeling

import kvgen
from kvgen.shipped import resolve


@dataclass(frozen=True)
class Decoding:
    """A generated module, its cache for all layers, and the slot of each row of the batch."""

    module: ModuleType
    cache: Any
    slots: torch.Tensor


class BufferedGatedDeltaNet(modeling.Qwen3NextGatedDeltaNet):
    """The layer, decoding from a generated module's cache; `place` is its layer in there."""

    decoding: Decoding
    place: int

    def forward(self, hidden_states, cache_params: Any = None, attention_mask=None, **kwargs):
        # `cache` in newer versions of Transformers
        past: Any = kwargs.pop("cache", cache_params)
        if past is None:
            return super().forward(hidden_states, None, attention_mask, **kwargs)
        started = past.has_previous_state(self.layer_idx)
        own = past.layers[self.layer_idx]
        if started and hidden_states.shape[1] == 1:
            return self._decode(hidden_states, own.conv_states[0])

        module, held, slots = self.decoding.module, self.decoding.cache, self.decoding.slots
        if started:  # more of a prompt, as in a chat's next turn
            if self.place == 0:
                module.flush(held, slots)
            # the layer's own copy is as old as the last prompt
            own.recurrent_states[0].copy_(held.read(self.place, slots))
        elif self.place == 0:
            held.reset(slots)
        output = super().forward(hidden_states, past, attention_mask, **kwargs)
        held.load(self.place, slots, own.recurrent_states[0])
        return output

    def _decode(self, hidden_states, conv_state):
        """One token a row: hidden_states [B, 1, hidden]."""
        q, k, v, z, b, a = self.fix_query_key_value_ordering(
            self.in_proj_qkvz(hidden_states), self.in_proj_ba(hidden_states)
        )
        mixed = torch.cat([x.flatten(2) for x in (q, k, v)], dim=-1).transpose(1, 2)
        mixed = modeling.causal_conv1d_update(
            mixed, conv_state, self.conv1d.weight.squeeze(1), self.conv1d.bias, self.activation
        )
        q, k, v = mixed[:, :, 0].split([self.key_dim, self.key_dim, self.value_dim], dim=-1)

        # normalisation, gates and the sharing of key heads are in the spec: the inputs go in raw
        module, cache, slots = self.decoding.module, self.decoding.cache, self.decoding.slots
        core = module.decode(
            cache,
            self.place,
            slots,
            q=q.unflatten(-1, (self.num_k_heads, self.head_k_dim)),
            k=k.unflatten(-1, (self.num_k_heads, self.head_k_dim)),
            v=v.unflatten(-1, (self.num_v_heads, self.head_v_dim)),
            a=a[:, 0],
            b=b[:, 0],
            A_log=self.A_log,
            dt_bias=self.dt_bias,
        )
        if self.place == cache.layers - 1:
            module.advance(cache, slots)
        return self.out_proj(self.norm(core, z[:, 0]).flatten(1)[:, None])


def compiled(config: Qwen3NextConfig, **overrides: Any) -> ModuleType:
    """The shipped spec at a model's sizes. overrides: as in {"storage.state": "split"}."""
    sizes: dict[str, Any] = {
        "sizes.H": config.linear_num_key_heads,
        "sizes.HV": config.linear_num_value_heads,
        "sizes.K": config.linear_key_head_dim,
        "sizes.V": config.linear_value_head_dim,
    }
    return kvgen.compile(resolve("gated_deltanet"), None, **sizes, **overrides)


def decode_with(
    model: torch.nn.Module,
    module: ModuleType,
    slots: torch.Tensor,
    capacity: int | None = None,
    buffer: int | None = None,
) -> Decoding:
    """Make a model's Gated DeltaNet layers decode with a module compiled for its sizes.

    slots: [B] int32 on the model's device, one for each row of the batches to come. capacity: the
    slots of the cache (None: one a row). buffer: places for records (None: the module's choice).
    """
    layers: list[Any] = [
        layer for layer in model.modules() if isinstance(layer, modeling.Qwen3NextGatedDeltaNet)
    ]
    weight = layers[0].in_proj_qkvz.weight
    cache = module.Cache.empty(
        slots.numel() if capacity is None else capacity,
        layers=len(layers),
        device=weight.device,
        dtype=weight.dtype,
        buffer=buffer,
    )
    decoding = Decoding(module, cache, slots)
    for place, layer in enumerate(layers):
        # a layer of the same class but for `forward`: weights and hooks stay where they are
        layer.__class__ = BufferedGatedDeltaNet
        layer.decoding, layer.place = decoding, place
    return decoding


def torch_functions() -> dict[str, Any]:
    """The layer's functions in plain torch, by name.

    Transformers binds those of fla and causal_conv1d instead where these are installed, which need
    a GPU.
    """
    names = (
        "torch_chunk_gated_delta_rule",
        "torch_recurrent_gated_delta_rule",
        "causal_conv1d_fn",
        "causal_conv1d_update",
    )
    return {name: inspect.unwrap(getattr(modeling, name)) for name in names}


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


def generate_both(device: str, tokens: int, buffer: int = 4) -> tuple[list, list]:
    """The tokens that a small model generates by its own code and by a module's."""
    model = small_model().to(device)
    prompts = torch.randint(0, 128, (2, 20), device=device)
    options = {"max_new_tokens": tokens, "do_sample": False, "attention_mask": prompts * 0 + 1}
    wanted = model.generate(prompts, **options)[:, 20:].tolist()
    slots = torch.arange(2, dtype=torch.int32, device=device)
    decode_with(model, compiled(model.config), slots, buffer=buffer)
    return wanted, model.generate(prompts, **options)[:, 20:].tolist()


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        for name, function in torch_functions().items():
            setattr(modeling, name, function)
    wanted, got = generate_both(device, tokens=12)
    for own, ours in zip(wanted, got, strict=True):
        print(f"transformers  {own}\nkvgen         {ours}")
    print("OK: the same tokens" if got == wanted else "FAILED: other tokens")
    return 0 if got == wanted else 1


if __name__ == "__main__":
    sys.exit(main())
