"""A guess at a kernel's time: how much of the memory's latency its programs can hide.

Only good for an order in which to try: what is decided, is decided by measuring.
"""

from __future__ import annotations

import math

from kvgen.codegen import cost
from kvgen.compiler import Analysis
from kvgen.kernels.registry import named
from kvgen.tuning.floors import moved
from kvgen.tuning.gpu import BLOCKS, REGISTERS, THREADS, Gpu
from kvgen.tuning.space import Config, sizes_of

# seconds: a load from memory, what a program does once, and a launch that finds the GPU warm
LATENCY, ONCE, LAUNCH = 0.8e-6, 1.2e-6, 1.0e-6
# registers beside the tile's
BESIDE = 48
# multiply-adds a second of one thread whose neighbours are as busy
RATE = 0.35e9


def estimate(
    analysis: Analysis,
    kernel: str,
    config: Config,
    batch: int,
    gpu: Gpu,
    buffer: int,
    registers: int | None = None,
) -> float:
    """Microseconds of a layer. registers: of each thread, where it has been compiled."""
    bytes_moved = cost.cost(analysis.form, analysis.records)
    sizes, spec = sizes_of(analysis), analysis.spec
    of = named(kernel)
    heads = spec.size("HV") if of.one_tile else 0
    units = batch * (heads or spec.size("HV") // sizes.heads)
    per_unit = -(-sizes.v // config["TILE"]) if heads else sizes.tiles(config["TILE"])
    turns = config.get("TILES", 1)
    programs = max(1, units * per_unit // turns)

    threads = 32 * config["num_warps"]
    each = sizes.k * config["TILE"] / threads
    taken = registers or min(255, BESIDE + each * of.streamed)
    resident = max(1, min(
        BLOCKS, THREADS // threads, int(REGISTERS / (taken * threads)),
        config.get("programs", BLOCKS),
    ))  # fmt: skip
    total = batch * moved(analysis, kernel, buffer)
    waves = math.ceil(programs / (gpu.processors * resident))
    running = min(programs, gpu.processors * resident)
    # two stages load the next tile while one is worked on
    ahead = min(2, config.get("STAGES", 1)) if turns > 1 else 1
    in_flight = running * ahead * sizes.k * config["TILE"] * bytes_moved.read
    in_flight /= spec.size("HV") * spec.size("K") * spec.size("V")
    stream = total / min(gpu.bandwidth, in_flight / LATENCY)
    work = waves * turns * each * 2 * of.tokens(analysis.form) / RATE
    return 1e6 * (LAUNCH + waves * ONCE + max(stream, work))
