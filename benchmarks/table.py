"""Write docs/performance.md: every shipped spec's buffered and plain decode on this machine's GPU.

    python benchmarks/table.py [--states float32,split] [--batches 1,16,64,256] [SPEC…]

Times are `kvgen bench`'s: see kvgen/bench.py for the method.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from kvgen import compiler, shipped
from kvgen.bench import Report, bench

HEADER = """# Performance

Measured on {device} ({versions}) by

    {command}

One layer of a model step, in microseconds: CUDA graphs of {layers} layers (fewer where memory is
short) with distinct states,
random slots, bfloat16 inputs, cursors moving and staggered over the buffer's phases, folds
included; the median of seven cycles. *worst* is the step in which every row folds. *floor* is the
fewest bytes a step can move (the state read once and written once in L tokens, records at their
mean length, inputs and output) over this GPU's copy bandwidth, {copy:.0f} GB/s read and written;
a floor is not a lower bound where a read alone is faster than a copy, or where a state stays in
the cache. *error* is ‖x − x*‖₂ / ‖x*‖₂ of a row's outputs against float64, the worst of 40 tokens
and two rows, rounding to bfloat16 included. Configurations are the untuned defaults.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", metavar="SPEC")
    parser.add_argument("--states", default="float32,split,bfloat16")
    parser.add_argument("--batches", default="1,4,16,64,256")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--out", type=Path, default=Path("docs/performance.md"))
    parser.add_argument("--json", type=Path, help="write the figures too")
    args = parser.parse_args()
    names = args.specs or [found.name for found in shipped.shipped()]
    batches = [int(batch) for batch in args.batches.split(",")]
    started = time.time()
    reports: list[Report] = []
    for name in names:
        for state in args.states.split(","):
            analysis = compiler.analyse(shipped.resolve(name), {"storage.state": state})
            try:
                reports.append(bench(analysis, batches, args.layers))
            except RuntimeError as error:
                print(f"{name} {state}: {error}", file=sys.stderr, flush=True)
                continue
            print(f"{time.time() - started:5.0f} s  {name} {state}", file=sys.stderr, flush=True)
            write(args.out, reports, args.layers)
            if args.json:
                args.json.write_text(json.dumps([report.data() for report in reports]))


def write(path: Path, reports: list[Report], layers: int) -> None:
    """The page, whole, after every report: what was measured is kept when time runs out."""
    first = reports[0]
    command = " ".join(["python", *sys.argv])
    lines = [
        HEADER.format(
            device=first.device,
            versions=first.versions,
            command=command,
            layers=layers,
            copy=first.copy_gbs,
        )
    ]
    for report in reports:
        lines.append(f"## {report.spec}, {report.storage} state, buffer {report.buffer}\n")
        lines.append("| batch | buffered | worst | floor | share | error | plain | error | gain |")
        lines.append("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        rows = {(row.kernel, row.batch): row for row in report.rows}
        for batch in dict.fromkeys(row.batch for row in report.rows):
            decode, plain = rows["decode", batch], rows["recurrent", batch]
            lines.append(
                f"| {batch} | {decode.us:.2f} ± {decode.spread:.2f} | {decode.worst_us:.2f} "
                f"| {decode.floor_us:.2f} | {decode.share:.0%} | {decode.error:.1e} "
                f"| {plain.us:.2f} | {plain.error:.1e} | {plain.us / decode.us:.2f} |"
            )
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
