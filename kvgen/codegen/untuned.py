"""Rules of thumb: the configurations of a module on a GPU that nothing is known of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.columns import offered
from kvgen.codegen.config import ANY_GPU, PAGE, Configs, kernels
from kvgen.codegen.cost import buffer_length
from kvgen.codegen.kernels import power_of_two

BATCHES = (1, 4, 16, 64, 256)

# prompts and folds take the same configuration for all batches
ANY = 64
# values a thread can hold or stream through its 255 registers before they spill
MOST = 399
# keys from which on their vectors, not the state's tile, are what fills the registers
LONG = 1024

Config = dict[str, int]


def configurations(form: Form, records: Records, per_head: bool) -> Configs:
    """For ANY_GPU: kernel → batch → its constants, as `config.KNOBS` explains them.

    per_head: whether one program serves one value head, and not the group of a key head.
    """
    load = Load(form, records, 1 if per_head else form.spec.ratio)
    makers: dict[str, Callable[[], dict[int, Config]]] = {
        "decode": lambda: _of_batches(load, _decode),
        "recurrent": lambda: _of_batches(load, _recurrent),
        "fold": lambda: {ANY: _fold(load)},
        "verify": lambda: _of_batches(load, _verify),
        "extend": lambda: {ANY: _extend(load)},
        "short": lambda: _of_batches(load, _short),
        "chain": lambda: _of_batches(load, _chain),
    }
    has = kernels(form)
    return {ANY_GPU: {kernel: make() for kernel, make in makers.items() if kernel in has}}


@dataclass(frozen=True)
class Load:
    """What a program of a form has to hold and to do. heads: value heads it may go over."""

    form: Form
    records: Records
    heads: int

    @property
    def k(self) -> int:
        return power_of_two(self.form.spec.size("K"))

    @property
    def v(self) -> int:
        return power_of_two(self.form.spec.size("V"))

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
        return light and not self.narrow and not self.form.whole_v

    @property
    def crowded(self) -> bool:
        """Whether long keys and a state in 32 bits leave little room for anything else."""
        return self.k > 128 and not (self.narrow or self.form.whole_v or self.wide)

    @property
    def early(self) -> float:
        """What `filled` reaches where loads in front of a decode's wait gain nothing any more."""
        if self.form.whole_v:
            return 64
        if self.channels:
            return 12
        return 48 if self.narrow and self.columns == 1 else 16

    def busy(self, batch: int) -> float:
        """Value heads at once, as a multiple of 32: what a GPU is kept busy with."""
        return batch * self.form.spec.size("HV") / 32

    def filled(self, batch: int) -> float:
        """Elements of the states of all rows, as a multiple of 32 heads of 128 x 128."""
        return self.busy(batch) * self.k * self.v / 128**2

    def tile(self, elements: int) -> int:
        """Value channels of a tile of so many elements of a state."""
        return self.v if self.form.whole_v else max(1, min(self.v, elements // self.k))

    def count(self, width: int) -> int:
        """Tiles of so many value channels that there are to go over."""
        return -(-self.form.spec.size("V") // width) * self.heads


def _warps(elements: int, each: int) -> int:
    """Warps for tiles of so many elements together, about `each` of them in a thread."""
    count = 1
    while count < 8 and elements > 32 * each * count:
        count *= 2
    return count


def _of_batches(load: Load, rule: Callable[[Load, int], Config]) -> dict[int, Config]:
    return {batch: rule(load, batch) for batch in BATCHES}


# single tokens -----------------------------------------------------------------------------------


def _recurrent(load: Load, batch: int) -> Config:
    filled = load.filled(batch)
    # it reads and writes both planes of a split state: many rows of them are like 32 bits
    thin = load.narrow and (filled < 8 or not load.form.spec.storage.state.partial)
    width = 16 if filled < 4 else 32 if filled < 8 or thin else 64
    width = load.v if load.form.whole_v else min(width, load.tile(8192))
    each = 128 if filled >= 4 and (thin or load.k < 128) else 64
    return {"TILE": width, "num_warps": _warps(load.k * width, each)}


def _fold(load: Load) -> Config:
    width = load.tile(4096)
    each, stages = (128, 4) if load.turned else (64, 3)
    return {
        "TILE": width,
        "num_warps": _warps(load.k * width, each),
        "STAGES": stages,
        "programs": 8,
    }


def _decode(load: Load, batch: int) -> Config:
    form, filled = load.form, load.filled(batch)
    # decays over K make columns that are no inputs, which tensor cores take in twice as many steps;
    # and one column alone leaves them as empty as a sum leaves the other units
    dots = offered(form) and load.columns > 1 and not form.whole_v and not load.channels
    # many rows with keys of 32 bits in their buffers leave them no registers
    if dots and (filled <= 16 or form.spec.storage.records.narrow):
        return _decode_by_dots(load, filled)
    early = filled < load.early
    if form.whole_v:
        width, each, tiles, stages = load.v, 128, 1, 1
    elif early:
        width, each, tiles, stages = *_decode_few(load, filled), 1, 1
    else:
        width, each, tiles, stages = _decode_many(load, filled)
    tiles = min(load.count(width), tiles)
    most = MOST if load.columns < 3 else MOST // 2
    beside = _warps(load.k * width + _beside(load), most)
    return {
        "TILE": width,
        "TILES": tiles,
        "STAGES": stages if tiles > 1 else 1,
        "EARLY": int(early),
        "DOT": 0,
        "PDL": 1,
        "num_warps": max(_warps(load.k * width, each), beside),
    }


def _decode_few(load: Load, filled: float) -> tuple[int, int]:
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


def _decode_many(load: Load, filled: float) -> tuple[int, int, int, int]:
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


def _decode_by_dots(load: Load, filled: float) -> Config:
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
        "num_warps": _warps(load.k * width, 64 if long and not many else 256),
    }


def _beside(load: Load) -> int:
    """Values a decode holds beside the state's tile: the buffer's keys, decays of their channels,
    and this token's vectors over K, all of them once for each vector that reads."""
    form = load.form
    span = power_of_two(buffer_length(form, load.records))
    kept = len(form.writes) + sum(decay.channel == "K" for decay in form.summed_decays)
    vectors = sum("K" in tensor.axes for tensor in form.spec.inputs)
    return load.k * (span * kept + vectors) * load.columns // 2


# several tokens ----------------------------------------------------------------------------------


def _window_tile(load: Load, batch: int) -> int:
    # one warp has no other to wait for; small batches need more programs than that
    if load.crowded:
        return load.tile(8192)
    return load.tile(4096 if batch < 16 else 16384 if batch == 16 else 8192)


def _verify_long(load: Load) -> Config:
    """The tokens' columns and the buffer's keys fill the registers of all warps there can be."""
    width = load.tile(8192)
    tiles = min(load.count(width), 4)
    return {"TILE": width, "TILES": tiles, "STAGES": 1, "num_warps": 8}


def _verify(load: Load, batch: int) -> Config:
    if load.k >= LONG:
        return _verify_long(load)
    if load.wide:
        return _verify_wide(load, batch)
    width = _window_tile(load, batch)
    # vectors over K that are computed, rather than given in 16 bits, take registers of their own
    heavy = load.channels or load.form.whole_v or not load.narrow or load.carried
    warps = _warps(load.k * width, 64 if heavy else 128 if batch < 16 else 256)
    return {
        "TILE": width,
        "TILES": min(load.count(width), 4) if batch > 16 else 1,
        "STAGES": 2 if batch > 16 and load.narrow else 1,
        # products with keys as long as these leave one warp no registers
        "num_warps": max(warps, 8) if load.k > 256 else warps,
    }


def _verify_wide(load: Load, batch: int) -> Config:
    """Of a state in 32 bits: few warps, which shuffle less, even where they spill some of it."""
    busy, long = load.busy(batch), load.k > 128
    width = load.tile(16384 if long else 8192)
    # decays over K take registers
    few = busy < 8 and not long
    each = 128 if load.channels or load.columns > 2 or few or load.k > 256 else 256
    # vectors over K that are computed are worth sharing by more tiles; the scores of a single
    # column are cheap, so that its heads are better off side by side
    shared = load.channels or load.carried
    count = load.count(width) // (load.heads if load.columns == 1 else 1)
    tiles = 1 if busy < (4 if shared else 32) else 8 if long and busy >= 16 else 4
    tiles = min(count, tiles)
    return {
        "TILE": width,
        "TILES": tiles,
        "STAGES": 2 if load.channels and tiles > 1 else 1,
        "num_warps": _warps(load.k * width, each),
    }


def _chain(load: Load, batch: int) -> Config:
    if load.wide and load.columns < 3:
        return _chain_wide(load, batch)
    few, crowded = batch < 16, load.crowded
    width = _window_tile(load, batch)
    # columns, and their products with the state in 32 bits, are what a chain's registers hold
    if not load.narrow:
        each = 32 if few and not crowded else 64
    else:
        each = 256
        if load.form.whole_v or load.k > 128 or load.carried or (batch == 16 and load.channels):
            each = 128
        if load.columns > 2 or few:
            each = 64
    return {
        "TILE": width,
        "TILES": min(load.count(width), 4) if batch > 16 else 1,
        "STAGES": 1,
        "EARLY": int(batch <= 16 and not crowded),
        "PDL": 1,
        "num_warps": _warps(load.k * width, each),
    }


def _chain_wide(load: Load, batch: int) -> Config:
    """Of a state in 32 bits: wide threads, and one warp where rows are many."""
    busy = load.busy(batch)
    if load.k > 256:
        # a loop keeps the longest keys from filling the registers all at once
        width, each = load.tile(16384), 128
        tiles = 4 if busy < 16 else 8
    elif load.k > 128:
        width = load.tile(8192 if busy < 1 else 16384)
        each = 64 if busy < 1 else 128
        tiles = 1 if busy < 4 else 4 if busy < 16 else 8
    else:
        # two tiles of one head, as long as programs are few
        width = min(load.tile(8192), 64) if busy < 64 else min(load.tile(4096), 32)
        if load.channels and busy >= 12:
            width = min(width, max(1, load.v // 2))
        each = 64 if busy < 8 else 128
        tiles = 1 if busy < 12 else min(2, load.count(width) // load.heads) if busy < 64 else 8
    tiles = min(load.count(width), tiles)
    return {
        "TILE": width,
        "TILES": tiles,
        "STAGES": 1,
        "EARLY": int(tiles == 1 and load.k <= 128),
        "PDL": 1,
        "num_warps": _warps(load.k * width, each),
    }


def _extend(load: Load) -> Config:
    width = load.tile(8192)
    # factored keys have room for so many tokens
    most = load.form.factored.most if load.form.factored else 16
    tokens = min(16, 1 << (most.bit_length() - 1))
    warps = _warps(load.k * width, 64)
    if load.k >= LONG:
        # a block's vectors in flight would fill all shared memory
        tokens = min(tokens, max(1, 8192 // load.k))
        return {"TILE": width, "TOKENS": tokens, "STAGES": 1, "num_warps": 8}
    return {
        "TILE": width,
        "TOKENS": tokens,
        "STAGES": 3,
        # larger tensor core instructions take four warps
        "num_warps": max(4, warps) if load.k >= 64 else warps,
    }


def _short(load: Load, batch: int) -> Config:
    channels, busy = load.channels, load.busy(batch)
    if load.k >= LONG:
        # a page's keys fill the registers, and those of a page ahead all shared memory
        return {"TILE": load.tile(8192), "TILES": 1, "PAGES": 1, "STAGES": 1, "num_warps": 8}
    # few rows, or long keys: warps that share two pages
    long = load.k > 128
    pages = 2 if long or busy < (8 if channels else 4) else 1
    few = not (channels or long) and busy < 16
    width = load.tile(32768 if long else 4096 if few else 16384)
    # a page's scores serve the value heads of a group that stand side by side
    most = 0 if few or long else (256 if busy < 64 else 512) // width
    many = max(1, min(load.heads & -load.heads, most))
    # of a page's elements in a thread: records in 32 bits take registers of their own, beside
    # decays of their channels they are computed anyway
    each = 128 if channels else 192 if load.form.spec.storage.records.narrow else 96
    if load.columns > 2 or (few and pages > 1):
        each = 64
    return {
        "TILE": width,
        "TILES": many,
        "PAGES": pages,
        "STAGES": 2,
        # warps wait for each other at every page: one is best, where its registers suffice
        "num_warps": _warps(pages * PAGE * (load.k * (1 + channels) + width * many), each),
    }
