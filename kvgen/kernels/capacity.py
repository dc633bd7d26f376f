"""Which kernels a GPU cannot hold, by the rules of thumb that they would run with."""

from __future__ import annotations

from collections.abc import Callable, Collection

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.features import ALL, SHORT
from kvgen.kernels.kernel import Kernel
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import load_of
from kvgen.kernels.registry import kernels_of
from kvgen.kernels.size import Need, Size


def needs(form: Form, records: Records, features: Collection[str] = ALL) -> list[Need]:
    """What the kernels of a module with these features take, each by the batch that takes most;
    those over pages last."""
    size, load = Size(form, records), load_of(form, records)

    def most(kernel: Kernel, need: Callable[[Size, Config], Need | None]) -> list[Need]:
        every = [need(size, config) for config in kernel.untuned(load).values()]
        found = [each for each in every if each is not None]
        return [max(found, key=lambda need: (need.shared, need.values))] if found else []

    found, paged = [], []
    for kernel in kernels_of(form):
        # the recurrence itself is no feature, and always there
        if kernel.function in ALL and kernel.function not in features:
            continue
        found += most(kernel, kernel.need)
        paged += most(kernel, kernel.paged_need) if SHORT in features else []
    return [*found, *sorted(paged, key=lambda need: need.kernel)]


def unheld(form: Form, records: Records, features: Collection[str] = ALL) -> list[Need]:
    """Those that no GPU can hold."""
    return [need for need in needs(form, records, features) if need.reason is not None]
