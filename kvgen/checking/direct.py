"""Operations of Triton's interpreter at once, where their operands are what kernels mostly have.

For `a * b` the interpreter finds the types of both, makes them one, spreads both over one shape and
asks each time whether that may be: fifty calls of Python around one of NumPy. Here what is usual,
numbers of the same type and Python's own, addresses and offsets, is recognised and handed to that
one call. All else, all that is wrong among it, goes where it always went. The values are the same
to the last bit: sums and products hang on how their operands lie in memory, and what is computed
here lies as it would there.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import numpy as np

from kvgen.checking.values import LOGICAL, NUMBERS, WHOLE, Values, both, constant, fit, over

Own = Callable[..., Any]
Made = Callable[[Own], Own]

# options of loads and stores that say something to a compiler alone
HINTS = {"cache_modifier", "eviction_policy"}


class Direct(Values):
    """The operations by package and name, each made of the interpreter's own."""

    def __init__(self, semantic: Any) -> None:
        super().__init__(semantic)
        import triton.language as language
        from triton.language import core, math

        self.ranges: dict[Any, Any] = {}
        self.hints: set[Any] = set()
        tensor, add, multiply = core.tensor, np.add, np.multiply
        self.table: dict[tuple[Any, str], Made] = {
            (tensor, "__add__"): self.plus,
            (tensor, "__radd__"): self.binary(add, turned=True),
            (tensor, "__sub__"): self.binary(np.subtract),
            (tensor, "__rsub__"): self.binary(np.subtract, turned=True),
            (tensor, "__mul__"): self.binary(multiply),
            (tensor, "__rmul__"): self.binary(multiply, turned=True),
            (tensor, "__truediv__"): self.binary(np.divide, {"fp32": np.float32}),
            (tensor, "__rtruediv__"): self.binary(np.divide, {"fp32": np.float32}, turned=True),
            (tensor, "__floordiv__"): self.binary(_quotient, {"int32": np.int32}),
            (tensor, "__mod__"): self.binary(np.fmod, {"int32": np.int32}),
            (tensor, "__and__"): self.binary(np.bitwise_and, LOGICAL),
            (tensor, "__or__"): self.binary(np.bitwise_or, LOGICAL),
            (tensor, "__neg__"): self.minus,
            (tensor, "__getitem__"): self.item,
            (tensor, "to"): self.to,
        }
        for name, compare in (
            ("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal),
            ("eq", np.equal), ("ne", np.not_equal),
        ):  # fmt: skip
            self.table[tensor, f"__{name}__"] = self.binary(compare, answers=True)
        for package in (core, language):
            self.table |= {
                (package, "program_id"): self.program,
                (package, "arange"): self.range,
                (package, "full"): self.full,
                (package, "where"): self.where,
                (package, "load"): self.load,
                (package, "store"): self.store,
            }
            # what NumPy calls as the language does
            for call in (np.minimum, np.maximum):
                self.table[package, call.__name__] = self.binary(call)
        for package in (math, language):
            for call in (np.exp, np.exp2, np.log, np.log2, np.sqrt):
                self.table[package, call.__name__] = self.unary(call)

    def made(self, package: Any, name: str, own: Own) -> Own:
        make = self.table.get((package, name))
        return own if make is None else make(own)

    # -- operations

    def binary(
        self,
        call: Any,
        kinds: dict[str, Any] = NUMBERS,
        turned: bool = False,
        answers: bool = False,
    ) -> Made:
        """One of two operands. turned: a number of Python's and then a value. answers: whether
        something holds."""

        tensor, block, types, constants = self.tensor, self.block, self.types, self.constants
        whole = WHOLE if "int64" in kinds else ()

        def make(own: Own) -> Own:
            def made(x: Any, y: Any, **options: Any) -> Any:
                if options or type(x) is not tensor or x.dtype.name not in kinds:
                    return own(x, y, **options)
                if turned and type(y) is tensor:
                    return own(x, y)
                name, first, second = x.dtype.name, x.type.__class__ is block, False
                a, inner = x.handle.data, x.handle.dtype.scalar
                if type(y) is tensor:
                    b, other, second = y.handle.data, y.dtype.name, y.type.__class__ is block
                    if name != other:
                        # of integers the wider one
                        if name not in whole or other not in whole:
                            return own(x, y)
                        if name != "int64":
                            inner = types["int64"]
                        a, b = a.astype(np.int64, copy=False), b.astype(np.int64, copy=False)
                        name = "int64"
                else:
                    b = constant(y, name, constants)
                    if b is None:
                        return own(x, y)
                    if turned:
                        inner = types[name]
                if turned:
                    data = both(call, b, a, second, first)
                else:
                    data = both(call, a, b, first, second)
                if data is None:
                    return own(x, y)
                kind = types["int1" if answers else name]
                return self.value(data, kind, first or second, inner)

            return made

        return make

    def plus(self, own: Own) -> Own:
        """Sums, and addresses with what is added to them."""
        usual = self.binary(np.add)(own)
        tensor, block, handle, pointer = self.tensor, self.block, self.handle, self.pointer

        def made(x: Any, y: Any) -> Any:
            kind = x.dtype
            if kind.__class__ is not pointer:
                return usual(x, y)
            first, second = x.type.__class__ is block, False
            if type(y) is tensor:
                offset, second = y.handle.data, y.type.__class__ is block
                known = y.dtype.name in WHOLE
            else:
                offset = constant(y, "int32", self.constants)
                known = offset is not None
            element = kind.element_ty
            if not known or x.handle.__class__ is not handle or element.is_block():
                return own(x, y)
            moved = max(1, element.primitive_bitwidth // 8) * offset.astype(np.uint64)
            data = both(np.add, x.handle.data, moved, first, second)
            if data is None:
                return own(x, y)
            return self.value(data, kind, first or second, x.handle.dtype)

        return made

    def minus(self, own: Own) -> Own:
        take = self.binary(np.subtract, turned=True)(lambda x, y: own(x))

        def made(x: Any) -> Any:
            return take(x, 0)

        return made

    def unary(self, call: Any) -> Made:
        def make(own: Own) -> Own:
            def made(x: Any, **options: Any) -> Any:
                if options or type(x) is not self.tensor or x.dtype.name != "fp32":
                    return own(x, **options)
                return self.value(call(x.handle.data), x.dtype, self.is_block(x), x.handle.dtype)

            return made

        return make

    def to(self, own: Own) -> Own:
        def made(x: Any, dtype: Any, **options: Any) -> Any:
            if options or not isinstance(dtype, self.core.dtype):
                return own(x, dtype, **options)
            source, target = x.dtype.name, dtype.name
            if source == target:
                return x
            whole = source in WHOLE or source == "int1"
            # to a GPU's sixteen bits the interpreter goes by what the data says that they are
            if not whole or target not in NUMBERS or x.handle.dtype.name == "bf16":
                return own(x, dtype)
            data = x.handle.data.astype(NUMBERS[target])
            return self.value(data, self.types[target], self.is_block(x), self.types[target])

        return made

    def item(self, own: Own) -> Own:
        """A block with axes of length one."""

        def made(x: Any, slices: Any) -> Any:
            data, sizes, axis = x.handle.data, [], 0
            if type(slices) is not builtins.tuple or not self.is_block(x):
                return own(x, slices)
            for each in slices:
                if each is None:
                    sizes.append(1)
                elif each == slice(None) and axis < data.ndim:
                    sizes.append(data.shape[axis])
                    axis += 1
                else:
                    return own(x, slices)
            if axis != data.ndim:
                return own(x, slices)
            return self.value(data.reshape(sizes), x.dtype, True, x.handle.dtype.scalar)

        return made

    def program(self, own: Own) -> Own:
        def made(axis: Any) -> Any:
            place = self.builder.grid_idx
            if place is None or type(axis) is not int or not 0 <= axis < 3:
                return own(axis)
            kind = self.types["int32"]
            return self.value(np.array([place[axis]], dtype=np.int32), kind, False, kind)

        return made

    def range(self, own: Own) -> Own:
        """Each range once: nothing writes to a value."""

        def made(start: Any, end: Any) -> Any:
            if type(start) is not int or type(end) is not int:
                return own(start, end)
            if (start, end) not in self.ranges:
                data = own(start, end).handle.data
                data.flags.writeable = False
                self.ranges[start, end] = data
            return self.value(
                self.ranges[start, end], self.types["int32"], True, self.types["int32"]
            )

        return made

    def full(self, own: Own) -> Own:
        def made(shape: Any, value: Any, dtype: Any) -> Any:
            name = getattr(dtype, "name", None)
            data = None if name not in NUMBERS else constant(value, name, self.constants)
            if data is None or not shape or not all(type(size) is int for size in shape):
                return own(shape, value, dtype)
            return self.value(np.full(tuple(shape), data), dtype, True, dtype)

        return made

    def where(self, own: Own) -> Own:
        def made(condition: Any, x: Any, y: Any) -> Any:
            values = [each for each in (x, y) if type(each) is self.tensor]
            if type(condition) is not self.tensor or condition.dtype.name != "int1" or not values:
                return own(condition, x, y)
            name = values[0].dtype.name
            if name not in NUMBERS or values[-1].dtype.name != name:
                return own(condition, x, y)
            a, b = (
                each.handle.data
                if type(each) is self.tensor
                else constant(each, name, self.constants)
                for each in (x, y)
            )
            given = [condition, *values]
            shapes = [each.handle.data.shape for each in given if self.is_block(each)]
            if a is None or b is None or (shapes and not fit(*shapes)):
                return own(condition, x, y)
            data = np.where(condition.handle.data, a, b)
            if len(shapes) < 3:
                data = over(data, bool(shapes))
            inner = y.handle.dtype.scalar if type(y) is self.tensor else self.types[name]
            return self.value(data, self.types[name], bool(shapes), inner)

        return made

    # -- memory

    def is_usual(self, pointer: Any, options: dict[str, Any]) -> bool:
        """Whether these are addresses of whole bytes, and nothing new is said of them."""
        if type(pointer) is not self.tensor or pointer.dtype.__class__ is not self.pointer:
            return False
        element = pointer.dtype.element_ty
        if element.name == "int1" or element.is_block():
            return False
        return not options or self.told(options)

    def masked(self, pointer: Any, mask: Any) -> Any:
        """The mask as the pointers lie, where both are usual; None where not."""
        if type(mask) is not self.tensor or mask.dtype.name != "int1":
            return None
        data, shape = mask.handle.data, pointer.handle.data.shape
        if self.is_block(pointer) and not self.is_block(mask):
            data = np.full(shape, data)
        elif self.is_block(pointer) != self.is_block(mask):
            return None
        elif data.shape != shape:
            if not fit(data.shape, shape) or any(
                size < other for size, other in zip(shape, data.shape, strict=True)
            ):
                return None
            data = np.broadcast_to(data, shape)
        handle = object.__new__(self.handle)
        handle.data, handle.dtype, handle.attr = data, mask.handle.dtype.scalar, {}
        return handle

    def told(self, options: dict[str, Any]) -> bool:
        """Whether a load or store has had the same options; the interpreter does nothing by them
        but look at how they are spelled."""
        return options.keys() <= HINTS and all(
            (name, each) in self.hints for name, each in options.items()
        )

    def tell(self, options: dict[str, Any]) -> None:
        self.hints |= {each for each in options.items() if each[0] in HINTS}

    def load(self, own: Own) -> Own:
        def made(pointer: Any, mask: Any = None, other: Any = None, **options: Any) -> Any:
            # what is left out is 0 where nothing else is said
            usual = other is None or (
                mask is not None and type(other) in (int, float) and other == 0
            )
            usual = usual and self.is_usual(pointer, options)
            handle = self.masked(pointer, mask) if usual and mask is not None else None
            if not usual or (mask is not None and handle is None):
                found = own(pointer, mask, other, **options)
                self.tell(options)
                return found
            at = pointer.handle
            if handle is None:
                read = self.builder.create_load(at, None, None, False)
            else:
                read = self.builder.create_masked_load(at, handle, None, None, None, False)
            element = at.get_element_ty()
            return self.value(read.data, element, self.is_block(pointer), read.dtype)

        return made

    def store(self, own: Own) -> Own:
        def made(pointer: Any, value: Any, mask: Any = None, **options: Any) -> Any:
            usual = type(value) is self.tensor and self.is_usual(pointer, options)
            usual = usual and not pointer.dtype.const
            usual = usual and self.is_block(value) == self.is_block(pointer)
            usual = usual and value.handle.data.shape == pointer.handle.data.shape
            handle = self.masked(pointer, mask) if usual and mask is not None else None
            if not usual or (mask is not None and handle is None):
                found = own(pointer, value, mask, **options)
                self.tell(options)
                return found
            at = pointer.handle
            kept = self.semantic.cast(value, pointer.dtype.element_ty).handle
            if handle is None:
                done = self.builder.create_store(at, kept, None, None)
            else:
                done = self.builder.create_masked_store(at, kept, handle, None, None)
            return self.tensor(done, self.core.void)

        return made


def _quotient(x: Any, y: Any) -> Any:
    """As GPUs divide integers: toward zero."""
    return (x - np.fmod(x, y)) // y
