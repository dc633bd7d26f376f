"""Windows of drafts in SGLang's pool: where their records lie, and their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

import torch

from kvgen.integrations.sglang.rings import Windows

# by the address of a pool's states, by which SGLang knows them at the end of a step
SERVED: WeakValueDictionary[int, Windows] = WeakValueDictionary()
# the nodes of trees that a step keeps, while SGLang ends it
KEPT: ContextVar[torch.Tensor | None] = ContextVar("KEPT", default=None)


def windows(module: Any, pool: Any, rings: Mapping[str, str]) -> Windows:
    """A pool's rings for drafts as windows. rings: what of the pool's each record is, by name. A
    pool has one set of windows, whatever backends it has."""
    held = pool.mamba_cache
    if (known := SERVED.get(held.temporal.data_ptr())) is not None:
        return known
    records = {name: getattr(held, ring) for name, ring in rings.items()}
    found = Windows(module, held.temporal, records)
    SERVED[held.temporal.data_ptr()] = found
    return found


def committed(
    own: Callable[..., None],
    target_worker: Any,
    batch: Any,
    accept_lens: torch.Tensor,
    accept_index: torch.Tensor,
    draft_token_num: int,
) -> None:
    """Around SGLang's end of a step: its fold is told of counts, which say too little of a tree.

    accept_index: [B, …], the tokens that are kept, numbered through all windows, then -1.
    """
    rows = torch.arange(accept_index.shape[0], device=accept_index.device)
    first = rows[:, None] * draft_token_num if accept_index.dim() == 2 else 0
    token = KEPT.set(torch.where(accept_index < 0, -1, accept_index - first).int())
    try:
        own(target_worker, batch, accept_lens, accept_index, draft_token_num)
    finally:
        KEPT.reset(token)


def fold(
    own: Callable[..., None],
    *,
    checkpoint_state: torch.Tensor,
    ssm_state_indices: torch.Tensor,
    accept_lens: torch.Tensor,
    **rest: Any,
) -> None:
    """In place of SGLang's own: the tokens that are kept go into the states of all layers.

    accept_lens: [B], the last sampled token and the drafts that are right.
    """
    ours = SERVED.get(checkpoint_state.data_ptr())
    if ours is None:
        own(
            checkpoint_state=checkpoint_state,
            ssm_state_indices=ssm_state_indices,
            accept_lens=accept_lens,
            **rest,
        )
    else:
        ours.keep(ssm_state_indices, accept_lens.int(), KEPT.get())
