"""The types of a tensor's elements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Dtype:
    """name: torch's. size: bytes of an element; None: those of the inputs. text: what a module's
    code calls it. said: what it is called in words. largest: of the numbers that it can hold.
    others: what it is called elsewhere."""

    name: str
    size: int | None
    text: str
    said: str
    largest: float = math.inf
    others: tuple[str, ...] = ()

    def bytes(self, given: int) -> int:
        """Of an element. given: those of the inputs."""
        return given if self.size is None else self.size

    @property
    def narrow(self) -> bool:
        """Whether an element may have 16 bits, which tensor cores multiply as they are."""
        return self.size is None or self.size <= 2

    @property
    def zero(self) -> str:
        """What a load brings where nothing is, as text."""
        return "0" if self.name.startswith("int") else "0.0"

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """The values that it can hold, in x's own type."""
        import torch

        return x.to(getattr(torch, self.name)).to(x.dtype)


def _of_torch(name: str, size: int, largest: float, *others: str) -> Dtype:
    return Dtype(name, size, f"torch.{name}", name, largest, others)


FLOAT32 = _of_torch("float32", 4, 3.4028234663852886e38, "fp32", "f32", "float")
BFLOAT16 = _of_torch("bfloat16", 2, 3.3895313892515355e38, "bf16")
FLOAT16 = _of_torch("float16", 2, 65504.0, "fp16", "f16", "half")
INT16 = _of_torch("int16", 2, 32767.0)
# whatever the inputs have, which is the cache's
GIVEN = Dtype("input", None, "dtype", "cache")
# what inputs may be
FLOATS = (BFLOAT16, FLOAT16, FLOAT32)
