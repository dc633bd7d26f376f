"""Drafts that lie one behind the other as windows of one length, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Window:
    """tokens: of each window. there: which token stands at a place of a window, [rows * tokens].
    back: at which place a token stands, [all tokens]. None where they lie as windows already."""

    tokens: int
    there: torch.Tensor | None = None
    back: torch.Tensor | None = None

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[all tokens, …] → [rows, tokens, …]; behind a row's last token that one stands again."""
        placed = x if self.there is None else x[self.there]
        return placed.unflatten(0, (-1, self.tokens))

    def gathered(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, tokens, …] → [all tokens, …]."""
        flat = x.flatten(0, 1)
        return flat if self.back is None else flat[self.back]


def of(starts: torch.Tensor, uniform: int | None, most: int, total: int) -> Window:
    """The windows of rows whose tokens begin at `starts`, [rows + 1]. uniform: how many each row
    has, if all have as many. most: a window's. Nothing waits for the device."""
    rows = starts.shape[0] - 1
    if uniform is not None and rows * uniform == total:
        return Window(uniform)
    lengths = starts.diff()
    places = torch.arange(most, device=starts.device, dtype=starts.dtype)
    last = (lengths - 1).clamp(min=0)
    there = (starts[:-1, None] + torch.minimum(places, last[:, None])).clamp(max=total - 1)
    each = torch.arange(total, device=starts.device, dtype=starts.dtype)
    row = torch.searchsorted(starts[1:].contiguous(), each, right=True)
    row = row.clamp(max=rows - 1)
    back = (row * most + each - starts[row]).clamp(max=rows * most - 1)
    return Window(most, there.flatten().long(), back.long())
