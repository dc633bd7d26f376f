"""Kernel configurations that hold before anything has been tuned."""

from __future__ import annotations

from kvgen.form import Form

BATCHES = (1, 4, 16, 64, 256)


def configurations(form: Form, per_head: bool) -> dict[str, dict[str, dict[int, dict[str, int]]]]:
    """For each GPU name ('default' for any other): kernel → batch → its constants.

    TILE: value channels of a tile. TILES: tiles one program goes over. STAGES: how many of them are
    in flight. programs: persistent fold programs for each multiprocessor.
    """
    sizes = dict(form.spec.sizes)
    k, v = _power(sizes["K"]), _power(sizes["V"])
    narrow = v if form.whole_v else max(1, min(v, 4096 // k))
    wide = v if form.whole_v else max(1, min(v, 8192 // k))
    ratio = 1 if per_head else sizes["HV"] // sizes["H"]
    decode: dict[int, dict[str, int]] = {}
    recurrent: dict[int, dict[str, int]] = {}
    for batch in BATCHES:
        tile = narrow if batch < 64 else wide
        tiles = -(-sizes["V"] // tile) * ratio
        decode[batch] = {
            "TILE": tile,
            "TILES": 1 if batch < 64 else min(tiles, 4),
            "STAGES": 1,
            "num_warps": _warps(k * tile),
        }
        recurrent[batch] = {"TILE": narrow, "num_warps": _warps(k * narrow)}
    fold = {64: {"TILE": narrow, "num_warps": _warps(k * narrow), "programs": 8}}
    return {"default": {"decode": decode, "recurrent": recurrent, "fold": fold}}


def _warps(elements: int) -> int:
    """Warps for a state tile of this many elements: at most 64 of them in a thread."""
    warps = 1
    while warps < 8 and elements > 2048 * warps:
        warps *= 2
    return warps


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()
