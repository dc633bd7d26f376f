"""The buffered decode of one token: the state as it was, and the records since."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from kvgen.algebra.form import Form
from kvgen.codegen.cost import Cost, buffer_length
from kvgen.codegen.operands import offered
from kvgen.kernels.choice import Choice, Tile, Tiling, below, least, of_channels, when
from kvgen.kernels.kernel import Kernel
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import LONG, Load, warps_for
from kvgen.kernels.rules import divides, early_alone, fills_threads, loops, shallow, wide
from kvgen.kernels.size import Need, Size
from kvgen.runtime.numbers import power_of_two

# values a thread can hold or stream through its 255 registers before they spill
MOST = 399

# what `filled` reaches where loads in front of a decode's wait gain nothing any more
EARLY = Choice(
    when(64, whole_v=True),
    when(12, channels=True),
    when(48, narrow=True, columns=1),
    when(16),
)
# small programs hide latency best
FEW = Choice(
    when(Tiling(of_channels(64), 128), whole_v=True),
    when(Tiling(Tile(32768, 8), 128), k=least(LONG)),
    when(Tiling(of_channels(64), 128), k=least(129), filled=least(8)),
    when(Tiling(Tile(8192, 16), 64), k=least(129)),
    when(Tiling(of_channels(64), 256), narrow=True, filled=least(16)),
    when(Tiling(of_channels(64), 128), narrow=True, filled=least(4)),
    when(Tiling(of_channels(32), 64), narrow=True),
    when(Tiling(of_channels(32), 128), filled=least(8), columns=least(2)),
    when(Tiling(of_channels(64), 128), filled=least(8)),
    when(Tiling(of_channels(32), 64), filled=least(4)),
    when(Tiling(of_channels(16), 64)),
)
# wide tiles use the bandwidth. What a program does once is worth sharing by tiles: decays of every
# channel, a single product; a state read in 16 bits leaves registers to load the next tile ahead
MANY = Choice(
    when(Tiling(of_channels(64), 128), whole_v=True),
    when(Tiling(Tile(4096), 64, 2), turned=True, channels=True, filled=below(48)),
    when(Tiling(Tile(4096), 128, 2), turned=True, filled=below(48)),
    when(Tiling(Tile(4096), 128, 8), turned=True),
    when(Tiling(Tile(32768, 8), 128, 4), k=least(LONG)),
    when(Tiling(of_channels(64), 256, 2), k=least(129), columns=1, filled=below(64)),
    when(Tiling(of_channels(64), 256, 4), k=least(129), columns=1),
    when(Tiling(of_channels(64), 128, 2), k=least(129), filled=below(64)),
    when(Tiling(of_channels(64), 128, 4), k=least(129)),
    when(Tiling(of_channels(64), 128, 4), narrow=True, channels=True, filled=below(16)),
    when(Tiling(of_channels(64), 128, 4, 2), narrow=True, channels=True, filled=below(64)),
    when(Tiling(of_channels(64), 128, 4, 2), narrow=True, channels=True, columns=1),
    when(Tiling(of_channels(64), 256, 4, 2), narrow=True, channels=True),
    when(Tiling(of_channels(64), 128, 4), narrow=True, columns=1, filled=below(64)),
    when(Tiling(of_channels(64), 128, 4, 2), narrow=True, columns=1),
    when(Tiling(of_channels(64), 256, 4), narrow=True, filled=below(64)),
    when(Tiling(of_channels(64), 256, 4, 2), narrow=True),
    when(Tiling(of_channels(64), 128, 2), filled=below(48), channels=True),
    when(Tiling(of_channels(64), 128, 2), filled=below(48), columns=1),
    when(Tiling(of_channels(64), 256), filled=below(48)),
    when(Tiling(of_channels(64), 256, 2), filled=below(128), channels=True),
    when(Tiling(of_channels(64), 256, 2), filled=below(128), columns=1),
    when(Tiling(of_channels(64), 256, 4), filled=below(128)),
    when(Tiling(of_channels(64), 256, 2, 2)),
)
# operands of long keys fill the registers of a single warp
DOTS = Choice(
    when(Tiling(Tile(8192), 64), k=least(129), filled=below(32)),
    when(Tiling(Tile(16384), 256, 2), k=least(129)),
    when(Tiling(Tile(2048), 256), filled=below(16)),
    when(Tiling(Tile(8192), 256), filled=below(32)),
    when(Tiling(Tile(16384), 256, 2, 2)),
)


class Decode(Kernel):
    name = "decode"
    knobs = ("TILE", "TILES", "STAGES", "EARLY", "DOT", "KEYS", "PDL", "num_warps")
    newer: ClassVar[Config] = {"KEYS": 0}
    rules = (wide, fills_threads, divides, loops, early_alone, shallow)
    function = "decode"
    words = "buffered"
    in_steps = takes_steps = True
    streamed = 1.5

    def moved(self, total: Cost, form: Form, buffer: int) -> float:
        return total.decode_only(buffer)

    def floor(self, total: Cost, form: Form, buffer: int) -> float:
        """Of a whole step, with its share of the fold."""
        return total.floor(buffer)

    def need(self, size: Size, config: Config) -> Need:
        return size.streaming(self.name, config, 1)

    def rule(self, load: Load, batch: int) -> Config:
        # all of V in a program spares a layer the kernel that finishes outputs
        load = replace(load, finishes=True)
        form, facts = load.form, load.facts(batch)
        # decays over K and convolutions make columns that are no inputs, which tensor cores take in
        # twice as many steps; and one column alone leaves them as empty as a sum leaves other units
        given = not load.channels and not form.remembered
        dots = offered(form) and load.columns > 1 and not load.whole_v and given
        # many rows with keys of 32 bits in their buffers leave them no registers
        if dots and (facts["filled"] <= 16 or facts["narrow_records"]):
            return _by_dots(load, batch)
        early = facts["filled"] < EARLY(facts)
        tiling = FEW(facts) if early else MANY(facts)
        width = load.tile(tiling.tile)
        tiles = min(load.count(width), tiling.tiles)
        most = MOST if load.columns < 3 else MOST // 2
        beside = warps_for(load.k * width + _beside(load), most)
        return {
            "TILE": width,
            "TILES": tiles,
            "STAGES": tiling.stages if tiles > 1 else 1,
            "EARLY": int(early),
            "DOT": 0,
            "KEYS": 0,
            "PDL": 1,
            "num_warps": max(warps_for(load.k * width, tiling.each), beside),
        }


def _by_dots(load: Load, batch: int) -> Config:
    tiling = DOTS(load.facts(batch))
    width = load.tile(tiling.tile)
    return {
        "TILE": width,
        "TILES": min(load.count(width), tiling.tiles),
        "STAGES": tiling.stages,
        "EARLY": int(tiling.tiles == 1),
        "DOT": 1,
        "KEYS": 0,
        "PDL": 1,
        "num_warps": warps_for(load.k * width, tiling.each),
    }


def _beside(load: Load) -> int:
    """Values a decode holds beside the state's tile: the buffer's keys, decays of their channels,
    and this token's vectors over K, all of them once for each vector that reads."""
    form = load.form
    span = power_of_two(buffer_length(form, load.records))
    kept = len(form.writes) + sum(decay.channel == "K" for decay in form.summed_decays)
    vectors = sum("K" in tensor.axes for tensor in form.spec.inputs)
    # each token of the past comes with weights of its own
    vectors += 2 * sum(past.count for past in form.spec.pasts if "K" in past.tensor.axes)
    return load.k * (span * kept + vectors) * load.columns // 2


DECODE = Decode()
