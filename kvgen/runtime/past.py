"""A cache of inputs with a past: what they were some tokens ago, once a row and layer.

An input's last tokens lie in a ring of places, which tokens to come share. `order` names the places
of a row's rings, those of all inputs and layers alike: first of the tokens that the row holds, the
oldest first, then of those to come. A step writes to these alone, and its end has the order turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kvgen.runtime.arguments import check_slots, describe, wrong
from kvgen.runtime.cache import Cache
from kvgen.runtime.contents import Saved
from kvgen.runtime.launches import Given, launch
from kvgen.runtime.numbers import parts_of, power_of_two, unknown
from kvgen.runtime.storage import Shapes


class Past(NamedTuple):
    """How many of an input's last tokens are kept."""

    input: str
    tokens: int


class Remembering(Cache):
    """The state, buffer, cursor and past inputs of every request, for all layers of one pipeline
    rank.

    tensors: those of any cache, and for each input with a past its ring `past_<x>`, [slots, layers,
    places, *axes] in the inputs' dtype, with `order` [slots, places] int32. places: as many as the
    input that goes back most needs, and max(1, window) more.
    """

    # by the rings' names
    pasts: Mapping[str, Past] = {}

    def size_up(self, tensors: Mapping[str, Any]) -> None:
        super().size_up(tensors)
        name = next(iter(self.pasts))
        ring: Any = self.groups[0][name]
        if not isinstance(ring, Tensor):
            raise wrong(name, describe(ring), "a tensor, or a list with one for each layer")
        # they are as they came
        self.dtype = ring.dtype

    def prepare(self, shapes: Shapes, books: tuple[str, ...]) -> None:
        self.ring = self.ring_of(self.window)
        ordered = "order" in self.tensors
        super().prepare(self.with_rings(shapes, self.window), (*books, "order"))
        if not ordered:
            # every place of a ring once, whatever the rows hold
            order = self.tensors["order"]
            order.copy_(torch.arange(self.ring, device=self.device).expand_as(order))
        kind: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        # what rows are loaded with where nothing is given
        self.zeros = {
            name: torch.zeros(shape, **kind) for name, shape in self.past_shapes(1).items()
        }

    @classmethod
    def held_past(cls) -> int:
        """How many tokens the rings hold beside those to come."""
        return max(past.tokens for past in cls.pasts.values())

    @classmethod
    def ring_of(cls, window: int) -> int:
        return cls.held_past() + max(1, window)

    @classmethod
    def with_rings(cls, shapes: Shapes, window: int) -> Shapes:
        found, places = dict(shapes), cls.ring_of(window)
        for name in cls.pasts:
            (slots, layers, _, *axes), dtype = shapes[name]
            found[name] = (slots, layers, places, *axes), dtype
        return found | {"order": ((shapes["cursors"][0][0], places), torch.int32)}

    @classmethod
    def planned(cls, slots: int, layers: int, **options: Any) -> tuple[Any, Shapes, dict[str, Any]]:
        kind, shapes, found = super().planned(slots, layers, **options)
        return kind, cls.with_rings(shapes, found["window"]), found

    @classmethod
    def needed(cls) -> tuple[tuple[str, ...], tuple[str, ...]]:
        needed, books = super().needed()
        return needed, (*books, "order")

    def books(self) -> list[Any]:
        return [*super().books(), *self.ring_books()]

    def ring_books(self) -> list[Any]:
        """In which order a row has its places, and how many they are."""
        return [self.tensors["order"], self.ring]

    # -- steps

    def run_recurrent(self, layer: int, slots: Tensor, given: Given, out: Tensor) -> None:
        super().run_recurrent(layer, slots, given, out)
        self.record_past(layer, slots, given, 1)

    def run_extend(
        self, layer: int, slots: Tensor, lengths: Tensor, given: Given, out: Tensor,
        packed: bool = False,
    ) -> None:  # fmt: skip
        super().run_extend(layer, slots, lengths, given, out, packed)
        tokens = out.shape[0 if packed else 1]
        self.record_past(layer, slots, given, tokens, lengths, packed)

    def record_past(
        self, layer: int, slots: Tensor, given: Given, tokens: int,
        lengths: Tensor | None = None, packed: bool = False,
    ) -> None:  # fmt: skip
        """Keep the inputs of a call that writes in place; none of its own programs may, as they
        come in the place of what others read."""
        tensors, inner = self.at(layer)
        for name, past in self.pasts.items():
            x, ring = given[past.input], tensors[name]
            axes = ring.dim() - 3
            strides = list(x.stride())
            front, own = strides[: x.dim() - axes], strides[x.dim() - axes :]
            row, token = front[0], front[-1]
            width = ring.shape[-1] if axes else 1
            size = math.prod(ring.shape[3:])
            launch(
                self, "record_past", (slots.numel(), parts_of(size, 256)), x, slots,
                slots if lengths is None else lengths, *self.ring_books(), ring, tokens, *self.rows,
                ring.stride(0), inner * ring.stride(1), self.held_past(), past.tokens, row, token,
                own[0] if axes > 1 else 0, width, size, LENGTHS=lengths is not None, PACKED=packed,
                BLOCK=256, num_warps=1,
            )  # fmt: skip

    def run_advance(
        self, slots: Tensor, force: Tensor | None, keep: str, kept: Tensor | None = None,
        late: bool = False,
    ) -> None:  # fmt: skip
        if keep not in ("none", "all"):
            nodes = kept.shape[1] if kept is not None and keep == "path" else 1
            launch(
                self, "turn", (parts_of(slots.numel(), 32),), slots, self.cursors,
                *self.ring_books(), self.tensors["pending"], slots if kept is None else kept,
                slots.numel(), *self.rows, self.held_past(), PLACES=self.buffer, KEEP=keep,
                TOKENS=nodes, LATE=late, SPAN=power_of_two(self.ring), BLOCK=32, num_warps=4,
            )  # fmt: skip
        super().run_advance(slots, force, keep, kept, late)

    # -- rows

    def begin_order(self, slots: Tensor) -> None:
        """Have places in the order in which they lie, whatever was there."""
        launch(
            self, "begin_order", (slots.numel(),), self.tensors["order"], slots, *self.rows,
            self.ring, SPAN=power_of_two(self.ring),
        )  # fmt: skip

    def reset(self, slots: Tensor) -> None:
        super().reset(slots)
        slots = slots.contiguous()
        self.begin_order(slots)
        for name in self.pasts:
            for tensor, layers, stride in self.over(name):
                size = tensor[0, 0].numel()
                launch(
                    self, "fill", (slots.numel(), layers, parts_of(size, 1024)), tensor, slots,
                    *self.rows, tensor.stride(0), stride, size, 0.0, BLOCK=1024,
                )  # fmt: skip

    def load(self, layer: int, slots: Tensor, state: Any) -> None:
        """Write one layer's state; moves no cursor.

        state: [n, HV, K, V] float32, or a dict of it and of all carried states by name, each
        [n, *axes], and of `past_<x>`, what inputs were before, [n, count, *axes] in the inputs'
        dtype, the oldest first; zeros where it is not there.
        """
        given = unknown(state if isinstance(state, Mapping) else {self.table.state: state})
        pasts = {name: given[name] for name in self.pasts if name in given}
        rest = {name: each for name, each in given.items() if name not in pasts}
        known = [*(each.name for each in self.table.states), *self.pasts]
        for name in rest:
            if name not in known:
                raise wrong("state", f"no state is called {name!r}", ", ".join(known))
        slots = check_slots(self, "slots", slots)
        shapes = self.past_shapes(slots.numel())
        for name, tensor in pasts.items():
            fits = isinstance(tensor, Tensor) and tuple(tensor.shape) == shapes[name]
            if not fits or tensor.dtype != self.dtype or tensor.device != self.device:
                expected = f"{list(shapes[name])} {self.dtype} on {self.device}"
                raise wrong("state", f"{name} is {describe(tensor)}", expected)
        super().load(layer, slots, rest)
        for name, shape in shapes.items():
            rows = pasts[name].contiguous() if name in pasts else self.zeros[name].expand(shape)
            self.move_past(name, rows.unsqueeze(1), slots, layer, save=False)

    def read(self, layer: int, slots: Tensor) -> dict[str, Tensor]:
        """One layer's state with the unfolded records, [n, HV, K, V] float32, by name, with the
        carried states and `past_<x>`, what inputs were before, [n, count, *axes] in their dtype,
        the oldest first.

        Between steps only: after a `recurrent` or an `extend` the records are in the state already.
        """
        found = super().read(layer, slots)
        states = found if isinstance(found, dict) else {self.table.state: found}
        slots = slots.contiguous()
        for name, shape in self.past_shapes(slots.numel()).items():
            rows = torch.empty(shape, dtype=self.dtype, device=self.device)
            self.move_past(name, rows.unsqueeze(1), slots, layer, save=True)
            states[name] = rows
        return states

    def past_shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """What inputs of rows were, in one layer."""
        return {
            name: (rows, past.tokens, *self.groups[0][name].shape[3:])
            for name, past in self.pasts.items()
        }

    def move_past(
        self, name: str, rows: Tensor, slots: Tensor, layer: int | None, save: bool
    ) -> None:
        """Move what an input was in a layer, or in all, to [n, layers, count, *axes], or back."""
        count = self.pasts[name].tokens
        for group, (tensor, layers, stride) in enumerate(self.over(name)):
            offset, part = 0, rows[:, group * layers : (group + 1) * layers]
            if layer is not None:
                at, inner = divmod(layer, layers)
                if at != group:
                    continue
                offset, layers, part = inner * stride, 1, rows
            size = math.prod(tensor.shape[3:])
            launch(
                self, "move_past", (slots.numel(), layers * count, parts_of(size, 1024)), tensor,
                part, slots, *self.ring_books(), *self.rows, tensor.stride(0), offset, stride,
                part.stride(0), part.stride(1), self.held_past(), count, size, SAVE=save,
                BLOCK=1024,
            )  # fmt: skip

    def saved_shapes(self, rows: int) -> Saved:
        found = super().saved_shapes(rows)
        for name, (_, count, *axes) in self.past_shapes(rows).items():
            found[name] = (rows, self.layers, count, *axes), self.dtype, None
        return found

    def move(self, name: str, rows: Tensor, slots: Tensor, save: bool) -> None:
        if name in self.pasts:
            if not save:
                self.begin_order(slots)
            self.move_past(name, rows, slots, None, save)
        else:
            super().move(name, rows, slots, save)


def check_pasts(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """What `reference` gets of inputs before this token, in any dtype and on any device."""
    for name, shape in shapes.items():
        tensor = state.get(name)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            raise wrong("state", f"{name} is {describe(tensor)}", str(list(shape)))
