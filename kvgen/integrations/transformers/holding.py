"""The caller's cache: its linear layers hold a slot of a module's cache instead of a state.

A layer of a cache gets a subclass of its class, so that what is done to a cache (crops, beams,
resets, copies) is done to the module's states as well. The past of the convolution stays where it
is, and Transformers' own code moves it.
"""

from __future__ import annotations

import copy
import functools
from typing import Any
from weakref import ref

import torch

from kvgen.integrations.transformers.served import Served
from kvgen.integrations.transformers.states import States


@functools.cache
def held_class(kind: Any) -> type:
    """A class of a cache's linear layers that hold states of a module.

    Such a layer has `states`, those of all layers that a module serves, and `place`, which of them
    it is; what concerns all of them is done where it is the first or the last. `open`: its own
    state is there, for the layer's own code.
    """

    class Held(kind):
        @property
        def is_croppable(self) -> bool:
            return self.states.served.window > 0

        def crop(self, tokens_to_remove: int) -> None:
            if not self.is_croppable:
                raise ValueError(
                    "crop: the states of accelerated layers cannot be taken back, expected "
                    "accelerate(model, assisted=True)"
                )
            if self.place == 0 and tokens_to_remove <= 0 and self.record_past:
                self.states.take_back(-tokens_to_remove)
            super().crop(tokens_to_remove)

        def update_recurrent_state(self, *given: Any, **more: Any) -> Any:
            if not self.open:
                raise ValueError(
                    "cache: its states are those of an accelerated model, expected one that is "
                    "this model's own, or restore(model) of that other model first"
                )
            return super().update_recurrent_state(*given, **more)

        def reorder_cache(self, beam_idx: torch.Tensor) -> None:
            super().reorder_cache(beam_idx)
            if self.place == 0:
                self.states.select(beam_idx)

        def batch_repeat_interleave(self, repeats: int) -> None:
            self.batch_select_indices(torch.arange(self.states.rows).repeat_interleave(repeats))

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            # which Transformers' own linear layers do not have
            rows = torch.arange(self.states.rows)[indices.cpu()].to(self.device)
            for which, past in self.conv_states.items():
                self.conv_states[which] = past.index_select(0, rows)
            if self.place == self.states.served.last:
                self.states.select(rows)

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            twin: Any = object.__new__(type(self))
            memo[id(self)] = twin
            vars(twin).update(copy.deepcopy(vars(self), memo))
            twin.states.layers[twin.place] = ref(twin)
            return twin

        def __reduce_ex__(self, protocol: Any) -> Any:
            # on a disk, or in another process, it is a layer like any other
            plain = object.__new__(kind)
            vars(plain).update(vars(self))
            for name in ("recurrent_states", "is_recurrent_states_initialized"):
                setattr(plain, name, dict(getattr(self, name)))
            own_again(plain)
            return object.__new__, (kind,), vars(plain)

    Held.__name__ = Held.__qualname__ = f"Held{kind.__name__}"
    return Held


def holds(layer: Any) -> bool:
    """Whether a cache's layer holds states of a module."""
    return "states" in vars(layer)


def held_by(layers: list[Any], served: Served) -> States | None:
    """The states that a cache holds for the layers served, if it does."""
    first = layers[served.indices[0]]
    return first.states if holds(first) and first.states.served is served else None


def hold(layers: list[Any], served: Served, hidden: torch.Tensor) -> States:
    """Make a cache's layers hold states, of as many rows as `hidden` [B, T, width] has."""
    states = States(served, hidden.shape[0], hidden.device, hidden.dtype)
    for place, index in enumerate(served.indices):
        layer = layers[index]
        # another model's, or of one that was accelerated otherwise
        release(layer)
        layer.__class__ = held_class(type(layer))
        layer.states, layer.place, layer.open = states, place, True
        states.layers[place] = ref(layer)
    return states


def release(layer: Any) -> None:
    """Give a cache's layer its own state back."""
    if holds(layer):
        own_again(layer)
        layer.__class__ = type(layer).__base__


def own_again(layer: Any) -> None:
    fill(layer, layer.states, layer.place)
    del layer.states, layer.place, layer.open


def fill(layer: Any, states: States, place: int) -> None:
    """Put a layer's state where Transformers looks for it, if it is not there already."""
    if layer.has_previous_state[0] and layer.recurrent_states[0] is None:
        layer.recurrent_states[0] = states.read(place)
        layer.is_recurrent_states_initialized[0] = True


def empty(layer: Any) -> None:
    """A state that a module has taken is kept once."""
    layer.recurrent_states[0], layer.open = None, False
    layer.is_recurrent_states_initialized[0] = False
