"""What rules of thumb look at: what a program of a form has to hold and to do."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.levels import per_head
from kvgen.kernels.choice import Choice, Facts, Tile, below, when
from kvgen.runtime.numbers import power_of_two

# the batches that rules of thumb tell apart
BATCHES = (1, 4, 16, 64, 256)
# where one configuration serves all batches, the batch that it stands at
ANY = 64
# keys from which on their vectors, not the state's tile, are what fills the registers
LONG = 1024


@dataclass(frozen=True)
class Load:
    """What a program of a form has to hold and to do. heads: value heads it may go over. finishes:
    whether it finishes outputs, where these have an end of their own."""

    form: Form
    records: Records
    heads: int
    finishes: bool = False

    @property
    def k(self) -> int:
        return power_of_two(self.form.spec.size("K"))

    @property
    def v(self) -> int:
        return power_of_two(self.form.spec.size("V"))

    @property
    def whole_v(self) -> bool:
        """Whether it has all of V in one tile."""
        return self.form.whole_v or (self.finishes and self.form.finish is not None)

    @property
    def narrow(self) -> bool:
        """Whether the state is read in 16 bits."""
        return self.form.spec.storage.state.narrow

    @property
    def turned(self) -> bool:
        """Whether a thread's elements of the state lie along K, so that it sums what it reads: wide
        tiles leave it no registers for that."""
        return self.form.spec.storage.layout == "vk"

    @property
    def channels(self) -> bool:
        """Whether every key channel has a decay of its own."""
        return bool(self.form.decay("K"))

    @property
    def scaled(self) -> bool:
        """Whether a prompt scales its columns and keys by what decays channel by channel."""
        return bool(self.form.scaled_decays)

    @property
    def carried(self) -> bool:
        """Whether vectors are carried from token to token beside the state."""
        return any(carry.axes.channels for carry in self.form.carries)

    @property
    def columns(self) -> int:
        """Vectors that are multiplied with the state."""
        return len(self.form.columns)

    @property
    def wide(self) -> bool:
        """Whether threads have registers for many elements of a state in 32 bits: beside long keys
        those of a single column do."""
        light = self.k <= 128 or (self.columns == 1 and not self.channels)
        return light and not self.narrow and not self.whole_v

    @property
    def crowded(self) -> bool:
        """Whether long keys and a state in 32 bits leave little room for anything else."""
        return self.k > 128 and not (self.narrow or self.whole_v or self.wide)

    def busy(self, batch: int) -> float:
        """Value heads at once, as a multiple of 32: what a GPU is kept busy with."""
        return batch * self.form.spec.size("HV") / 32

    def filled(self, batch: int) -> float:
        """Elements of the states of all rows, as a multiple of 32 heads of 128 x 128."""
        return self.busy(batch) * self.k * self.v / 128**2

    def tile(self, tile: Tile) -> int:
        """Its value channels."""
        if self.whole_v:
            return self.v
        return min(self.v, max(tile.least, tile.elements // self.k))

    def count(self, width: int) -> int:
        """Tiles of so many value channels that there are to go over."""
        return -(-self.form.spec.size("V") // width) * self.heads

    def facts(self, batch: int) -> Facts:
        """What rules hang on."""
        storage = self.form.spec.storage
        return {
            "batch": batch,
            "busy": self.busy(batch),
            "filled": self.filled(batch),
            "k": self.k,
            "columns": self.columns,
            "narrow": self.narrow,
            "partial": storage.state.partial,
            "narrow_records": storage.records.narrow,
            "turned": self.turned,
            "channels": self.channels,
            "scaled": self.scaled,
            "carried": self.carried,
            "whole_v": self.whole_v,
            "crowded": self.crowded,
        }


def load_of(form: Form, records: Records) -> Load:
    return Load(form, records, 1 if per_head(form, records) else form.spec.ratio)


def warps_for(elements: int, each: int) -> int:
    """Warps for tiles of so many elements together, about `each` of them in a thread."""
    count = 1
    while count < 8 and elements > 32 * each * count:
        count *= 2
    return count


# of drafts: one warp has no other to wait for; small batches need more programs than that
WINDOW_TILE = Choice(
    when(Tile(8192), crowded=True),
    when(Tile(4096), batch=below(16)),
    when(Tile(16384), batch=below(17)),
    when(Tile(8192)),
)
