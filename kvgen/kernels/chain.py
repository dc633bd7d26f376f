"""A short chain of drafts, as a decode of several tokens."""

from __future__ import annotations

from kvgen.algebra.chain import TOKENS, chains
from kvgen.algebra.form import Form
from kvgen.kernels.choice import Choice, Tile, Tiling, below, least, when
from kvgen.kernels.drafts import Drafts
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import WINDOW_TILE, Load, warps_for
from kvgen.kernels.rules import divides, early_alone, fills_threads, loops, shallow, wide
from kvgen.kernels.size import DRAFTS, Need, Size

# elements of a tile in a thread: columns, and their products with the state in 32 bits, are what a
# chain's registers hold
EACH = Choice(
    when(32, narrow=False, batch=below(16), crowded=False),
    when(64, narrow=False),
    when(64, columns=least(3)),
    when(64, batch=below(16)),
    when(128, whole_v=True),
    when(128, k=least(129)),
    when(128, carried=True),
    when(128, channels=True, batch=below(17)),
    when(256),
)
TILES = Choice(when(1, batch=below(17)), when(4))

# of a state in 32 bits: a loop keeps the longest keys from filling the registers all at once; of
# short ones two tiles of one head, as long as programs are few
WIDE = Choice(
    when(Tiling(Tile(16384), 128, 4), k=least(257), busy=below(16)),
    when(Tiling(Tile(16384), 128, 8), k=least(257)),
    when(Tiling(Tile(8192), 64), k=least(129), busy=below(1)),
    when(Tiling(Tile(16384), 128), k=least(129), busy=below(4)),
    when(Tiling(Tile(16384), 128, 4), k=least(129), busy=below(16)),
    when(Tiling(Tile(16384), 128, 8), k=least(129)),
    when(Tiling(Tile(8192), 64), busy=below(8)),
    when(Tiling(Tile(8192), 128), busy=below(12)),
    when(Tiling(Tile(8192), 128, 2), busy=below(64)),
    when(Tiling(Tile(4096), 128, 8)),
)
WIDEST = Choice(when(64, busy=below(64)), when(32))


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
        facts = load.facts(batch)
        width = load.tile(WINDOW_TILE(facts))
        return {
            "TILE": width,
            "TILES": min(load.count(width), TILES(facts)),
            "STAGES": 1,
            "EARLY": int(batch <= 16 and not load.crowded),
            "PDL": 1,
            "num_warps": warps_for(load.k * width, EACH(facts)),
        }


def _wide(load: Load, batch: int) -> Config:
    """Of a state in 32 bits: wide threads, and one warp where rows are many."""
    facts = load.facts(batch)
    tiling = WIDE(facts)
    width = load.tile(tiling.tile)
    if facts["k"] <= 128:
        width = min(width, WIDEST(facts))
        if load.channels and facts["busy"] >= 12:
            width = min(width, max(1, load.v // 2))
    tiles = min(load.count(width), tiling.tiles)
    if facts["k"] <= 128 and facts["busy"] < 64:
        # those of one head
        tiles = min(tiles, load.count(width) // load.heads)
    return {
        "TILE": width,
        "TILES": tiles,
        "STAGES": 1,
        "EARLY": int(tiles == 1 and load.k <= 128),
        "PDL": 1,
        "num_warps": warps_for(load.k * width, tiling.each),
    }


CHAIN = Chain()
