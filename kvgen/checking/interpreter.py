"""Triton's interpreter: whether it is on, and its casts to bfloat16 made to round as GPUs do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class DeviceError(RuntimeError):
    """The kernels cannot run on the device that was asked for."""


def require(device: str) -> None:
    """Raise DeviceError where kernels cannot run on 'cpu' (interpreted) or on 'cuda'."""
    import torch
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda': torch sees no GPU")
    interpreted = isinstance(tl.sum, InterpretedFunction)
    if device == "cpu" and not interpreted:
        raise DeviceError(
            "device 'cpu': set TRITON_INTERPRET=1 in the environment before triton is imported"
        )
    if device == "cuda" and interpreted:
        raise DeviceError("device 'cuda': TRITON_INTERPRET=1 was set when triton was imported")


@contextmanager
def rounding() -> Iterator[None]:
    """Let interpreted casts from float32 to bfloat16 round to nearest even, not toward zero.

    Truncation has twice the error and a bias that a 16-bit state would sum up. It serves as a
    decorator too, and does nothing where triton compiles for a GPU.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    convert: Any = getattr(interpreter, "_convert_float", None)

    def converted(data: Any, source: Any, target: Any, mode: Any) -> Any:
        if source != tl.float32 or target != tl.bfloat16:
            return convert(data, source, target, mode)
        bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # rounding up must not make infinity of a nan
        return np.where(np.isnan(data), (bits >> 16) | 0x40, rounded).astype(np.uint16)

    if convert is None:
        yield
        return
    setattr(interpreter, "_convert_float", converted)  # noqa: B010
    try:
        yield
    finally:
        setattr(interpreter, "_convert_float", convert)  # noqa: B010
