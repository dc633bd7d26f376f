"""Time two trees' decodes between other kernels, as a server has them, on this machine's GPU.

    python benchmarks/between.py OLD NEW --warm 12 --json docs/data/FILE.json
    python benchmarks/between.py OLD NEW --kernel recurrent --json FILE      plain kernels

OLD and NEW are folders as benchmarks/turns.py takes them. A layer is a product with weights larger
than the L2 cache, an elementwise kernel, the decode, and another product; a step's end folds. What
a decode takes is the GPU's time by torch's profiler: from its start, or from the end of the kernel
before it where that is later, to its end. A ratio is NEW over OLD.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.servers.gpu_time import events
from benchmarks.turns import compiled, files_of, loaded, names_in, of_two_trees, report, row, say
from benchmarks.warming import warm
from kvgen.kernels.decode import DECODE
from kvgen.kernels.recurrent import RECURRENT
from kvgen.timing.steps import DEVICE, Step, make_step

BATCHES = (1, 4, 8, 16, 32, 64, 256)
LAYERS = 12
# weights of 50 MB and 25 MB are read between two decodes
WIDE, HIDDEN = 12288, 2048
Weights = list[tuple[torch.Tensor, torch.Tensor]]


def main() -> None:
    parser = of_two_trees(__doc__, BATCHES)
    parser.add_argument("--kernel", default=DECODE.name, choices=[DECODE.name, RECURRENT.name])
    args = parser.parse_args()
    batches = [int(batch) for batch in args.batch.split(",")]
    names = names_in(args.old)
    if args.warm:
        files = files_of(args, names)
        jobs = [(file, "decode + advance", batch) for file in files for batch in batches]
        warm(args.warm, compiled, jobs, say)
    report(between(names, args.old, args.new, batches, args.kernel), args.json)


def between(
    names: list[str], old: Path, new: Path, batches: list[int], kernel: str
) -> Iterator[dict[str, object]]:
    weights = [_weights() for _ in range(LAYERS)]
    for name in names:
        for number, batch in enumerate(batches):
            # either is the first by turns
            folders = (old, new)[:: -1 if number % 2 else 1]
            pairs = {folder: loaded(folder / name) for folder in folders}
            found = {
                folder: timed(make_step(*pair, batch, LAYERS), weights, kernel)
                for folder, pair in pairs.items()
            }
            decodes, ends = zip(found[old], found[new], strict=True)
            yield row(Path(name).stem, f"{kernel} between", batch, LAYERS, *decodes)
            yield row(Path(name).stem, "end of a step", batch, LAYERS, *ends)
            torch.cuda.empty_cache()


def _weights() -> tuple[torch.Tensor, torch.Tensor]:
    shapes = (HIDDEN, WIDE), (WIDE, HIDDEN // 2)
    wide, narrow = (
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) * 0.02 for shape in shapes
    )
    return wide, narrow


def timed(step: Step, weights: Weights, kernel: str) -> tuple[float, float]:
    """Microseconds of a decode, or of the plain kernel, and of a step's end, over all phases of the
    buffer."""
    rows = step.slots.numel()
    hidden = torch.randn(rows, HIDDEN, device=DEVICE, dtype=torch.bfloat16)
    call = getattr(step.module, kernel)

    def run() -> None:
        for layer, (wide, narrow) in enumerate(weights):
            torch.nn.functional.silu(hidden @ wide).matmul(narrow)
            call(
                step.cache, layer, step.slots, **step.inputs[layer], **step.params[layer],
                out=step.out[layer],
            )  # fmt: skip
            torch.nn.functional.silu(step.out[layer])
        step.module.advance(step.cache, step.slots)

    for _ in range(2):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    steps = step.cache.buffer
    for _ in range(steps + 1):
        graph.replay()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            graph.replay()
        torch.cuda.synchronize()
    decode = end = free = 0.0
    for name, start, stop in sorted(events(profile), key=lambda each: each[1:]):
        us = max(0.0, stop - max(start, free))
        free = max(free, stop)
        decode += us if name.startswith(f"_{kernel}_kernel") else 0.0
        end += us if name.startswith(("_advance", "_fold", "_turn")) else 0.0
    step.check(kernel)
    return decode / steps / len(weights), end / steps


if __name__ == "__main__":
    main()
