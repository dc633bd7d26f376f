"""How far what was found is from what is right."""

from __future__ import annotations

import math

import torch


def errors(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """‖x − x*‖₂ / ‖x*‖₂ of every row; inf for a nan, and for an infinity of one side only."""
    # a state without axes has one value to a row
    got, wanted = (x.double().reshape(x.shape[0], -1) for x in (got, wanted))
    # infinities, such as a stabiliser's first value, must agree and then count for nothing
    same = (got == wanted) & wanted.isinf()
    got, wanted = got.masked_fill(same, 0.0), wanted.masked_fill(same, 0.0)
    distance, length = (got - wanted).norm(dim=1), wanted.norm(dim=1)
    return torch.where(distance == 0, 0.0, distance / length).nan_to_num(math.inf, math.inf)


def worst(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return errors(got, wanted).max().item() if got.shape[0] else 0.0


def most(found: dict[str, float], pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Note by quantity the worst error so far. pairs: what was found, and what is right."""
    for name, pair in pairs.items():
        found[name] = max(found.get(name, 0.0), worst(*pair))
