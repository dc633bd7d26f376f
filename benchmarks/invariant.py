"""What `invariant=True` costs in time: every call with and without it, by turns, on this GPU.

    python benchmarks/invariant.py SPEC... --warm 12 --json docs/data/FILE.json

A ratio is the time with it over the time without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.turns import BATCHES, LAYERS, kinds, loaded, report, row, say, steps, timed
from benchmarks.turns import compiled as compiled_call
from benchmarks.warming import warm
from kvgen import compiler
from kvgen.shipped import resolve
from kvgen.timing.cycles import time_by_turns
from kvgen.timing.drafts import PROMPT, PROMPT_ROWS, longest_window, make_prompt

# the batch whose configuration invariant kernels take
TAKEN = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("spec", nargs="+")
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="compile in N processes")
    args = parser.parse_args()
    files = [compiler.write(compiler.analyse(resolve(spec)), Path("/tmp")) for spec in args.spec]
    if args.warm:
        sizes = sorted({*BATCHES, TAKEN})
        jobs = [(str(file), kind, batch) for file in files for batch in sizes for kind in kinds()]
        jobs += [(str(file), "extend", 1) for file in files]
        warm(args.warm, compiled_call, jobs, say)
    report(chain.from_iterable(map(costs, files)), args.json)


def costs(file: Path) -> Iterator[dict[str, Any]]:
    """Every call at every batch: without (old) and with (new)."""
    analysis, module = loaded(file)
    for batch in BATCHES:
        for kind in kinds():
            if kind.startswith("verify") and int(kind.split()[1]) > longest_window(analysis):
                continue
            layers = max(2, min(LAYERS, 4096 // batch))
            found = [steps(analysis, module, kind, batch, layers)[0] for _ in range(2)]
            found[1].cache.invariant = True
            yield row(file.stem, kind, batch, layers, *timed(kind, found, layers))
            del found
            torch.cuda.empty_cache()
    prompts = [make_prompt(analysis, module, PROMPT_ROWS, PROMPT) for _ in range(2)]
    prompts[1].step.cache.invariant = True
    times = [each.us for each in time_by_turns([prompt.run for prompt in prompts], 20)]
    yield row(file.stem, "extend", PROMPT_ROWS, 1, *(us * 20 for us in times))


if __name__ == "__main__":
    main()
