"""A prompt whose blocks are prepared side by side, and then gone over."""

from __future__ import annotations

from kvgen.algebra.chunk import chunks
from kvgen.algebra.form import Form
from kvgen.kernels.extend import Extend
from kvgen.kernels.knobs import Config
from kvgen.kernels.load import Load
from kvgen.kernels.rules import fills_threads, shallow, wide
from kvgen.kernels.size import Need, Size

# the kernel that prepares
PREPARE = "prepare"
# tokens of a block, as `codegen.render` has them
BLOCK = 64


class Sweep(Extend):
    name = "sweep"
    knobs = ("TILE", "STAGES", "num_warps")
    rules = (wide, fills_threads, shallow)
    behind = ()

    def exists(self, form: Form) -> bool:
        return chunks(form)

    def need(self, size: Size, config: Config) -> Need:
        """What a turn loads is in shared memory as often as turns are in flight."""
        coarse = size.form.spec.storage.state.coarse
        vectors = BLOCK * size.k * size.vectors * (2 if size.bytes == 2 else 4)
        matrices = BLOCK * BLOCK * (1 + len(size.columns)) * (2 if coarse else 4)
        held = size.k * config["TILE"] + 3 * BLOCK * config["TILE"]
        shared = config["STAGES"] * (vectors + matrices)
        return size.held(self.name, BLOCK, held, config, shared)

    def rule(self, load: Load, batch: int) -> Config:
        narrow = load.form.spec.storage.state.coarse
        wide = load.k > 128
        return {
            "TILE": min(load.v, 64),
            "STAGES": 1 if wide else 2,
            "num_warps": 8 if wide or not narrow else 4,
        }


SWEEP = Sweep()
