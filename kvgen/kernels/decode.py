"""The buffered decode of one token: the state as it was, and the records since."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.codegen.columns import offered
from kvgen.codegen.cost import Cost, buffer_length
from kvgen.codegen.kernels import power_of_two
from kvgen.kernels.kernel import Kernel
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import LONG, Load, warps_for
from kvgen.kernels.rules import divides, early_alone, fills_threads, loops, shallow, wide
from kvgen.kernels.size import Need, Size

# values a thread can hold or stream through its 255 registers before they spill
MOST = 399


class Decode(Kernel):
    name = "decode"
    knobs = ("TILE", "TILES", "STAGES", "EARLY", "DOT", "PDL", "num_warps")
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
        form, filled = load.form, load.filled(batch)
        # decays over K make columns that are no inputs, which tensor cores take in twice as many
        # steps; and one column alone leaves them as empty as a sum leaves the other units
        dots = offered(form) and load.columns > 1 and not form.whole_v and not load.channels
        # many rows with keys of 32 bits in their buffers leave them no registers
        if dots and (filled <= 16 or form.spec.storage.records.narrow):
            return _by_dots(load, filled)
        early = filled < load.early
        if form.whole_v:
            width, each, tiles, stages = load.v, 128, 1, 1
        elif early:
            width, each, tiles, stages = *_few(load, filled), 1, 1
        else:
            width, each, tiles, stages = _many(load, filled)
        tiles = min(load.count(width), tiles)
        most = MOST if load.columns < 3 else MOST // 2
        beside = warps_for(load.k * width + _beside(load), most)
        return {
            "TILE": width,
            "TILES": tiles,
            "STAGES": stages if tiles > 1 else 1,
            "EARLY": int(early),
            "DOT": 0,
            "PDL": 1,
            "num_warps": max(warps_for(load.k * width, each), beside),
        }


def _few(load: Load, filled: float) -> tuple[int, int]:
    """A tile's width and its elements in a thread: small programs hide latency best."""
    if load.k >= LONG:
        width, each = max(8, 32768 // load.k), 128
    elif load.k > 128:
        width, each = (64, 128) if filled >= 8 else (max(16, 8192 // load.k), 64)
    elif load.narrow:
        width, each = (64, 256 if filled >= 16 else 128) if filled >= 4 else (32, 64)
    elif filled >= 8:
        width, each = 32 if load.columns > 1 else 64, 128
    else:
        width, each = 32 if filled >= 4 else 16, 64
    return min(load.v, width), each


def _many(load: Load, filled: float) -> tuple[int, int, int, int]:
    """A tile's width, its elements in a thread, tiles and stages: wide tiles use the bandwidth."""
    # what a program does once is worth sharing by tiles: decays of every channel, a single product
    shared = load.channels or load.columns == 1
    if load.turned:
        few = filled < 48
        return load.tile(4096), 64 if few and load.channels else 128, 2 if few else 8, 1
    width = min(load.v, 64)
    if load.k >= LONG:
        return min(load.v, max(8, 32768 // load.k)), 128, 4, 1
    if load.k > 128:
        return width, 256 if load.columns == 1 else 128, 2 if filled < 64 else 4, 1
    # a state read in 16 bits leaves registers to load the next tile ahead
    if load.narrow:
        stages = 2 if filled >= (16 if load.channels else 64) else 1
        lean = load.columns == 1 or (load.channels and filled < 64)
        return width, 128 if lean else 256, 4, stages
    if filled < 48:
        return width, 128 if shared else 256, 2 if shared else 1, 1
    if filled < 128:
        return width, 256, 2 if shared else 4, 1
    return width, 256, 2, 2


def _by_dots(load: Load, filled: float) -> Config:
    many, long = filled >= 32, load.k > 128
    few = 8192 if long else 2048
    width = load.tile(few if filled < 16 else 16384 if many else 8192)
    return {
        "TILE": width,
        "TILES": min(load.count(width), 2) if many else 1,
        "STAGES": 2 if many and not long else 1,
        "EARLY": int(not many),
        "DOT": 1,
        "PDL": 1,
        # operands of long keys fill the registers of a single warp
        "num_warps": warps_for(load.k * width, 64 if long and not many else 256),
    }


def _beside(load: Load) -> int:
    """Values a decode holds beside the state's tile: the buffer's keys, decays of their channels,
    and this token's vectors over K, all of them once for each vector that reads."""
    form = load.form
    span = power_of_two(buffer_length(form, load.records))
    kept = len(form.writes) + sum(decay.channel == "K" for decay in form.summed_decays)
    vectors = sum("K" in tensor.axes for tensor in form.spec.inputs)
    return load.k * (span * kept + vectors) * load.columns // 2


DECODE = Decode()
