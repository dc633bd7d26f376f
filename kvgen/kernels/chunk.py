"""Drafts as the columns of one product, in a tree or a long chain."""

from __future__ import annotations

from kvgen.algebra.chunk import chunks, chunks_channels
from kvgen.algebra.form import Form
from kvgen.kernels.choice import Choice, Tiling, below, of_channels, when
from kvgen.kernels.drafts import Drafts
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load, warps_for
from kvgen.kernels.rules import early_alone, fills_threads, loops, shallow, wide, within_head
from kvgen.kernels.size import Need, Size
from kvgen.kernels.verify import MANY

# few rows want programs, many want tiles that share what a head computes once; warps that go over
# one tile compute that as often as they are
TILING = Choice(
    # most of what a head takes is scaling vectors over K: warps and tiles share that
    when(Tiling(of_channels(32), 32), channels=True, busy=below(3)),
    when(Tiling(of_channels(32), 64), channels=True, busy=below(6)),
    when(Tiling(of_channels(64), 128, 2, 2), channels=True, narrow=True),
    when(Tiling(of_channels(32), 64, 4), channels=True),
    # products of two float32 take registers
    when(Tiling(of_channels(16), 64), narrow=False, busy=below(12)),
    when(Tiling(of_channels(32), 64), narrow=False),
    when(Tiling(of_channels(32), 128), busy=below(6)),
    when(Tiling(of_channels(64), 128, 2, 2), busy=below(32)),
    when(Tiling(of_channels(64), 256, 2, 2)),
)


class Chunk(Drafts):
    name = "chunk"
    knobs = ("TILE", "TILES", "STAGES", "EARLY", "PDL", "num_warps")
    rules = (wide, fills_threads, within_head, loops, early_alone, shallow)

    def exists(self, form: Form) -> bool:
        return chunks(form)

    def wanted(self, form: Form) -> int:
        return MANY

    def comparable(self, form: Form, same: bool, cut: bool) -> bool:
        """With a verify where channels decay, both timed alone however long."""
        return chunks_channels(form) and same

    def asked(self, config: Config) -> dict[str, float]:
        """Where channels decay it runs only where it has been timed."""
        return {**config, "us": 0.0}

    def waits(self, form: Form) -> bool:
        """Scaling channels takes time, which only a GPU's times weigh against what it saves."""
        return chunks_channels(form)

    def need(self, size: Size, config: Config) -> Need:
        """Columns and keys pass through shared memory, and so does every tile in flight."""
        k, narrow = size.k, size.form.spec.storage.state.narrow
        tokens = MANY if narrow else 2 * MANY
        vectors = k * tokens * size.vectors * (2 if narrow else 4)
        tiles = k * config["TILE"] * config["STAGES"] * (2 if narrow else 4)
        held = k * (config["TILE"] // 4 + tokens * size.vectors + size.places * size.keys)
        return size.held(self.name, tokens, held, config, vectors + tiles)

    def rule(self, load: Load, batch: int) -> Config:
        tiling = TILING(load.facts(batch))
        width = load.tile(tiling.tile)
        tiles = min(-(-load.form.spec.size("V") // width), tiling.tiles)
        return {
            "TILE": width,
            "TILES": tiles,
            "STAGES": tiling.stages if tiles > 1 else 1,
            # a tile of 32 bits would hold its registers through all that a head has once
            "EARLY": int(tiles == 1 and load.narrow),
            "PDL": 1,
            "num_warps": warps_for(load.k * width, tiling.each),
        }


CHUNK = Chunk()
