"""A float32 state in two planes of 16 bits, without loss: a decode reads the upper one alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvgen.formats.dtypes import BFLOAT16, FLOAT32, INT16
from kvgen.formats.state import Plane, StateFormat, Tile

if TYPE_CHECKING:
    import torch

HELPERS = '''
@triton.jit
def _join(high, low):
    """The float32 whose upper half, rounded, is `high` (bfloat16) and whose rest is `low` (int16)."""
    bits = high.to(tl.int16, bitcast=True).to(tl.int32) << 16
    return (bits + low.to(tl.int32)).to(tl.float32, bitcast=True)


@triton.jit
def _halves(x):
    """The two 16-bit planes of a float32, without loss."""
    bits = x.to(tl.int32, bitcast=True)
    high = (bits + 0x8000) >> 16
    low = bits - (high << 16)
    return high.to(tl.int16).to(tl.bfloat16, bitcast=True), low.to(tl.int16)
'''  # noqa: E501


class Split(StateFormat):
    """The upper half of the bits, rounded, and the rest."""

    def kept(self, x: torch.Tensor) -> torch.Tensor:
        return FLOAT32.rounded(x)

    def joined(self, planes: Sequence[torch.Tensor]) -> torch.Tensor:
        import torch

        high, low = planes
        return ((high.view(torch.int16).int() << 16) + low).view(torch.float32)

    def parted(self, x: torch.Tensor) -> list[torch.Tensor]:
        import torch

        bits = x.float().view(torch.int32)
        high = (bits + 0x8000) >> 16
        low = (bits - (high << 16)).to(torch.int16)
        return [high.to(torch.int16).view(torch.bfloat16), low]

    def value(self, tile: Tile, whole: bool = True, raw: bool = False) -> str:
        if not whole:
            return super().value(tile, whole, raw)
        high, low = (tile.load(number, plane) for number, plane in enumerate(self.planes))
        return f"_join({high}, {low})"

    def load(self, tile: Tile, whole: bool = True, raw: bool = False) -> list[str]:
        if not whole:
            return super().load(tile, whole, raw)
        high, low = (tile.load(number, plane) for number, plane in enumerate(self.planes))
        return [f"high = {high}", f"low = {low}", "state = _join(high, low)"]

    def store(self, tile: Tile) -> list[str]:
        return ["high, low = _halves(state)", tile.store(0, "high"), tile.store(1, "low")]


FORMAT = Split(
    name="split",
    rank=3,
    planes=(Plane("_hi", BFLOAT16), Plane("_lo", INT16)),
    bound=2e-5,
    read_bound=6e-3,
    alike=FLOAT32,
    folded="The state is float32, in two planes of 16 bits: a decode reads the upper one, a "
    "bfloat16; a fold reads and writes both.",
    helpers=HELPERS,
    join="_join",
    part="_halves",
)
