"""Which functions of the module a kernel calls."""

from __future__ import annotations

from collections.abc import Collection

from kvgen.functions.function import Function
from kvgen.ir.values import Helper, Kernel, Let, everywhere


def helpers_of(kernel: Kernel) -> Collection[str]:
    """Their names, in the order in which they are called first; functions of the language by
    theirs."""
    found: dict[str, None] = {}
    for statement in everywhere(kernel.body):
        if not isinstance(statement, Let):
            continue
        detail = statement.value.detail
        if isinstance(detail, Helper) or (isinstance(detail, Function) and detail.triton_helpers):
            found[detail.name] = None
    return tuple(found)
