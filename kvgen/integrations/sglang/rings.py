"""SGLang's pool of states and rings as a cache, and its cursors as ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

# the pool's first slot is for padding, as negative ones are
FIRST_SLOT = 1


def adopted(
    module: ModuleType, states: torch.Tensor, records: Mapping[str, torch.Tensor], window: int = 0
) -> Any:
    """All layers of a pool, in the order in which they run, as one cache.

    states: [layers, slots, HV, V, K]. records: by name, layers in front of slots, too.
    """
    (state,) = module.STATES
    tensors = {state: states, **records}
    turned = {name: each.transpose(0, 1) for name, each in tensors.items()}
    return module.Cache.wrap(turned, window=window, first_slot=FIRST_SLOT)


class Rings:
    """Tokens one by one: where a step of the pool's layers stands."""

    def __init__(
        self, module: ModuleType, states: torch.Tensor, records: Mapping[str, torch.Tensor]
    ) -> None:
        self.module: Any = module
        self.cache = adopted(module, states, records)

    def decode(
        self,
        layer: int,
        slots: torch.Tensor,
        written: torch.Tensor,
        flushed: torch.Tensor | None,
        given: Mapping[str, torch.Tensor],
        out: torch.Tensor,
    ) -> None:
        """One token of each row in one layer.

        slots: [B] int32, negative for padding. written: [B] int32, how many records a row had
        before this step. flushed: [B], not 0 where a row folds after it. given: inputs and
        parameters by name. out: [B, HV, V].
        """
        if layer == 0:
            # SGLang has moved its own cursors on before the layers run
            self.cache.seek(slots, written)
        self.module.decode(self.cache, layer, slots, **given, out=out)
        if layer == self.cache.layers - 1:
            force = None if flushed is None else flushed.ne(0)
            self.module.advance(self.cache, slots, force=force)


class Windows:
    """Drafts in chains: what is right of a window goes into the state before the next one, so that
    rings are empty between steps, as SGLang has them."""

    def __init__(
        self, module: ModuleType, states: torch.Tensor, records: Mapping[str, torch.Tensor]
    ) -> None:
        places = next(iter(records.values())).shape[3]
        self.module: Any = module
        self.cache = adopted(module, states, records, window=places)

    def verify(
        self,
        layer: int,
        slots: torch.Tensor,
        given: Mapping[str, torch.Tensor],
        out: torch.Tensor,
    ) -> None:
        """A window of each row in one layer. given: inputs [B, T, …] and parameters by name. out:
        [B, T, HV, V]."""
        self.module.verify(self.cache, layer, slots, **given, out=out)

    def keep(self, slots: torch.Tensor, counts: torch.Tensor) -> None:
        """After the last layer: the first tokens of each window, so many, and fold them."""
        self.module.accept(self.cache, slots, counts=counts, force=torch.ones_like(counts).bool())
