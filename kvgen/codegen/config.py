"""Kernel configurations that hold before anything has been tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvgen.algebra.chain import chains
from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.columns import offered
from kvgen.codegen.cost import buffer_length
from kvgen.codegen.kernels import power_of_two
from kvgen.language.spec import MAX_BUFFER

BATCHES = (1, 4, 16, 64, 256)

# kernel -> the constants that its configuration has, all of them; "buffer" is a cache's
KNOBS: dict[str, tuple[str, ...]] = {
    "decode": ("TILE", "TILES", "STAGES", "EARLY", "DOT", "PDL", "num_warps"),
    "recurrent": ("TILE", "num_warps"),
    "fold": ("TILE", "num_warps", "STAGES", "programs"),
    "verify": ("TILE", "TILES", "STAGES", "num_warps"),
    "chain": ("TILE", "TILES", "STAGES", "EARLY", "PDL", "num_warps"),
    "extend": ("TILE", "TOKENS", "STAGES", "num_warps"),
    "short": ("TILE", "TILES", "PAGES", "STAGES", "num_warps"),
    "buffer": ("buffer",),
}

# GPU name -> kernel -> batch -> constants
Configs = dict[str, dict[str, dict[int, dict[str, int]]]]
# the same with microseconds, "us", where they were measured
Measured = Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]


@dataclass(frozen=True)
class Tuned:
    """What is known of GPUs: configurations, and the buffer length of a cache, by GPU name."""

    configs: Measured = field(default_factory=dict)
    buffers: Mapping[str, int] = field(default_factory=dict)


# values a thread can hold or stream through its 255 registers before they spill
MOST = 399
# records of a page, as the generated modules have them
PAGE = 16
# pages that a short context's program looks at together, at most
PAGES = 4
# programs that keep a GPU busy with two tiles each
ENOUGH = 1024


def configurations(form: Form, records: Records, per_head: bool) -> Configs:
    """For each GPU name ('default' for any other): kernel → batch → its constants.

    TILE: value channels of a tile. TILES: tiles one program goes over, or, of a short context, has
    side by side, one of each head. PAGES: pages of records that it looks at together. STAGES: how
    many tiles, or pages, or of a fold's records, are in flight. EARLY: a program's only tile is
    loaded before anything else.
    DOT: reads go through tensor cores, for which the form must read the state in 16 bits. PDL: a
    launch begins before the kernel in front of it has ended.
    programs: persistent fold programs for each multiprocessor.
    """
    sizes = dict(form.spec.sizes)
    k, v = power_of_two(sizes["K"]), power_of_two(sizes["V"])
    heads = 1 if per_head else form.spec.ratio
    narrow = form.spec.storage.state != "float32"

    def tile(elements: int) -> int:
        return v if form.whole_v else max(1, min(v, elements // k))

    def warps(elements: int, each: int) -> int:
        """Warps for tiles of so many elements together, about `each` of them in a thread."""
        count = 1
        while count < 8 and elements > 32 * each * count:
            count *= 2
        return count

    # beside the state's tile a decode holds the buffer's keys, decays of their channels, and this
    # token's vectors over K, all of them once for each vector that reads
    span = power_of_two(buffer_length(form, records))
    kept = len(form.writes) + sum(d.channel == "K" for d in form.summed_decays)
    vectors = sum("K" in tensor.axes for tensor in form.spec.inputs)
    beside = k * (span * kept + vectors) * len(form.columns) // 2
    most = MOST if len(form.columns) < 3 else MOST // 2
    channels = bool(form.decay("K"))
    replays = records.replay and not channels

    # decays over K make columns that are no inputs, which tensor cores take in twice as many steps;
    # and one column alone leaves them as empty as a sum leaves the other units
    dots = offered(form) and len(form.columns) > 1 and not form.whole_v and not channels
    decode: dict[int, dict[str, int]] = {}
    recurrent: dict[int, dict[str, int]] = {}
    for batch in BATCHES:
        # few rows: many small programs hide latency; many rows: wide tiles use the bandwidth
        few = batch < 16
        width = tile(2048 if few else 8192)
        recurrent[batch] = {"TILE": width, "num_warps": warps(k * width, 64)}
        # many rows with keys of 32 bits in their buffers leave them no registers
        if dots and (batch <= 16 or form.spec.storage.records == "input"):
            width = tile(2048 if few else 8192 if batch == 16 else 16384)
            count = -(-sizes["V"] // width) * heads
            decode[batch] = {
                "TILE": width,
                "TILES": min(count, 2) if batch > 16 else 1,
                "STAGES": 2 if batch > 16 and k <= 128 else 1,
                "EARLY": int(batch <= 16),
                "DOT": 1,
                "PDL": 1,
                "num_warps": warps(k * width, 256),
            }
            continue
        width = tile(4096 if few or (batch == 16 and replays) else 8192)
        each = 32 if few else 64 if form.whole_v else 256
        count = -(-sizes["V"] // width) * heads
        # a state read in 16 bits leaves registers to load the next tile ahead, unless keys are long
        ahead = narrow and k <= 128
        stages = 2 if batch >= (16 if channels else 256) and ahead else 1
        tiles = 4 if batch > 16 or stages > 1 else 1
        # what a program does once is worth sharing where enough programs are left
        if batch == 16 and (channels or replays) and batch * sizes["HV"] // heads * count >= ENOUGH:
            tiles = max(tiles, 2)
        if batch == 16 and channels and tiles == 1:
            each = 128
        decode[batch] = {
            "TILE": width,
            "TILES": min(count, tiles),
            "STAGES": stages,
            "EARLY": int(few),
            "DOT": 0,
            "PDL": 1,
            "num_warps": max(warps(k * width, each), warps(k * width + beside, most)),
        }
    # vectors over K that are computed, rather than given in 16 bits, take registers of their own
    heavy = channels or form.whole_v or not narrow or any(c.axes.channels for c in form.carries)
    verify: dict[int, dict[str, int]] = {}
    for batch in BATCHES:
        # one warp has no other to wait for; small batches need more programs than that
        width = tile(4096 if batch < 16 else 16384 if batch == 16 else 8192)
        count = -(-sizes["V"] // width) * heads
        verify[batch] = {
            "TILE": width,
            "TILES": min(count, 4) if batch > 16 else 1,
            "STAGES": 2 if batch > 16 and narrow else 1,
            "num_warps": warps(k * width, 64 if heavy else 128 if batch < 16 else 256),
        }
    # columns, and their products with the state in 32 bits, are what a chain's registers hold
    each = 256
    if form.whole_v or k > 128 or any(c.axes.channels for c in form.carries):
        each = 128
    if not narrow or len(form.columns) > 2:
        each = 64
    # a state in 32 bits, nothing heavy beside it: wide threads, and one warp where rows are many
    wide = not narrow and k <= 128 and len(form.columns) < 3 and not (channels or form.whole_v)
    chain: dict[int, dict[str, int]] = {}
    for batch in BATCHES:
        width = tile(4096 if batch < 16 else 16384 if batch == 16 else 8192)
        held = min(each, 64 if narrow else 32) if batch < 16 else each
        tiles = 4 if batch > 16 else 1
        if batch == 16 and channels:
            held = min(each, 128)
        if wide:
            width = tile(8192 if batch < 16 else 16384 if batch == 16 else 4096)
            held, tiles = 64 if batch < 16 else 128, 8 if batch > 16 else 1
        count = -(-sizes["V"] // width) * heads
        chain[batch] = {
            "TILE": width,
            "TILES": min(count, tiles),
            "STAGES": 1,
            "EARLY": int(batch <= 16),
            "PDL": 1,
            "num_warps": warps(k * width, held),
        }
    # of a page's elements in a thread: records in 32 bits take registers of their own, beside
    # decays of their channels they are computed anyway
    held = 192 if channels or form.spec.storage.records == "input" else 96
    held = held if len(form.columns) < 3 else 64
    short: dict[int, dict[str, int]] = {}
    for batch in BATCHES:
        width = tile((4096 if batch < 16 else 16384) // (1 + channels))
        # a page's scores serve the value heads of a group that stand side by side
        many = 1 if batch <= 16 else max(1, min(heads & -heads, 256 // width))
        elements = PAGE * (k * (1 + channels) + width * many)
        short[batch] = {
            "TILE": width,
            "TILES": many,
            "PAGES": 1,
            "STAGES": 2,
            # warps wait for each other at every page: one is best, where its registers suffice
            "num_warps": warps(elements, held),
        }
    # factored keys have room for so many tokens
    most = form.factored.most if form.factored else 16
    block = {"TILE": tile(8192), "TOKENS": min(16, 1 << (most.bit_length() - 1)), "STAGES": 3}
    extend = {64: block | {"num_warps": warps(k * tile(8192), 64)}}
    width = tile(4096)
    fold = {64: {"TILE": width, "num_warps": warps(k * width, 64), "STAGES": 3, "programs": 8}}
    kernels = {"decode": decode, "recurrent": recurrent, "fold": fold}
    if form.windows:
        kernels |= {"verify": verify, "extend": extend, "short": short}
    if chains(form):
        kernels |= {"chain": chain}
    return {"default": kernels}


def constants(form: Form, config: Mapping[str, float]) -> dict[str, float]:
    """Those of a configuration that the form's kernel has."""
    return {name: x for name, x in config.items() if name != "DOT" or offered(form)}


def is_safe(form: Form, kernel: str, config: Mapping[str, float]) -> bool:
    """Whether a kernel with these constants computes what it should, however fast.

    A tile wider than V, for one, would reach into the next head where nothing masks it.
    """
    v = power_of_two(form.spec.size("V"))
    most = form.factored.most if form.factored else MAX_BUFFER
    upper = {"TILE": v, "TOKENS": min(16, most), "STAGES": 16, "num_warps": 32, "buffer": most}
    upper |= {"EARLY": 1, "DOT": int(offered(form)), "PDL": 1, "PAGES": PAGES}
    lower = dict.fromkeys(("TILE", "TILES", "PAGES", "TOKENS", "STAGES", "programs", "buffer"), 1)
    lower |= {"num_warps": 1, "TILE": v if form.whole_v else 1}
    # extents of what a short context's program holds
    powers = ("TILES", "PAGES") if kernel == "short" else ()
    return set(config) == set(KNOBS[kernel]) and all(
        lower.get(knob, 0) <= value <= upper.get(knob, value)
        and (knob not in powers or power_of_two(int(value)) == value)
        for knob, value in config.items()
    )
