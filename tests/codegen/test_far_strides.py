"""Strides beyond 32 bits, of inputs, outputs, parameters, parents and the cache: the same numbers,
bit for bit, as on contiguous copies. In the interpreter; test_lowering.py has every kernel's text,
tests/test_gpu_far_strides.py a prompt of a real size."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from far import Far
from twins import made

from kvgen.checking.samples import Sampler

SLOTS, ROWS, WINDOW = 3, (2, 1), 6
# what is far: an axis of inputs, parameters, outputs and parents by its name, and one of the cache
CASES = [
    ("gated_deltanet", "token", "layer"),
    ("gated_deltaproduct", "extra", "slot"),
    ("kimi_delta_attention", "head", "slot"),
    ("mlstm", "token", "slot"),
    ("mlstm", "token", "layer"),
]
BOOKS = {"cursors", "skipped", "pending", "work", "pages", "state_pages", "stateful"}
SHORT = [CASES[0], ("gated_deltanet", "head", "slot"), ("mlstm", "token", "slot")]


def far_axis(given: str, axes: tuple[str, ...]) -> int | None:
    """Where a tensor with such axes is far; its last axis is contiguous."""
    for at, axis in enumerate(axes[:-1]):
        named = {"H": "head", "HV": "head", "T": "token", "B": "row"}.get(axis, "extra")
        if named == given and axis not in "KV":
            return at
    return None


class Session:
    """Steps of every kind with one cache, whose results are compared with another session's.

    given, held: which axis is far of what calls are given, and of what the cache holds.
    """

    def __init__(self, name: str, given: str, held: str, short: bool, far: Far | None) -> None:
        # as many as show what is beyond 32 bits
        sizes = {"head": {"H": 3, "HV": 3}, "extra": {"N": 3}}.get(given, {})
        self.layers = 3 if held == "layer" else 1
        self.made = made(name, "state=float32", **sizes)
        self.module, self.spec = self.made.module, self.made.analysis.spec
        self.given, self.held, self.short, self.far = given, held, short, far
        self.sampler = Sampler(self.spec, "cpu", 7)
        options = {"short_context": 16} if short else {}
        cache = self.module.Cache.empty(
            SLOTS, self.layers, device="cpu", dtype=torch.float32, buffer=8, window=WINDOW,
            **options, **({"pages": 4, "states": 4} if short else {}),
        )  # fmt: skip
        self.cache = self.placed_cache(cache)
        if short:
            # the rows have pages 1 and 2, of which one is far
            self.cache.reserve([0, *ROWS], 64)
        self.slots = torch.tensor(ROWS, dtype=torch.int32)
        drawn = self.sampler.params()
        self.params = {t.name: self.placed(drawn[t.name], t.axes) for t in self.spec.params}

    def placed(self, x: torch.Tensor, axes: tuple[str, ...]) -> torch.Tensor:
        axis = far_axis(self.given, axes)
        return x if self.far is None or axis is None else self.far.like(x, axis)

    def placed_cache(self, cache: Any) -> Any:
        axis = {"slot": 0, "layer": 1}[self.held]
        if self.far is None:
            return cache
        tensors = {
            name: x if name in BOOKS else self.far.like(x, axis)
            for name, x in cache.tensors.items()
        }
        options = {"short_context": 16, "buffer": 8} if self.short else {}
        return self.module.Cache.wrap(tensors, window=WINDOW, **options)

    def inputs(self, tokens: int | None) -> dict[str, torch.Tensor]:
        """[B, …], or [B, T, …]."""
        each = [self.sampler.inputs(len(ROWS), torch.float32) for _ in range(tokens or 1)]
        front = ("B",) if tokens is None else ("B", "T")
        return {
            t.name: self.placed(
                each[0][t.name] if tokens is None else torch.stack([x[t.name] for x in each], 1),
                (*front, *t.axes),
            )
            for t in self.spec.inputs
        }

    def call(self, kind: str, tokens: int | None = None, **more: Any) -> torch.Tensor:
        """The last layer's output. Each layer is given the same."""
        front = (len(ROWS),) if tokens is None else (len(ROWS), tokens)
        out = torch.zeros(*front, self.spec.size("HV"), self.spec.size("V"))
        out = self.placed(out, ("B", "HV", "V") if tokens is None else ("B", "T", "HV", "V"))
        function = getattr(self.module, kind)
        given = {**self.inputs(tokens), **self.params}
        for layer in range(self.layers):
            function(self.cache, layer, self.slots, **given, out=out.zero_(), **more)
        return out.clone()

    def results(self) -> Iterator[torch.Tensor]:
        """Outputs of every kernel and, at the end, what the cache holds."""
        module, cache, slots = self.module, self.cache, self.slots
        counts = torch.tensor([3, 2], dtype=torch.int32)
        yield self.call("extend", 4, lengths=counts)
        module.accept(cache, slots, counts=counts)
        yield self.call("decode")
        module.advance(cache, slots)
        yield self.call("verify", 4)
        module.accept(cache, slots, counts=counts)
        parents = torch.tensor([[-1, 0, 0, 1], [-1, -1, 1, 2]], dtype=torch.int32)
        # an axis of tokens and no other: here it need not be contiguous
        if self.far is not None and self.given == "token":
            parents = self.far.like(parents, 1)
        yield self.call("verify", 4, parents=parents)
        path = torch.tensor([[0, 1, 3, -1], [1, 2, -1, -1]], dtype=torch.int32)
        module.accept(cache, slots, path=path)
        if not self.short:
            yield self.call("recurrent")
            module.advance(cache, slots)
        module.flush(cache)
        last = self.layers - 1
        read = cache.read(last, slots)
        yield from read.values() if isinstance(read, dict) else [read]
        cache.load(last, slots, read)
        yield self.call("decode")
        # kernels that agree on a wrong place find there what they wrote
        yield from (x[list(ROWS), last] for name, x in cache.tensors.items() if name not in BOOKS)


@functools.cache
def nearby(name: str, sizes_of: str, short: bool) -> list[torch.Tensor]:
    """Of one layer, as each of several computes the same."""
    return list(Session(name, sizes_of, "slot", short, None).results())


def same(name: str, given: str, held: str, short: bool) -> None:
    near = nearby(name, given if given in ("head", "extra") else "", short)
    far = list(Session(name, given, held, short, Far()).results())
    assert len(near) == len(far)
    for number, (one, other) in enumerate(zip(near, far, strict=True)):
        assert one.isfinite().all() and one.any(), number
        assert torch.equal(one, other), number


@pytest.mark.parametrize(("name", "given", "held"), CASES)
def test_far_strides(name: str, given: str, held: str) -> None:
    same(name, given, held, short=False)


@pytest.mark.parametrize(("name", "given", "held"), SHORT)
def test_far_strides_of_short_rows(name: str, given: str, held: str) -> None:
    same(name, given, held, short=True)
