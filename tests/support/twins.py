"""Small modules for tests that run kernels in the interpreter, and what is asked of their twins."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from kvgen import compiler
from kvgen.checking.checker import bounds
from kvgen.checking.roundings import APART
from kvgen.checking.twin import Made, Twin, bits
from kvgen.shipped import resolve, shipped

SPECS = ["gated_deltanet", "kimi_delta_attention", "lightning_attention", "mamba2"]
# with inputs that have a past
LAYERS = [
    "kimi_linear_layer", "nemotron_h_layer", "qwen3_next_layer", "gated_deltanet_conv",
    "kimi_delta_attention_conv", "olmo_hybrid_conv",
]  # fmt: skip
OTHERS = [spec.name for spec in shipped() if spec.name not in (*SPECS, *LAYERS)]
STATES = ("float32", "bfloat16", "float16", "split")


def ratio(name: str) -> int:
    """Value heads to a key head, as few as show whether there are more than one."""
    spec = compiler.analyse(resolve(name)).spec
    return 1 if spec.size("H") == spec.size("HV") else 2


@functools.cache
def analysed(name: str, *storage: str, **sizes: int) -> compiler.Analysis:
    """A shipped spec at small sizes. storage: as in "state=split"."""
    chosen = {"H": 1, "HV": ratio(name), "K": 16, "V": 8, **sizes}
    overrides = {f"sizes.{axis}": str(size) for axis, size in chosen.items()}
    overrides |= dict(f"storage.{each}".split("=") for each in storage)
    return compiler.analyse(resolve(name), overrides)


@functools.cache
def made(name: str, *storage: str, **sizes: int) -> Made:
    analysis = analysed(name, *storage, **sizes)
    return Made(analysis, compiler.built(analysis))


@functools.cache
def untimed(name: str, *storage: str, **sizes: int) -> Made:
    """The same with the kernels that run only where they have been timed, as the tuner has it."""
    analysis = analysed(name, *storage, **sizes)
    return Made(analysis, compiler.built(analysis, {}, untimed=True))


def twin(name: str, *storage: str, **options: Any) -> Twin:
    """A twin on the CPU, of one layer and with room for four records where nothing else is said."""
    options = {"buffer": 4, "layers": 1, **options}
    return Twin(made(name, *storage), "cpu", **options)


def within(pair: Twin, *outputs: float, apart: bool = False) -> None:
    """Every error that was found is within its bound, and nothing strays. outputs: bounds of
    outputs, where they are larger than that of the storage. apart: whether what the recurrence
    itself rounds may have been rounded to the other side, as it is now and then of many tokens."""
    output, state = bounds(pair.form.spec.storage, pair.dtype)
    output = max([output, *outputs])
    for quantity, error in pair.found.items():
        strays = quantity in ("padding", "other slots")
        bound = 0 if strays else output if quantity == "output" else state
        bound = max(bound, APART * pair.apart.get(quantity, 0.0) if apart else 0.0)
        assert error <= bound, f"{quantity}: off by {error:.1e}, more than {bound:.1e}"


def within_rounding(pair: Twin, *outputs: float, apart: bool = False) -> None:
    """The same where an output is a small difference, which shows the rounding of the state at more
    than its size."""
    within(pair, 3 * pair.rounding, *outputs, apart=apart)


def snapshot(pair: Twin, slots: Sequence[int] | slice = slice(None)) -> dict[str, torch.Tensor]:
    """What the cache's tensors hold of slots, by default of all."""
    tensors = pair.cache.tensors.items()
    return {name: bits(x[slots]).clone() for name, x in tensors if name != "work"}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The names of the tensors that are not what they were."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def ids(*slots: int) -> torch.Tensor:
    return torch.tensor(slots, dtype=torch.int32)
