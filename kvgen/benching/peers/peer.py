"""What a peer is: another library's decode kernel of one recurrence, and the data it works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from kvgen.formats.dtypes import FLOATS

Tensors = dict[str, torch.Tensor]

BYTES = {dtype.name: dtype.bytes(0) for dtype in FLOATS}


@dataclass
class Problem:
    """Rows in slots, and for each layer its inputs, parameters and states.

    inputs: [B, *axes] in bfloat16, as in the spec. params: float32. state: name of the states'
    dtype. chained: the layers are the tokens of one layer, in order; it begins without a state.
    """

    sizes: Mapping[str, int]
    state: str
    slots: torch.Tensor
    inputs: list[Tensors]
    params: list[Tensors]
    chained: bool = False
    _states: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        return len(self.inputs)

    @property
    def rows(self) -> int:
        return self.slots.numel()

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.state)

    def states(self, layout: str) -> list[torch.Tensor]:
        """Each layer's states, [slots, HV, V, K] for "vk" and [slots, HV, K, V] for "kv". All
        peers of a problem share them: memory for one each would leave too few layers."""
        if layout not in self._states:
            channels = [self.sizes[axis.upper()] for axis in layout]
            self._states[layout] = self.buffers((self.sizes["HV"], *channels), self.dtype, 1.0)
        return self._states[layout]

    def buffers(
        self, shape: tuple[int, ...], dtype: torch.dtype, std: float = 0.1
    ) -> list[torch.Tensor]:
        """A tensor [slots, *shape] for every layer, random as after many tokens."""

        def drawn() -> torch.Tensor:
            blank = torch.zeros((self.rows, *shape), dtype=dtype, device=self.slots.device)
            return blank if self.chained else blank.normal_(std=std)

        if self.chained:
            return [drawn()] * self.layers
        return [drawn() for _ in range(self.layers)]

    def outputs(self) -> list[torch.Tensor]:
        """[B, 1, HV, V] for every layer, full of NaN."""
        shape = (self.rows, 1, self.sizes["HV"], self.sizes["V"])
        like = self.inputs[0][next(iter(self.inputs[0]))]
        return [like.new_full(shape, float("nan")) for _ in range(self.layers)]

    def packed(self, *names: str) -> list[torch.Tensor]:
        """Those inputs of every layer side by side, [B, sum], as a fused projection leaves them."""
        return [torch.cat([x[name].flatten(1) for name in names], 1) for x in self.inputs]


@dataclass
class Started:
    """A peer on a problem.

    call: a layer's number to its output, [B, HV, V] or with an axis of one token. positions: [B]
    int32, the place that each row's next record goes to, of `length`; None without a buffer.
    """

    call: Callable[[int], torch.Tensor]
    positions: torch.Tensor | None = None
    length: int = 1

    def end(self) -> None:
        """The step's end, once for all layers."""
        if self.positions is not None:
            self.positions.add_(1).remainder_(self.length)


@dataclass(frozen=True)
class Peer:
    """Another library's kernel.

    family: the shipped spec that it computes. start: imports the library and prepares everything
    that is not timed. unfit: why it cannot take these sizes, or nothing. buffer: tokens between
    two writes of the state. record: bytes that a token leaves there, from sizes and the state's
    bytes an element. copies: states of a layer that it keeps beside those it reads.
    """

    library: str
    kernel: str
    family: str
    start: Callable[[Problem], Started]
    states: tuple[str, ...] = tuple(dtype.name for dtype in FLOATS)
    unfit: Callable[[Mapping[str, int]], str] = lambda sizes: ""
    buffer: int = 1
    record: Callable[[Mapping[str, int], int], int] | None = None
    copies: int = 0
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.library} {self.kernel}"

    def bytes_beside(self, sizes: Mapping[str, int], state: str) -> int:
        """What a row of a layer takes beside its state."""
        element = BYTES[state]
        held = self.record(sizes, element) * self.buffer if self.record else 0
        return held + self.copies * state_bytes(sizes, state)

    def floor_bytes(self, sizes: Mapping[str, int], state: str, io: int) -> float:
        """The fewest bytes a row of a layer moves in a step: states and records at their mean
        number read, what is new written; the state in one step of `buffer`. io: inputs, output."""
        whole = state_bytes(sizes, state)
        record = self.record(sizes, BYTES[state]) if self.record else 0
        mean = record * (self.buffer - 1) / 2
        written = (whole + (self.buffer - 1) * record) / self.buffer
        return whole + mean + written + io


def state_bytes(sizes: Mapping[str, int], state: str) -> int:
    return sizes["HV"] * sizes["K"] * sizes["V"] * BYTES[state]
