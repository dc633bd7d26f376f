"""Whether steps take the same time where all rows have come together, on this machine's GPU.

    python benchmarks/even.py gated_deltanet kimi_delta_attention --json docs/data/FILE.json

All rows of a batch begin with an empty buffer, then each of 100 steps, decode in every layer and
`advance`, is a graph's replay that is timed by itself: with fold="parts", where each step folds its
part of the rows, and with fold="row". What is told are the median and the slowest step,
microseconds a layer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from kvgen import compiler
from kvgen.analysis import Analysis
from kvgen.shipped import resolve
from kvgen.timing.clock import captured, time_of
from kvgen.timing.steps import Step, make_step

BATCHES = (16, 64, 256)
LAYERS, STEPS, DROPPED = 24, 100, 4
LINE = (
    "{spec} {state} B {batch} {fold:5} median {median:7.2f} slowest {slowest:7.2f} us a layer, "
    "{ratio:.2f}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("specs", nargs="+", help="shipped recurrences")
    parser.add_argument(
        "--state", action="append", help="how states are stored; all that are named"
    )
    parser.add_argument("--batch", default=",".join(map(str, BATCHES)))
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in args.specs:
        for state in args.state or ["float32", "bfloat16"]:
            analysis = compiler.analyse(resolve(name), {"storage.state": state})
            module = compiler.built(analysis)
            for batch in map(int, args.batch.split(",")):
                for found in both(analysis, module, batch):
                    rows.append({"spec": name, "state": state, "batch": batch, **found})
                    print(LINE.format(**rows[-1]), flush=True)
    if args.json:
        about = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "command": " ".join(["python", *sys.argv]),
        }
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def both(analysis: Analysis, module: ModuleType, batch: int) -> Iterator[dict[str, Any]]:
    """The steps of a batch, with a fold by parts and with one of whole rows as they are full."""
    layers = max(2, min(LAYERS, 4096 // batch))
    for fold in ("parts", "row"):
        step = make_step(analysis, module, batch, layers)
        step.cache.fold = fold
        times = [us / layers for us in each_step(step)][DROPPED:]
        median, slowest = statistics.median(times), max(times)
        yield {
            "fold": fold, "layers": layers, "buffer": step.cache.buffer,
            "median": round(median, 3), "slowest": round(slowest, 3),
            "ratio": round(slowest / median, 3),
        }  # fmt: skip
        del step
        torch.cuda.empty_cache()


def each_step(step: Step) -> list[float]:
    """Microseconds of steps one by one, from empty buffers on."""
    with captured(lambda: step.run("decode")) as graph, graph:
        step.cache.cursors.zero_()
        times = [time_of(graph.replay) * 1e6 for _ in range(STEPS + DROPPED)]
    step.check("decode")
    return times


if __name__ == "__main__":
    main()
