"""Triton's interpreter with less Python around each operation of a kernel.

A kernel at a check's sizes takes a GPU microseconds, and the interpreter most of its time to say
which types its values have: it makes the type of every value anew, looks dtypes up in a table that
it writes down first, and works out for each sum of integers whether it overflows, to say so only in
Triton's debug mode. What is put in the place of that here gives the same types, values and errors.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

# the releases of Triton whose interpreter this is written for; any other runs as it is
RELEASES = ("3.6",)


@contextmanager
def quick() -> Iterator[bool]:
    """Whether the interpreter is one of those that are known; nothing is changed of any other, nor
    where triton compiles for a GPU."""
    import triton
    from triton.language import core, semantic
    from triton.runtime import interpreter

    with ExitStack() as stack:
        stack.enter_context(replaced(interpreter, "_patch_lang", _patched_once))
        known = triton.__version__.rpartition(".")[0] in RELEASES
        if known:
            for place, name, made in (
                (core.block_type, "__init__", _block_type),
                (core.tensor, "__init__", _tensor),
                (core.tuple, "__eq__", _equal_tuples),
                (interpreter, "_get_np_dtype", _np_dtype),
                (interpreter, "_patch_builtin", _builtins),
                (semantic.TritonSemantic, "binary_op_sanitize_overflow_impl", _overflow),
            ):
                stack.enter_context(replaced(place, name, made))
        yield known


@contextmanager
def replaced(place: Any, name: str, made: Callable[[Any], Any]) -> Iterator[None]:
    """Have what `made` makes of an attribute in its place, where there is one of this name."""
    own: Any = getattr(place, name, None)
    if own is None:
        yield
        return
    setattr(place, name, made(own))
    try:
        yield
    finally:
        setattr(place, name, own)


def _patched_once(patch: Any) -> Any:
    """The language patched once a launch, not for every function that a kernel calls.

    Where the interpreter does not say when a launch is over, as often as it likes.
    """
    # the modules whose functions see the language patched, in the order in which they came
    seeing: list[int] = []

    def patched(function: Any) -> Any:
        module, place = id(function.__globals__), len(seeing)
        if module in seeing:
            return SimpleNamespace(restore=lambda: None)
        scope = patch(function)
        restore = getattr(scope, "restore", None)
        if restore is not None:

            def restored() -> None:
                restore()
                del seeing[place:]

            seeing.append(module)
            scope.restore = restored
        return scope

    return patched


def _block_type(init: Any) -> Any:
    """What a block's type says of its shape, kept by shape and element."""
    known: dict[tuple[Any, ...], tuple[Any, int, str]] = {}

    def made(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(getattr(size, "value", size) for size in shape))
        if key not in known:
            init(self, element_ty, shape)
            known[key] = self.shape, self.numel, self.name
        self.element_ty = element_ty
        self.shape, self.numel, self.name = known[key]

    return made


def _tensor(init: Any) -> Any:
    """What a value says of its shape, kept by shape."""
    from triton.language.core import constexpr
    from triton.language.core import tuple as listed

    known: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def made(self: Any, handle: Any, type: Any) -> None:
        sizes = tuple(type.shape.values) if type.is_block() else ()
        if sizes not in known:
            known[sizes] = constexpr(math.prod(sizes)), listed([constexpr(each) for each in sizes])
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = known[sizes]

    return made


def _equal_tuples(equal: Any) -> Any:
    """Shapes compared without a type for either."""
    from triton.language.core import constexpr
    from triton.language.core import tuple as listed

    answers = {answer: constexpr(answer) for answer in (True, False)}

    def made(self: Any, other: Any) -> Any:
        if isinstance(other, listed):
            other = other.values
        if isinstance(other, list) and all(type(each) is int for each in other):
            return answers[bool(self.values == other)]
        return equal(self, other)

    return made


def _np_dtype(find: Any) -> Any:
    """NumPy's dtypes by the names of Triton's."""
    from triton.language.core import block_type, pointer_type

    known: dict[str, Any] = {}

    def made(kind: Any) -> Any:
        element: Any = kind.element_ty if isinstance(kind, block_type) else kind
        name = "pointer" if isinstance(element, pointer_type) else element.name
        if name not in known:
            known[name] = find(kind)
        return known[name]

    return made


def _overflow(check: Any) -> Any:
    """Sums that are looked at only where an overflow would be told."""

    def made(self: Any, *args: Any) -> None:
        if self.builder.options.debug:
            check(self, *args)

    return made


def _builtins(patch: Any) -> Any:
    """The language's functions looked for once, and called without what asks for a compiler."""
    from triton.language import core
    from triton.language.semantic import TritonSemantic

    from kvgen.checking.direct import Direct

    # a function is a closure of the decorator's, which asks whether a compiler is given
    asks = core.builtin(_builtins).__code__
    known: dict[Any, list[tuple[str, Any]]] = {}
    direct: dict[Any, Direct] = {}

    def interpreted(member: Any, semantic: Any) -> Any:
        function = member.__wrapped__ if member.__code__ is asks else member

        def call(*args: Any, **kwargs: Any) -> Any:
            kwargs["_semantic"] = semantic
            return function(*args, **kwargs)

        return call

    def found(package: Any, builder: Any) -> Iterator[tuple[str, Any]]:
        if builder not in direct:
            direct[builder] = Direct(TritonSemantic(builder))
        made, semantic = direct[builder].made, direct[builder].semantic
        for name, member in inspect.getmembers(package):
            if core.is_builtin(member):
                yield name, made(package, name, interpreted(member, semantic))

    def made(package: Any, builder: Any, scope: Any) -> None:
        if (package, builder) not in known:
            known[package, builder] = list(found(package, builder))
        functions = known[package, builder]
        # a launch sees some packages through more than one module
        if functions and vars(package).get(functions[0][0]) is functions[0][1]:
            return
        for name, call in functions:
            scope.set_attr(package, name, call)

    return made
