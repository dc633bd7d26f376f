"""A short chain of drafts, as a decode of several tokens."""

from __future__ import annotations

from kvgen.algebra.chain import TOKENS, chains
from kvgen.algebra.form import Form
from kvgen.kernels.drafts import Drafts
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load, warps_for, window_tile
from kvgen.kernels.rules import divides, early_alone, fills_threads, loops, shallow, wide
from kvgen.kernels.size import DRAFTS, Need, Size


class Chain(Drafts):
    name = "chain"
    knobs = ("TILE", "TILES", "STAGES", "EARLY", "PDL", "num_warps")
    rules = (wide, fills_threads, divides, loops, early_alone, shallow)

    def exists(self, form: Form) -> bool:
        return chains(form)

    def wanted(self, form: Form) -> int:
        return TOKENS

    def need(self, size: Size, config: Config) -> Need:
        return size.streaming(self.name, config, DRAFTS)

    def rule(self, load: Load, batch: int) -> Config:
        if load.wide and load.columns < 3:
            return _wide(load, batch)
        few, crowded = batch < 16, load.crowded
        width = window_tile(load, batch)
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
            "num_warps": warps_for(load.k * width, each),
        }


def _wide(load: Load, batch: int) -> Config:
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
        "num_warps": warps_for(load.k * width, each),
    }


CHAIN = Chain()
