"""The states of one of the caller's caches: a slot of a module's cache for each of its rows.

A step ends with `advance` or `accept` and folds by the module's own rule. Where the caller may take
tokens back, as in assisted generation, the host keeps count: cursors are set, and rows fold only in
front of a step that has no room.
"""

from __future__ import annotations

from typing import Any
from weakref import ReferenceType

import torch

from kvgen.integrations.transformers.adapters import Named
from kvgen.integrations.transformers.served import Served


class States:
    """cursor: the records of each row while tokens may be taken back, else None. depth: how many
    tokens may be. saved: the rows as they were before they last folded, and their cursor then."""

    def __init__(self, served: Served, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        self.served, self.device, self.dtype = served, device, dtype
        self.cursor: int | None = None
        self.depth = 0
        self.saved: tuple[dict[str, torch.Tensor], int] | None = None
        self.layers: list[ReferenceType[Any] | None] = [None] * len(served.indices)
        # of the states as the layers' own code has them
        self.dtypes: dict[int, torch.dtype] = {}
        self.allocate(rows)
        served.alive.add(self)

    def allocate(self, rows: int) -> None:
        served = self.served
        self.cache = served.module.Cache.empty(
            rows,
            len(served.indices),
            device=self.device,
            dtype=self.dtype,
            buffer=served.buffer,
            window=served.window,
        )
        self.slots = torch.arange(rows, dtype=torch.int32, device=self.device)
        # what CUDA graphs may change in place
        for tensor in (self.slots, *self.cache.flat()):
            torch._dynamo.mark_static_address(tensor)

    @property
    def rows(self) -> int:
        return self.cache.slots

    # -- prompts, which the layers' own code reads

    def begin(self, rows: int) -> None:
        """A new conversation, of any number of rows."""
        if rows != self.rows:
            self.allocate(rows)
        self.cache.reset(self.slots)
        self.forget()

    def forget(self) -> None:
        """No token may be taken back."""
        self.cursor, self.depth, self.saved = None, 0, None

    def settle(self) -> None:
        """All records into the states."""
        self.served.module.flush(self.cache, self.slots)
        self.forget()

    def load(self, place: int, state: torch.Tensor) -> None:
        """What a layer's own code has left."""
        self.dtypes[place] = state.dtype
        turned = self.served.adapter.turned(state.detach().float())
        self.cache.load(place, self.slots, turned.contiguous())

    def read(self, place: int) -> torch.Tensor:
        """The same for the layer's own code."""
        turned = self.served.adapter.turned(self.cache.read(place, self.slots))
        return turned.to(self.dtypes.get(place, turned.dtype)).contiguous()

    # -- steps

    def make_ready(self, tokens: int, recording: bool) -> None:
        """Before a step's first layer: room for its records."""
        if not recording:
            if self.cursor is not None:
                self.settle()
            return
        if self.cursor is None:
            self.cursor = int(self.cache.cursors.max())
        if self.cursor + tokens > self.served.buffer:
            if self.depth:
                self.saved = self.cache.save(self.slots), self.cursor
                self.depth = min(self.depth, self.cursor)
            self.served.module.flush(self.cache, self.slots)
            self.cursor = 0

    def step(self, place: int, inputs: Named, params: Named) -> torch.Tensor:
        """A layer's outputs [B, T, HV, V] for tokens [B, T, …]."""
        module, cache, slots = self.served.module, self.cache, self.slots
        inputs = {name: x.to(self.dtype) for name, x in inputs.items()}
        tokens = next(iter(inputs.values())).shape[1]
        if tokens == 1:
            single = {name: x[:, 0] for name, x in inputs.items()}
            return module.decode(cache, place, slots, **single, **params)[:, None]
        outputs = []
        for start in range(0, tokens, cache.window):
            if start:
                # a longer window in parts, each seen by those behind it
                self.seek(self.base + start)
            part = {name: x[:, start : start + cache.window] for name, x in inputs.items()}
            outputs.append(self.verify(place, part, params, self.base + start))
        if len(outputs) > 1:
            self.seek(self.base)
        return torch.cat(outputs, dim=1)

    def verify(self, place: int, inputs: Named, params: Named, cursor: int) -> torch.Tensor:
        """A window at a cursor. It is filled up to a power of two where there is room: kernels are
        compiled for each length of windows, and what is behind the tokens is never kept."""
        tokens = next(iter(inputs.values())).shape[1]
        width = min(1 << (tokens - 1).bit_length(), self.cache.window, self.cache.buffer - cursor)
        filled = {name: padded(x, max(tokens, width)) for name, x in inputs.items()}
        said = self.served.module.verify(self.cache, place, self.slots, **filled, **params)
        return said[:, :tokens]

    @property
    def base(self) -> int:
        """Where a step's records begin, as far as is known: there is room for a window."""
        return self.cursor or 0

    def end(self, tokens: int) -> None:
        """After a step's last layer: its tokens are there."""
        module, cache, slots = self.served.module, self.cache, self.slots
        if self.cursor is not None:
            self.cursor += tokens
            self.depth += tokens
            self.seek(self.cursor)
        elif tokens == 1:
            module.advance(cache, slots)
        else:
            module.accept(cache, slots, counts=torch.full_like(slots, tokens))

    def seek(self, cursor: int) -> None:
        self.cache.seek(self.slots, torch.full_like(self.slots, cursor))

    # -- what is done to caches

    def take_back(self, tokens: int) -> None:
        """The last tokens have never been."""
        if tokens > self.depth:
            raise ValueError(
                f"crop: {tokens} tokens, expected at most {self.depth}, as what came before them "
                "is folded into the state; accelerate(model, assisted=True, buffer=...) with more "
                f"places than {self.served.buffer} keeps more"
            )
        if tokens:
            assert self.cursor is not None
            if tokens > self.cursor:
                assert self.saved is not None
                saved, cursor = self.saved
                self.cache.restore(self.slots, saved)
                self.cursor += cursor
            self.cursor -= tokens
            self.seek(self.cursor)
        self.depth, self.saved = 0, None

    def select(self, rows: torch.Tensor) -> None:
        """Row i becomes what row rows[i] was; there may be more or fewer of them."""
        old, rows = self.cache, rows.to(self.device)
        if rows.numel() != self.rows:
            self.allocate(rows.numel())
        for name, tensor in self.cache.tensors.items():
            # a scratch of no row's
            if name != "work":
                tensor.copy_(old.tensors[name].index_select(0, rows))
        self.depth, self.saved = 0, None

    def __deepcopy__(self, memo: dict[int, Any]) -> States:
        twin = States(self.served, self.rows, self.device, self.dtype)
        memo[id(self)] = twin
        for name, tensor in twin.cache.tensors.items():
            tensor.copy_(self.cache.tensors[name])
        twin.cursor, twin.depth, twin.saved = self.cursor, self.depth, self.saved
        twin.dtypes = dict(self.dtypes)
        return twin


def padded(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """x [B, T, …] with zeros behind its tokens."""
    if x.shape[1] == tokens:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], tokens - x.shape[1], *x.shape[2:])], dim=1)
