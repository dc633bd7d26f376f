"""Calls that take drafts: several tokens a row, of which the step's end keeps some."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import check_tensor, strict, wrong
from kvgen.runtime.cache import Cache
from kvgen.runtime.launches import Given
from kvgen.runtime.numbers import listed
from kvgen.runtime.ops import traced
from kvgen.runtime.windows import checked_window


def verify_rows(
    cache: Cache, layer: int, slots: Tensor, given: Given, parents: Tensor | None,
    out: Tensor | None,
) -> Tensor:  # fmt: skip
    if torch.compiler.is_compiling():
        front = given[cache.table.inputs[0].name].shape[:2]
        return traced(cache, "verify", layer, slots, given, out, front, parents)
    slots, out, tokens = checked_window(cache, layer, slots, given, out)
    cache.check_settled(slots)
    if tokens > cache.window:
        expected = f"at most the cache's window = {cache.window}"
        raise wrong(cache.table.inputs[0].name, f"T = {tokens}", expected)
    if parents is not None:
        check_parents(cache, parents, slots.numel(), tokens)
    cache.check_room(slots, tokens)
    cache.calls.add(cache, layer, slots, "verify", tokens, parents)
    cache.run_verify(layer, slots, parents, given, out)
    return out


def check_parents(cache: Cache, parents: Any, rows: int, tokens: int) -> None:
    check_tensor("parents", parents, [rows, tokens], torch.int32, cache.device)
    if strict(parents) and parents.numel():
        late = (parents >= torch.arange(tokens, device=parents.device)).nonzero()
        if late.numel():
            row, token = listed(late[0])
            came = f"{int(parents[row, token])} at [{row}, {token}]"
            raise wrong("parents", came, "a node before it")
