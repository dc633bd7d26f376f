"""Kernel configurations that hold before anything has been tuned."""

from __future__ import annotations

from kvgen.form import Form

BATCHES = (1, 4, 16, 64, 256)

# GPU name -> kernel -> batch -> constants
Configs = dict[str, dict[str, dict[int, dict[str, int]]]]


def configurations(form: Form, per_head: bool) -> Configs:
    """For each GPU name ('default' for any other): kernel → batch → its constants.

    TILE: value channels of a tile. TILES: tiles one program goes over. STAGES: how many of them, or
    of a fold's records, are in flight. EARLY: a program's only tile is loaded before anything else.
    programs: persistent fold programs for each multiprocessor.
    """
    sizes = dict(form.spec.sizes)
    k, v = _power(sizes["K"]), _power(sizes["V"])
    heads = 1 if per_head else sizes["HV"] // sizes["H"]
    channels = bool(form.decay("K"))
    narrow = form.spec.storage.state != "float32"

    def tile(elements: int) -> int:
        return v if form.whole_v else max(1, min(v, elements // k))

    def warps(width: int, each: int) -> int:
        """Warps for a state tile of this width, about `each` of its elements in a thread."""
        count = 1
        while count < 8 and k * width > 32 * each * count:
            count *= 2
        return count

    decode: dict[int, dict[str, int]] = {}
    recurrent: dict[int, dict[str, int]] = {}
    for batch in BATCHES:
        # few rows: many small programs hide latency; many rows: wide tiles use the bandwidth
        width, each = (tile(4096), 32) if batch < 16 else (tile(8192), 256)
        if batch == 16 and form.spec.storage.state == ("float32" if channels else "split"):
            # what is done for each channel, or for both planes, needs registers of its own
            each = 128
        count = -(-sizes["V"] // width) * heads
        # a state read in 16 bits leaves registers to load the next tile ahead
        stages = 2 if batch >= (16 if channels else 256) and narrow else 1
        decode[batch] = {
            "TILE": width,
            "TILES": 1 if batch < 64 and stages == 1 else min(count, 4),
            "STAGES": stages,
            "EARLY": int(batch < 16),
            "num_warps": warps(width, each),
        }
        width, each = (tile(2048), 64) if batch < 16 else (tile(8192), 64)
        recurrent[batch] = {"TILE": width, "num_warps": warps(width, each)}
    width = tile(4096)
    fold = {64: {"TILE": width, "num_warps": warps(width, 64), "STAGES": 3, "programs": 8}}
    return {"default": {"decode": decode, "recurrent": recurrent, "fold": fold}}


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()
