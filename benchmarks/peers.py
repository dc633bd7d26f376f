"""Time the recurrences that are served most beside other libraries' kernels; write the page.

    python benchmarks/peers.py --warm 14 --json docs/data/h100-peers.json
    python benchmarks/peers.py --specs gated_deltanet --states split --html /tmp

Figures and method are `kvgen bench --against`'s; the page is peers_page.py's. What was measured is
kept when time runs out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.peers_page import DOCS, write
from benchmarks.warming import warm
from kvgen import compiler, shipped
from kvgen.bench import BATCHES, bench
from kvgen.benching.page import page, trials
from kvgen.benching.peers import LIBRARIES
from kvgen.benching.report import Report
from kvgen.compiler import Analysis
from kvgen.terminal import legal_json
from kvgen.wisdom.places import cache_folder

SPECS = ("gated_deltanet", "kimi_delta_attention", "mamba2", "lightning_attention")
STATES = ("split", "bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--specs", default=",".join(SPECS))
    parser.add_argument("--states", default=",".join(STATES))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--against", default=",".join(LIBRARIES))
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--out", type=Path, default=DOCS / "performance.md")
    parser.add_argument("--html", type=Path, metavar="DIR", help="write a page for each report too")
    parser.add_argument(
        "--warm", type=int, default=0, metavar="N", help="compile everything first, in N processes"
    )
    args = parser.parse_args()
    command = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
    cases = [(name, state) for name in args.specs.split(",") for state in args.states.split(",")]
    batches = [int(batch) for batch in args.batches.split(",")]
    against = [library for library in args.against.split(",") if library]
    started = time.time()

    def say(text: str) -> None:
        print(f"{time.time() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    if args.warm:
        warm(args.warm, compiled, jobs(cases, batches, against), say)
    reports: list[Report] = []
    for name, state in cases:
        report = bench(analysed(name, state), batches, args.layers, against=against)
        say(f"{name} {state}")
        for absent in report.absent:
            say(f"not timed: {absent.peer}: {absent.reason}")
        reports.append(report)
        if args.json:
            data = {"command": command, "reports": [each.data() for each in reports]}
            args.json.write_text(json.dumps(legal_json(data)), encoding="utf-8")
        if args.html:
            text = page.html(
                report, command, trials.read(cache_folder() / "trials", name, report.device)
            )
            (args.html / f"{name}-{state}.html").write_text(text, encoding="utf-8")
        write(args.out, reports, command)


def analysed(name: str, state: str) -> Analysis:
    return compiler.analyse(shipped.resolve(name), {"storage.state": state})


# compiling in several processes ------------------------------------------------------------------

# spec, state, batch (0: what errors are taken with), libraries
Job = tuple[str, str, int, tuple[str, ...]]


def compiled(job: Job) -> str:
    """Call once, with few layers, what the measurement calls; what went wrong, or nothing."""
    import torch

    from kvgen.benching.contest import theirs
    from kvgen.benching.lineup import lineup, state_of
    from kvgen.benching.peers.peer import Problem
    from kvgen.timing import errors, steps

    name, state, batch, against = job
    try:
        analysis = analysed(name, state)
        module = compiler.built(analysis)
        if not batch:
            for kernel in ("decode", "recurrent"):
                errors.output_error(analysis, module, kernel, 2)
        step = steps.make_step(analysis, module, batch or 2, 2)
        if batch:
            for kernel in ("decode", "recurrent"):
                step.run(kernel)
        found = lineup(analysis, errors.exact(analysis, module, 2), against, lambda text: None)
        sizes = dict(analysis.spec.sizes)
        problem = Problem(sizes, state_of(analysis), step.slots, step.inputs, step.params)
        for entrant in found.entrants if batch else ():
            theirs(analysis, problem, entrant)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{' '.join(map(str, job[:3]))}: {type(error).__name__} {error}"[:300]
    return ""


def jobs(
    cases: Sequence[tuple[str, str]], batches: Sequence[int], against: Sequence[str]
) -> list[Job]:
    """What will be timed."""
    return [
        (name, state, batch, tuple(against)) for batch in (0, *batches) for name, state in cases
    ]


if __name__ == "__main__":
    main()
