"""What a format of the matrix state is: its planes, their text in kernels, what a check allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvgen.formats.dtypes import BFLOAT16, FLOAT32, Dtype

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Plane:
    """One of the tensors that hold a state. suffix: what its name has after the state's."""

    suffix: str
    dtype: Dtype


@dataclass(frozen=True)
class Tile:
    """Where a program finds a tile of a state, in texts. pointers: for each plane. mask: empty
    where everything is real."""

    pointers: tuple[str, ...]
    offsets: str
    mask: str

    def load(self, number: int, plane: Plane) -> str:
        filled = f", mask={self.mask}, other={plane.dtype.zero}" if self.mask else ""
        return f"tl.load({self.pointers[number]} + {self.offsets}{filled})"

    def store(self, number: int, value: str) -> str:
        mask = f", mask={self.mask}" if self.mask else ""
        return f"tl.store({self.pointers[number]} + {self.offsets}, {value}{mask})"


@dataclass(frozen=True)
class StateFormat:
    """A state in one plane; other formats say differently what differs.

    rank: its place among the formats, of which the first is meant where a spec names none. bound:
    what a check allows a state to be off by; read_bound: an output that was read from it, None
    where that hangs on the inputs alone. alike: the type in which other libraries keep as much.
    folded: what a fold does to it, in words. helpers: functions that its kernels call, as text.
    join, part: those that make a tile of its planes, and its planes of a tile, if it has several.
    """

    name: str
    rank: int
    planes: tuple[Plane, ...]
    bound: float
    read_bound: float | None
    alike: Dtype
    folded: str = ""
    helpers: str = ""
    join: str = ""
    part: str = ""

    # -- what is kept of a state, and what is read

    @property
    def bytes(self) -> int:
        """Of an element."""
        return sum(plane.dtype.bytes(0) for plane in self.planes)

    @property
    def read_bytes(self) -> int:
        """What a decode reads of an element: the first plane."""
        return self.planes[0].dtype.bytes(0)

    @property
    def partial(self) -> bool:
        """Whether a decode reads less than is kept; a fold then computes writes again that depend
        on the state."""
        return len(self.planes) > 1

    @property
    def narrow(self) -> bool:
        """Whether a decode reads it in 16 bits."""
        return self.planes[0].dtype.narrow

    @property
    def rounds(self) -> bool:
        """Whether a fold rounds what it keeps."""
        return self.narrow and not self.partial

    @property
    def coarse(self) -> bool:
        """Whether a fold rounds a write as much as a record in the inputs' 16 bits would."""
        return self.rounds and self.planes[0].dtype == BFLOAT16

    @property
    def dots(self) -> bool:
        """Whether what a decode reads goes into tensor cores beside a float32 in two parts."""
        return self.planes[0].dtype == BFLOAT16

    def names(self, state: str) -> list[str]:
        """The planes of a state in the cache."""
        return [state + plane.suffix for plane in self.planes]

    # -- in torch

    def kept(self, x: torch.Tensor) -> torch.Tensor:
        """The states that it can hold, in x's own type."""
        return self.planes[0].dtype.rounded(x)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        """What a decode reads of them."""
        return self.planes[0].dtype.rounded(x)

    def joined(self, planes: Sequence[torch.Tensor]) -> torch.Tensor:
        """The state that lies in its planes, in the type in which it is kept."""
        return planes[0]

    def parted(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The planes of a state."""
        import torch

        return [x.to(getattr(torch, self.planes[0].dtype.name))]

    # -- in Triton

    def value(self, tile: Tile, whole: bool = True, raw: bool = False) -> str:
        """A tile as one expression. whole: all that is kept. raw: as it lies there, not float32."""
        text = tile.load(0, self.planes[0])
        return text if raw or self.planes[0].dtype == FLOAT32 else f"{text}.to(tl.float32)"

    def load(self, tile: Tile, whole: bool = True, raw: bool = False) -> list[str]:
        """Lines that bring a tile in as `state`."""
        return [f"state = {self.value(tile, whole, raw)}"]

    def store(self, tile: Tile) -> list[str]:
        """Lines that store `state`, a tile in float32."""
        return [tile.store(0, "state")]
