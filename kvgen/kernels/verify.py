"""Several drafts in one pass over the state, in a tree or a long chain."""

from __future__ import annotations

from kvgen.algebra.chain import TOKENS, chains
from kvgen.algebra.form import Form
from kvgen.codegen.config import PAGE
from kvgen.kernels.drafts import Drafts
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import LONG, Load, warps_for, window_tile
from kvgen.kernels.rules import divides, fills_threads, loops, shallow, wide
from kvgen.kernels.size import DRAFTS, PAGED, Need, Size

# drafts of a window that is no short chain
MANY = 8


class Verify(Drafts):
    name = "verify"
    knobs = ("TILE", "TILES", "STAGES", "num_warps")
    rules = (wide, fills_threads, divides, loops, shallow)

    def exists(self, form: Form) -> bool:
        return form.windows

    def wanted(self, form: Form) -> int:
        """With those of a chain where there is no kernel for chains, else with what none is made
        for."""
        return MANY if chains(form) else TOKENS

    def need(self, size: Size, config: Config) -> Need:
        return size.window(self.name, config, DRAFTS, max(size.shapes.least_span, size.places))

    def paged_need(self, size: Size, config: Config) -> Need:
        return size.window(PAGED + self.name, config, DRAFTS, PAGE)

    def rule(self, load: Load, batch: int) -> Config:
        if load.k >= LONG:
            return _long(load)
        if load.wide:
            return _wide(load, batch)
        width = window_tile(load, batch)
        # vectors over K that are computed, rather than given in 16 bits, take registers of their
        # own
        heavy = load.channels or load.form.whole_v or not load.narrow or load.carried
        warps = warps_for(load.k * width, 64 if heavy else 128 if batch < 16 else 256)
        return {
            "TILE": width,
            "TILES": min(load.count(width), 4) if batch > 16 else 1,
            "STAGES": 2 if batch > 16 and load.narrow else 1,
            # products with keys as long as these leave one warp no registers
            "num_warps": max(warps, 8) if load.k > 256 else warps,
        }


def _long(load: Load) -> Config:
    """The tokens' columns and the buffer's keys fill the registers of all warps there can be."""
    width = load.tile(8192)
    tiles = min(load.count(width), 4)
    return {"TILE": width, "TILES": tiles, "STAGES": 1, "num_warps": 8}


def _wide(load: Load, batch: int) -> Config:
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
        "num_warps": warps_for(load.k * width, each),
    }


VERIFY = Verify()
