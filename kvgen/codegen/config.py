"""Kernel configurations that hold before anything has been tuned."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.cost import buffer_length

BATCHES = (1, 4, 16, 64, 256)

# GPU name -> kernel -> batch -> constants
Configs = dict[str, dict[str, dict[int, dict[str, int]]]]


# values a thread can hold or stream through its 255 registers before they spill
MOST = 399
# programs that keep a GPU busy with two tiles each
ENOUGH = 1024


def configurations(form: Form, records: Records, per_head: bool) -> Configs:
    """For each GPU name ('default' for any other): kernel → batch → its constants.

    TILE: value channels of a tile. TILES: tiles one program goes over. STAGES: how many of them, or
    of a fold's records, are in flight. EARLY: a program's only tile is loaded before anything else.
    programs: persistent fold programs for each multiprocessor.
    """
    sizes = dict(form.spec.sizes)
    k, v = _power(sizes["K"]), _power(sizes["V"])
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
    span = _power(buffer_length(form, records))
    kept = len(form.writes) + sum(d.channel == "K" for d in form.summed_decays)
    vectors = sum("K" in tensor.axes for tensor in form.spec.inputs)
    beside = k * (span * kept + vectors) * len(form.columns) // 2
    most = MOST if len(form.columns) < 3 else MOST // 2
    channels = bool(form.decay("K"))
    replays = records.replay and not channels

    decode: dict[int, dict[str, int]] = {}
    recurrent: dict[int, dict[str, int]] = {}
    for batch in BATCHES:
        # few rows: many small programs hide latency; many rows: wide tiles use the bandwidth
        few = batch < 16
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
            "num_warps": max(warps(k * width, each), warps(k * width + beside, most)),
        }
        width = tile(2048 if few else 8192)
        recurrent[batch] = {"TILE": width, "num_warps": warps(k * width, 64)}
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
    width = tile(16384)
    # a page's keys serve all the value heads of a group
    few = {"TILE": width, "TILES": heads, "STAGES": 1, "num_warps": warps(k * width, 256)}
    # factored keys have room for so many tokens
    most = form.factored.most if form.factored else 16
    block = {"TILE": tile(8192), "TOKENS": min(16, 1 << (most.bit_length() - 1)), "STAGES": 3}
    extend = {64: block | {"num_warps": warps(k * tile(8192), 64)}}
    width = tile(4096)
    fold = {64: {"TILE": width, "num_warps": warps(k * width, 64), "STAGES": 3, "programs": 8}}
    kernels = {"decode": decode, "recurrent": recurrent, "fold": fold}
    if form.windows:
        kernels |= {"verify": verify, "extend": extend, "short": {64: few}}
    return {"default": kernels}


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()
