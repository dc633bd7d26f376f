"""The start of a new spec: a commented example that compiles at once, or a copy of another spec."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from kvgen.language.names import refusal

NAME_LINE = re.compile(r"^name:[^\n]*$", re.MULTILINE)

EXAMPLE = """\
# A recurrence as its paper writes it. Next: kvgen explain {name}.yaml, kvgen compile {name}.yaml
kvgen: 1
name: {name}
title: Linear attention with one decay per head
source: the paper, or your own

# H query/key heads, HV value heads (a multiple of H), K key channels, V value channels.
# Further sizes may be added and used as an extra first axis.
sizes: {{H: 8, HV: 16, K: 64, V: 64}}

inputs:            # one value per token; the axes say which of them: heads first, then channels
  q: [H, K]
  k: [H, K]
  v: [HV, V]
  g: [HV]
params:            # one value per layer
  A_log: [HV]
  dt_bias: [HV]
state:             # what a token leaves for the next; starts at 0
  S: [HV, K, V]

# The statements run in order, in float32. `q @ S` reads the state with a key-side vector,
# `outer(k, v)` is a write, key side first; o is the output. H meets HV by grouping, and what
# lacks an axis is the same along it, so nothing is ever reshaped.
step: |
  decay = exp(-exp(A_log) * softplus(g + dt_bias))
  S = decay * S + outer(k, v)
  o = (q * K**-0.5) @ S

# A delta rule would correct the value by what the state already holds:
#   k = l2norm(k)
#   d = sigmoid(b) * (v - k @ S)      with an input b: [HV]
#   S = S + outer(k, d)

# Optional, with their defaults:
# storage: {{state: float32, records: float32, layout: kv}}
# buffer: auto     # tokens whose updates are kept beside the state before it is written
"""


class ScaffoldError(ValueError):
    """A new spec cannot be started like this."""


def check_name(name: str) -> None:
    """Refuse a name that a spec cannot have, or by which its module could not be imported."""
    if refused := refusal(name):
        _, message, help = refused
        raise ScaffoldError(f"{message}; {help}" if help else message)
    check_free(name)


def check_free(name: str) -> None:
    """Refuse a module's name that another has, which would then not be found."""
    if name in sys.stdlib_module_names or name in ("kvgen", "torch", "triton"):
        raise ScaffoldError(f"{name}.py would hide the module {name!r} that is already there")


def text(name: str, original: str | None = None) -> str:
    """The text of the spec `name`: the example, or `original` under the new name."""
    check_name(name)
    if original is None:
        return EXAMPLE.format(name=name)
    renamed, count = NAME_LINE.subn(f"name: {name}", original)
    if count != 1:
        raise ScaffoldError("the other spec has no line of its own for its `name:`")
    return renamed


def write(name: str, folder: Path, original: str | None = None) -> Path:
    """Write NAME.yaml into `folder`, never over a file that is there."""
    content = text(name, original)
    path = folder / f"{name}.yaml"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        raise ScaffoldError(f"{path.name} exists already: it is not overwritten") from None
    return path
