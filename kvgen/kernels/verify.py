"""Several drafts in one pass over the state, in a tree or a long chain."""

from __future__ import annotations

from kvgen.algebra.chain import TOKENS, chains
from kvgen.algebra.chunk import chunks_channels
from kvgen.algebra.form import Form
from kvgen.codegen.config import PAGE
from kvgen.kernels.choice import Choice, Tile, below, least, when
from kvgen.kernels.drafts import Drafts
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import LONG, WINDOW_TILE, Load, warps_for
from kvgen.kernels.rules import divides, fills_threads, loops, shallow, wide
from kvgen.kernels.size import DRAFTS, PAGED, Need, Size

# drafts of a window that is no short chain
MANY = 8

# elements of a tile in a thread: vectors over K that are computed, rather than given in 16 bits,
# take registers of their own
EACH = Choice(
    when(64, channels=True),
    when(64, whole_v=True),
    when(64, narrow=False),
    when(64, carried=True),
    when(128, batch=below(16)),
    when(256),
)
TILES = Choice(when(1, batch=below(17)), when(4))
STAGES = Choice(when(1, batch=below(17)), when(2, narrow=True), when(1))

# the same of a state in 32 bits, where decays over K take registers
WIDE_TILE = Choice(when(Tile(16384), k=least(129)), when(Tile(8192)))
WIDE_EACH = Choice(
    when(128, channels=True),
    when(128, columns=least(3)),
    when(128, k=least(257)),
    when(128, k=below(129), busy=below(8)),
    when(256),
)
# vectors over K that are computed are worth sharing by more tiles
WIDE_TILES = Choice(
    when(1, busy=below(4)),
    when(1, busy=below(32), channels=False, carried=False),
    when(8, busy=least(16), k=least(129)),
    when(4),
)


class Verify(Drafts):
    name = "verify"
    behind = ("chunk",)
    knobs = ("TILE", "TILES", "STAGES", "num_warps")
    rules = (wide, fills_threads, divides, loops, shallow)

    def exists(self, form: Form) -> bool:
        return form.windows

    def wanted(self, form: Form) -> int:
        """With those of a chain where there is no kernel for chains, else with what none is made
        for."""
        return MANY if chains(form) else TOKENS

    def comparable(self, form: Form, same: bool, cut: bool) -> bool:
        """With windows by columns, which are timed with so many tokens."""
        return chunks_channels(form) and self.wanted(form) == MANY and same

    def need(self, size: Size, config: Config) -> Need:
        return size.window(self.name, config, DRAFTS, max(size.shapes.least_span, size.places))

    def paged_need(self, size: Size, config: Config) -> Need:
        return size.window(PAGED + self.name, config, DRAFTS, PAGE)

    def rule(self, load: Load, batch: int) -> Config:
        facts = load.facts(batch)
        if load.k >= LONG or load.form.remembered:
            return _long(load)
        if load.wide:
            return _wide(load, batch)
        width = load.tile(WINDOW_TILE(facts))
        warps = warps_for(load.k * width, EACH(facts))
        return {
            "TILE": width,
            "TILES": min(load.count(width), TILES(facts)),
            "STAGES": STAGES(facts),
            # products with keys as long as these leave one warp no registers
            "num_warps": max(warps, 8) if load.k > 256 else warps,
        }


def _long(load: Load) -> Config:
    """The tokens' columns and the buffer's keys, or what comes with inputs of a past, fill the
    registers of all warps there can be."""
    width = load.tile(Tile(8192))
    tiles = min(load.count(width), 4)
    return {"TILE": width, "TILES": tiles, "STAGES": 1, "num_warps": 8}


def _wide(load: Load, batch: int) -> Config:
    """Of a state in 32 bits: few warps, which shuffle less, even where they spill some of it."""
    facts = load.facts(batch)
    width = load.tile(WIDE_TILE(facts))
    # the scores of a single column are cheap, so that its heads are better off side by side
    count = load.count(width) // (load.heads if load.columns == 1 else 1)
    tiles = min(count, WIDE_TILES(facts))
    return {
        "TILE": width,
        "TILES": tiles,
        "STAGES": 2 if load.channels and tiles > 1 else 1,
        "num_warps": warps_for(load.k * width, WIDE_EACH(facts)),
    }


VERIFY = Verify()
