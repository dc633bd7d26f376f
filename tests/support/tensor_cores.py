"""Products of float32 as tensor cores take them, in place of the interpreter's exact ones: in three
products of 11 bits each, added up eight at a time by adders that cut off what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from triton.runtime import interpreter

# what one instruction multiplies and adds up
TERMS = 8


def cut(x: np.ndarray) -> np.ndarray:
    """float64 to float32, towards 0."""
    near = x.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(x)
    return np.where(beyond, np.nextafter(near, np.float32(0)), near)


def short(x: np.ndarray) -> np.ndarray:
    """The nearest numbers with 10 bits behind the point, as TF32 has."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64) + 0x1000
    return (bits & 0xFFFFE000).astype(np.uint32).view(np.float32)


def dot(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    high_a, high_b = short(a), short(b)
    low_a, low_b = short(a - high_a), short(b - high_b)
    found = np.zeros(c.shape, np.float32)
    for left, right in ((low_a, high_b), (high_a, low_b), (high_a, high_b)):
        left, right = left.astype(np.float64), right.astype(np.float64)
        for at in range(0, a.shape[-1], TERMS):
            terms = np.matmul(left[..., at : at + TERMS], right[..., at : at + TERMS, :])
            found = cut(found + terms)
    return c + found


def on_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        if a.data.dtype != np.float32 or "IEEE" in str(precision):
            return exact(self, a, b, d, precision, imprecise)
        return interpreter.TensorHandle(dot(a.data, b.data, d.data), d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
