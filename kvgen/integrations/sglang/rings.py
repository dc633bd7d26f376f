"""SGLang's pool of states and rings as a cache, and its cursors as ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

# the pool's first slot is for padding, as negative ones are
FIRST_SLOT = 1


def adopted(
    module: ModuleType,
    states: torch.Tensor,
    records: Mapping[str, torch.Tensor],
    window: int = 0,
    **books: torch.Tensor,
) -> Any:
    """All layers of a pool, in the order in which they run, as one cache.

    states: [layers, slots, HV, V, K]. records: by name, layers in front of slots, too. books: the
    pool's own, by the cache's names.
    """
    (state,) = module.STATES
    tensors = {state: states, **records}
    turned = {name: each.transpose(0, 1) for name, each in tensors.items()}
    return module.Cache.wrap({**turned, **books}, window=window, first_slot=FIRST_SLOT)


class Rings:
    """Tokens one by one: where a step of the pool's layers stands.

    cursors: SGLang's, [slots] int32, how many records each slot has. It gives slots out with none,
    and reads there how many a prefix lacks; a step's end moves them.
    """

    def __init__(
        self,
        module: ModuleType,
        states: torch.Tensor,
        records: Mapping[str, torch.Tensor],
        cursors: torch.Tensor,
    ) -> None:
        self.module: Any = module
        self.cache = adopted(module, states, records, cursors=cursors)

    def decode(
        self,
        layer: int,
        slots: torch.Tensor,
        written: torch.Tensor | None,
        flushed: torch.Tensor | None,
        given: Mapping[str, torch.Tensor],
        out: torch.Tensor,
    ) -> None:
        """One token of each row in one layer.

        slots: [B] int32, negative for padding. written: [B] int32, how many records a row had
        before this step, where SGLang has moved the cursors already. flushed: [B], not 0 where a
        row folds after it. given: inputs and parameters by name. out: [B, HV, V].
        """
        if layer == 0 and written is not None:
            self.cache.seek(slots, written)
        self.module.decode(self.cache, layer, slots, **given, out=out)
        if layer == self.cache.layers - 1:
            force = flushed if flushed is None or flushed.dtype == torch.bool else flushed.ne(0)
            self.module.advance(self.cache, slots, force=force)


class Windows:
    """Drafts: what is right of a window goes into the state before the next one, so that rings are
    empty between steps, as SGLang has them."""

    # of a step: which node each one follows, where a window is a tree
    parents: torch.Tensor | None = None

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
        parents: torch.Tensor | None,
        given: Mapping[str, torch.Tensor],
        out: torch.Tensor,
    ) -> None:
        """A window of each row in one layer.

        parents: [B, T], which node each one follows, but for the first; None for a chain. given:
        inputs [B, T, …] and parameters by name. out: [B, T, HV, V].
        """
        if layer == 0:
            self.parents = None if parents is None else rooted(parents)
        self.module.verify(self.cache, layer, slots, **given, parents=self.parents, out=out)

    def keep(
        self, slots: torch.Tensor, counts: torch.Tensor, path: torch.Tensor | None = None
    ) -> None:
        """After the last layer: what stays of each window, and fold it.

        counts: [B] int32, how many tokens. path: [B, …] int32, which nodes of a tree, in their
        order, as many as that.
        """
        force = torch.ones_like(counts, dtype=torch.bool)
        if self.parents is None or path is None:
            self.module.accept(self.cache, slots, counts=counts, force=force)
        else:
            order = torch.arange(path.shape[1], device=path.device)
            kept = torch.where(order < counts[:, None], path, -1)
            self.module.accept(self.cache, slots, path=kept, force=force)


def rooted(parents: torch.Tensor) -> torch.Tensor:
    """What stands there for a first node, and for padding, is no node before it: such ones follow
    what was before the window."""
    nodes = torch.arange(parents.shape[1], device=parents.device)
    return torch.where(parents < nodes, parents, -1).int()
