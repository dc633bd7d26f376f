"""A layer that decodes with a module.

Prompts are the layer's own affair: its code, with the kernels that Transformers has found for it,
gives the bits of the model as it was, and the state that it leaves is loaded into the module's
cache. What may be taken back, a recorded prompt's last tokens too, goes through the module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import LinearAttentionCacheLayerMixin, StaticLayer
from transformers.integrations.accelerate import force_accelerate_hooks

from kvgen.integrations.transformers import holding
from kvgen.integrations.transformers.served import Served
from kvgen.integrations.transformers.states import States

# a layer's own forward
Own = Callable[..., torch.Tensor]


@functools.cache
def decoding_class(kind: Any) -> type:
    """A class of layers that decode with a module.

    Such a layer has `kvgen`, what serves it, and `place`, which of the layers served it is.
    """

    class Decoding(kind):
        def forward(
            self,
            hidden_states: torch.Tensor,
            cache: Any = None,
            attention_mask: torch.Tensor | None = None,
            **more: Any,
        ) -> torch.Tensor:
            # the cache's name before it was `cache`
            cache = more.pop("cache_params", cache)
            own = functools.partial(super().forward, **more)
            layers = getattr(cache, "layers", ())
            held = layers[self.layer_idx] if self.layer_idx < len(layers) else None
            if not isinstance(held, LinearAttentionCacheLayerMixin):
                return own(hidden_states, cache, attention_mask)
            return forward(self, own, hidden_states, cache, attention_mask)

    Decoding.__name__ = Decoding.__qualname__ = f"Kvgen{kind.__name__}"
    Decoding.__module__ = kind.__module__
    return Decoding


def forward(
    layer: Any, own: Own, hidden: torch.Tensor, cache: Any, mask: torch.Tensor | None
) -> torch.Tensor:
    """Tokens of a cache's rows, [B, T, width]."""
    held, served, tokens = cache.layers[layer.layer_idx], layer.kvgen, hidden.shape[1]
    recording = held.record_past and served.window > 0
    # where nothing may be taken back, several tokens are more of a prompt
    most = served.buffer if recording else 1
    if recording and layer.place == 0:
        check_dynamic(cache)
    if held.has_previous_state[0] and tokens <= most:
        return step(layer, hidden, cache, mask, recording)
    if not recording:
        return prompt(layer, own, hidden, cache, mask)
    head = max(0, tokens - served.buffer)
    masks = (None, None) if mask is None else (mask[:, :head], mask[:, head:])
    outputs = []
    if head:
        outputs.append(prompt(layer, own, hidden[:, :head], cache, masks[0]))
    elif layer.place == 0:
        states_of(cache, served, hidden).begin(hidden.shape[0])
    outputs.append(step(layer, hidden[:, head:], cache, masks[1], recording, of_prompt=True))
    return torch.cat(outputs, dim=1)


def check_dynamic(cache: Any) -> None:
    """Transformers leaves the mask of a static cache out where one of its layers records."""
    if any(isinstance(each, StaticLayer) for each in cache.layers):
        raise ValueError(
            "cache: a static one that records its past, expected a dynamic one for drafts"
        )


def states_of(cache: Any, served: Served, hidden: torch.Tensor) -> States:
    """The states that a cache holds for the layers served; it gets them with its first tokens."""
    found = holding.held_by(cache.layers, served)
    return hold(cache.layers, served, hidden) if found is None else found


# what is allocated, and classes that change, are no part of a graph
untraced: Any = torch.compiler.disable
hold = untraced(holding.hold)


def prompt(
    layer: Any, own: Own, hidden: torch.Tensor, cache: Any, mask: torch.Tensor | None
) -> torch.Tensor:
    """A prompt, or more of one, by the layer's own code."""
    started = cache.layers[layer.layer_idx].has_previous_state[0]
    held = holding.held_by(cache.layers, layer.kvgen) is not None
    if held:
        give(layer, cache)
    output = own(hidden, cache, mask)
    # training makes caches too, and never looks at them
    if held or not output.requires_grad:
        take(layer, cache, hidden, begin=not started)
    return output


@untraced
def give(layer: Any, cache: Any) -> None:
    """Let a layer's own code have its state."""
    held = cache.layers[layer.layer_idx]
    if held.has_previous_state[0]:
        if layer.place == 0:
            held.states.settle()
        holding.fill(held, held.states, layer.place)
    held.open = True


@untraced
def take(layer: Any, cache: Any, hidden: torch.Tensor, begin: bool) -> None:
    """Move the state that a layer's own code has left to the module."""
    held = cache.layers[layer.layer_idx]
    states = states_of(cache, layer.kvgen, hidden)
    if begin and layer.place == 0:
        states.begin(hidden.shape[0])
    states.load(layer.place, held.recurrent_states[0])
    holding.empty(held)


@force_accelerate_hooks("conv1d")
def step(
    layer: Any,
    hidden: torch.Tensor,
    cache: Any,
    mask: torch.Tensor | None,
    recording: bool,
    of_prompt: bool = False,
) -> torch.Tensor:
    """Tokens by the module. of_prompt: they are a prompt's, not single ones or drafts."""
    served: Served = layer.kvgen
    held, tokens = cache.layers[layer.layer_idx], hidden.shape[1]
    if held.recurrent_states[0] is not None:
        take(layer, cache, hidden, begin=True)
    states: States = held.states
    if hidden.shape[0] != states.rows:
        raise ValueError(
            f"hidden_states: {hidden.shape[0]} rows, expected the cache's {states.rows}"
        )
    if layer.place == 0:
        states.make_ready(tokens, recording)
    masked = served.own.apply_mask_to_padding_states
    mixed, rest = served.adapter.projected(layer, masked(hidden, mask))
    mixed = convolved(layer, held, mixed)
    if served.adapter.masks_twice:
        mixed = masked(mixed, mask)
    inputs = served.adapter.inputs(layer, mixed, rest)
    if of_prompt:
        inputs = served.adapter.of_prompt(layer, inputs)
    core = states.step(layer.place, inputs, served.adapter.params(layer))
    if layer.place == served.last:
        states.end(tokens)
    return served.adapter.output(layer, core, rest)


def convolved(layer: Any, held: Any, mixed: torch.Tensor) -> torch.Tensor:
    """Behind the layer's convolution, whose past stays in its own layer of the cache."""
    own, tokens, width = layer.kvgen.own, mixed.shape[1], layer.conv_kernel_size
    weight, bias = layer.conv1d.weight.squeeze(1), layer.conv1d.bias
    mixed = mixed.transpose(1, 2)
    if tokens == 1 and not held.record_past:
        mixed = own.causal_conv1d_update(mixed, held.conv_states[0], weight, bias, layer.activation)
    else:
        if held.record_past and held.has_previous_state[0]:
            # a cache that records keeps all until the next crop, which may never come
            past = held.conv_states[0]
            held.conv_states[0] = past[..., -(width + held.states.depth) :]
        mixed = held.update_conv_state(mixed, conv_kernel_size=width)
        mixed = own.causal_conv1d_fn(mixed, weight, bias, activation=layer.activation)
    return mixed[..., -tokens:].transpose(1, 2).contiguous()
