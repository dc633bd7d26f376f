"""Small modules for the tests that run kernels in the interpreter."""

from __future__ import annotations

import functools
from typing import Any

import torch

from kvgen import compiler
from kvgen.checking.twin import Made, Twin
from kvgen.shipped import resolve, shipped

SPECS = ["gated_deltanet", "kimi_delta_attention", "lightning_attention", "mamba2"]
OTHERS = [spec.name for spec in shipped() if spec.name not in SPECS]
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
    path = compiler.temporary_module(name, compiler.emit(analysis))
    return Made(analysis, compiler.imported(path))


def twin(name: str, *storage: str, **options: Any) -> Twin:
    """A twin on the CPU, of one layer and with room for four records where nothing else is said."""
    options = {"buffer": 4, "layers": 1, **options}
    return Twin(made(name, *storage), "cpu", **options)


def ids(*slots: int) -> torch.Tensor:
    return torch.tensor(slots, dtype=torch.int32)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as integers: equal bits, NaNs included."""
    same = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(same[tensor.element_size()])
