"""What the roundings of a recurrence itself, `rounded(x)`, let a kernel be off by.

In float32 and in float64 a value that is computed may lie on two sides of the middle between two
bfloat16s: the two then go on one of them apart. That is seldom, and about what all roundings
together change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from kvgen.algebra.form import Form
from kvgen.algebra.graph import LEAVES, reachable
from kvgen.functions.rounded import ROUNDED

Tensors = dict[str, torch.Tensor]
# what one rounding to the other side changes, by what all of them do
APART = 3


def rounds(form: Form) -> bool:
    """Whether a token rounds what it computes; inputs and parameters are rounded alike."""
    rounded = (node for node in reachable(form.whole) if node.op == ROUNDED.name)
    return any(node.args[0].op not in (*LEAVES, "past") for node in rounded)


def apart(module: ModuleType, state: Any, given: Tensors) -> dict[str, tuple[Any, Any]]:
    """By quantity what a token of `reference` gives without its roundings, and with them."""
    right, after = module.reference(state, **given)
    with _unrounded(module):
        other, states = module.reference(state, **given)
    return {"output": (other, right)} | {name: (states[name], after[name]) for name in after}


@contextmanager
def _unrounded(module: Any) -> Iterator[None]:
    kept = module._plain_rounded
    module._plain_rounded = module._plain
    try:
        yield
    finally:
        module._plain_rounded = kept
