"""Kernels whose own lines a schedule gives, and what text asks of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.addresses import carried_address
from kvgen.codegen.tensors import CacheTensor


class Prepared(Protocol):
    """What one kernel leaves for another of a block."""

    @property
    def facts(self) -> Mapping[str, int]: ...
    @property
    def matrices(self) -> Sequence[object]: ...
    @property
    def vectors(self) -> Sequence[object]: ...
    @property
    def parts(self) -> int: ...
    @property
    def vector_parts(self) -> int: ...


class Scheduled(Protocol):
    """A kernel's own lines, as a schedule gives them: and the functions that they call, of the
    module and of the language."""

    @property
    def lines(self) -> list[str]: ...
    @property
    def helpers(self) -> Collection[str]: ...
    @property
    def functions(self) -> Collection[str]: ...
    @property
    def prepared(self) -> Prepared | None: ...
    @property
    def per_head(self) -> bool: ...
    @property
    def given(self) -> Collection[str]: ...


Schedule = Callable[[Form, Records], Mapping[str, Scheduled]]


def of_groups(kernel: Scheduled, tensors: list[CacheTensor]) -> bool:
    """Whether a kernel, or where tensors begin, takes the number of the head's group."""
    return "group" in kernel.given or any(t.head == "H" for t in tensors)


def has_groups(lines: str, tensors: list[CacheTensor], form: Form | None = None) -> bool:
    """Whether the code uses the number of the head's group."""
    places = [t.head_offset for t in tensors]
    if form is not None:
        places += [carried_address(form, carry.tensor.name, "0") for carry in form.carries]
    return re.search(r"\bgroup\b", "\n".join([lines, *places])) is not None
