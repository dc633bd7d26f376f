"""Kernels whose own lines a schedule gives, and what text asks of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
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


def of_groups(form: Form, kernels: Iterable[Scheduled], tensors: Iterable[CacheTensor]) -> bool:
    """Whether kernels, or where tensors and carried states begin, take the number of the head's
    group."""
    heads = [tensor.head for tensor in tensors]
    heads += [carry.axes.head for carry in form.carries]
    return "H" in heads or any("group" in kernel.given for kernel in kernels)
