"""The module's functions as custom ops, which `torch.compile` takes as they are.

torch.ops.kvgen_<name>_<hash>.<function>(cache.handle, cache.flat(), …): results go to
`out`, and the cache's tensors are declared as changed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import wrong
from kvgen.runtime.cache import Cache
from kvgen.runtime.launches import Given
from kvgen.runtime.memory import check_out
from kvgen.runtime.numbers import unknown
from kvgen.runtime.storage import Storage
from kvgen.runtime.table import Table

register_fake: Any = operator.attrgetter("register_fake")(torch.library)

CACHE = "SymInt cache, Tensor(a!)[] _tensors"
# the tensors that functions may take beside a layer, slots, out, inputs and parameters
CALLS = {
    "decode": (),
    "recurrent": (),
    "verify": ("parents",),
    "extend": ("lengths", "starts"),
}
ENDS = {
    "advance": "Tensor slots, Tensor? force=None",
    "accept": (
        "Tensor slots, Tensor? counts=None, Tensor? path=None, Tensor? force=None, bool late=False"
    ),
    "flush": "Tensor? slots=None",
}


def define_ops(table: Table) -> None:
    """Define the module's ops, but for those that another import of the same text has."""
    known = getattr(torch.ops, table.namespace)
    given = "".join(f", Tensor {each.name}" for each in (*table.inputs, *table.params))
    for name, more in CALLS.items():
        if name in table.names and not hasattr(known, name):
            tail = given + "".join(f", Tensor? {each}=None" for each in more)
            schema = f"({CACHE}, SymInt layer, Tensor slots, Tensor(b!) out{tail}) -> ()"
            define_op(table.namespace, name, schema, called(table, name))
    for name, arguments in ENDS.items():
        if not hasattr(known, name):
            define_op(table.namespace, name, f"({CACHE}, {arguments}) -> ()", ended(table, name))


def define_op(namespace: str, name: str, schema: str, function: Callable[..., None]) -> None:
    op = f"{namespace}::{name}"
    torch.library.define(op, schema)
    torch.library.impl(op, "CompositeExplicitAutograd", function)
    register_fake(op, nothing)


def nothing(*_: Any, **__: Any) -> None:
    """What an op gives back: all it does is in tensors that it is given."""


def over(namespace: str, handle: int, tensors: list[Tensor]) -> Storage:
    """The cache of a handle, over these tensors: a compiler that allows no changes in place copies
    what an op changes, and has it work on the copies."""
    caches = unknown(vars(getattr(torch.ops, namespace)))["caches"]
    cache: Storage | None = caches.get(handle)
    if cache is None:
        raise wrong("cache", handle, "the handle of a cache that is still there")
    own = cache.flat()
    if len(own) != len(tensors):
        raise wrong("_tensors", len(tensors), f"the {len(own)} of cache.flat()")
    same = all(a.data_ptr() == b.data_ptr() for a, b in zip(own, tensors, strict=True))
    return cache if same else cache.with_tensors(tensors)


def called(table: Table, name: str) -> Callable[..., None]:
    names = [each.name for each in (*table.inputs, *table.params)]
    namespace = table.namespace

    def call(
        cache: int, tensors: list[Tensor], layer: int, slots: Tensor, out: Tensor,
        *given: Tensor, **more: Any,
    ) -> None:  # fmt: skip
        found = over(namespace, cache, tensors)
        # what comes by position is what the schema has, in its order
        options = dict(zip(CALLS[name], given[len(names) :], strict=False)) | more
        inputs = dict(zip(names, given, strict=False))
        inputs |= {each: options.pop(each) for each in names if each in options}
        found.table.names[name](found, layer, slots, **inputs, **options, out=out)

    return call


def ended(table: Table, name: str) -> Callable[..., None]:
    namespace = table.namespace

    def end(cache: int, tensors: list[Tensor], *given: Any, **more: Any) -> None:
        found = over(namespace, cache, tensors)
        found.table.names[name](found, *given, **more)

    return end


def traced(
    cache: Cache, name: str, layer: int, slots: Tensor, given: Given, out: Tensor | None,
    front: tuple[int, ...], *more: Tensor | None,
) -> Tensor:  # fmt: skip
    """A call inside of what `torch.compile` traces: one op."""
    table = cache.table
    out = check_out(cache, None, front, given) if out is None else out
    arguments = [given[each.name] for each in (*table.inputs, *table.params)]
    op = getattr(getattr(torch.ops, cache.namespace), name)
    op(cache.handle, cache.flat(), layer, slots, out, *arguments, *more)
    return out


def traced_end(cache: Cache, name: str, *given: Any) -> None:
    op = getattr(getattr(torch.ops, cache.namespace), name)
    op(cache.handle, cache.flat(), *given)
