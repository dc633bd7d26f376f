"""Values of Triton's interpreter made without asking again what is known of their types, and how
NumPy's arrays come together as the language's values do."""

from __future__ import annotations

from typing import Any

import numpy as np

WHOLE = {"int32": np.int32, "int64": np.int64}
NUMBERS = {**WHOLE, "fp32": np.float32}
LOGICAL = {"int1": np.bool_, "int32": np.int32}
LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def constant(value: Any, name: Any, known: dict[Any, Any]) -> Any:
    """A number of Python's as an array of this type; None where there is more to say of it."""
    kind = type(value)
    # what else there is may not have a hash
    if kind is not int and kind is not float:
        return None
    key = kind, value, name
    if key in known:
        return known[key]
    if kind is int:
        fits = name in NUMBERS and -(1 << 31) <= value < 1 << 31
    else:
        fits = name == "fp32" and (value == 0 or SMALLEST <= abs(value) <= LARGEST)
    if not fits:
        return None
    # there is no negative zero among the language's constants
    array = np.array([0 if value == 0 else value], dtype=NUMBERS[name])
    array.flags.writeable = False
    known[key] = array
    return array


def fit(*shapes: tuple[int, ...]) -> bool:
    """Whether blocks are of one rank and spread over each other; all else has a rule of its own."""
    first = shapes[0]
    if any(len(shape) != len(first) for shape in shapes):
        return False
    return all(len({*sizes} - {1}) <= 1 for sizes in zip(*shapes, strict=True))


def both(call: Any, a: Any, b: Any, first: bool, second: bool) -> Any:
    """What comes of two arrays, each a block's or a number's; None where they do not fit."""
    if first and second:
        return call(a, b) if a.shape == b.shape or fit(a.shape, b.shape) else None
    return over(call(a, b), first or second)


def over(data: Any, is_block: bool) -> Any:
    """What came of numbers and a block, as it lies where the numbers are blocks too: these are in
    the order of C, which wins over any other."""
    if is_block and not data.flags.c_contiguous:
        return np.ascontiguousarray(data)
    return data


class Values:
    """What makes values. semantic: the language as the interpreter has it."""

    def __init__(self, semantic: Any) -> None:
        from triton.language import core
        from triton.runtime.interpreter import TensorHandle

        self.core: Any = core
        self.semantic, self.builder = semantic, semantic.builder
        self.tensor: Any = core.tensor
        self.block, self.handle, self.pointer = core.block_type, TensorHandle, core.pointer_type
        self.types: dict[Any, Any] = {each: getattr(core, each) for each in ("int1", *WHOLE)}
        self.types["fp32"] = core.float32
        self.known: dict[Any, Any] = {}
        self.constants: dict[Any, Any] = {}

    def value(self, data: Any, element: Any, is_block: bool, inner: Any) -> Any:
        """A value of elements of this type. inner: what its own data says that they are, which is
        an operand's where the interpreter leaves it so."""
        key = element.name, data.shape if is_block else None
        found = self.known.get(key)
        if found is None:
            kind = self.block(element, list(data.shape)) if is_block else element
            like = self.tensor(None, kind)
            found = self.known[key] = kind, kind.scalar, like.numel, like.shape
        handle = object.__new__(self.handle)
        handle.data, handle.dtype, handle.attr = data, inner, {}
        made = object.__new__(self.tensor)
        made.handle = handle
        made.type, made.dtype, made.numel, made.shape = found
        return made

    def is_block(self, x: Any) -> bool:
        return x.type.__class__ is self.block
