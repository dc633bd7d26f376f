"""Triton's interpreter: whether it is on, its casts to bfloat16 made to round as GPUs do, and the
programs of a launch in other orders than one after the other."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kvgen.checking.quick import replaced

# in which orders a launch's programs may run
ORDERS = ("forward", "reversed", "shuffled")


class DeviceError(RuntimeError):
    """The kernels cannot run on the device that was asked for."""


def require(device: str) -> None:
    """Raise DeviceError where kernels cannot run on 'cpu' (interpreted) or on 'cuda'."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda': torch sees no GPU")
    interpreted = _interpreted()
    if device == "cpu" and not interpreted:
        raise DeviceError(
            "device 'cpu': set TRITON_INTERPRET=1 in the environment before triton is imported"
        )
    if device == "cpu":
        _require_numpy()
    if device == "cuda" and interpreted:
        raise DeviceError("device 'cuda': TRITON_INTERPRET=1 was set when triton was imported")


def _interpreted() -> bool:
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(tl.sum, InterpretedFunction)


def _require_numpy() -> None:
    """The interpreter of older Tritons makes numbers of arrays, which newer NumPys refuse."""
    import numpy
    import triton

    if _release(numpy.__version__) >= (2, 4) and _release(triton.__version__) < (3, 7):
        raise DeviceError(
            f"device 'cpu': the interpreter of triton {triton.__version__} does not run with numpy "
            f"{numpy.__version__}, expected numpy < 2.4 or triton >= 3.7"
        )


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


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

    with replaced(interpreter, "_convert_float", lambda own: converted):
        yield


@contextmanager
def ordered(orders: Sequence[str] = ORDERS, seed: int = 0) -> Iterator[bool]:
    """Let the interpreter run the programs of a launch in one of `orders`, drawn for each launch.

    A GPU keeps to no order, so that no program may write what another one of its launch still
    reads. In the interpreter's own order, the grid's, this stays unseen where the writer is last.
    The same seed draws the same orders. Gives whether launches are ordered so: not where triton
    compiles for a GPU, nor where its interpreter does not say which program is next.
    """
    from triton.runtime import interpreter

    wrong = set(orders) - set(ORDERS)
    if wrong or not orders:
        raise ValueError(f"orders: {sorted(wrong)}, expected some of {', '.join(ORDERS)}")
    builder: Any = getattr(interpreter, "interpreter_builder", None)
    begin, place = (getattr(builder, name, None) for name in ("set_grid_dim", "set_grid_idx"))
    if begin is None or place is None or not _interpreted():
        yield False
        return
    draw = random.Random(seed)
    shape: tuple[int, ...] = ()
    numbers: list[int] = []

    def begun(*grid: int) -> None:
        nonlocal shape, numbers
        begin(*grid)
        shape, numbers = grid, list(range(math.prod(grid)))
        order = draw.choice(orders)
        if order == "reversed":
            numbers.reverse()
        elif order == "shuffled":
            draw.shuffle(numbers)

    def placed(x: int, y: int, z: int) -> None:
        _, height, depth = shape
        rest, last = divmod(numbers[(x * height + y) * depth + z], depth)
        place(*divmod(rest, height), last)

    builder.set_grid_dim, builder.set_grid_idx = begun, placed
    try:
        yield True
    finally:
        builder.set_grid_dim, builder.set_grid_idx = begin, place
