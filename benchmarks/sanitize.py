"""Kernels under the checkers of NVIDIA's compute-sanitizer: whether they touch memory that is
nobody's, whether warps of a program race for its shared memory.

    python benchmarks/sanitize.py --json FILE                         memcheck of all that ships
    python benchmarks/sanitize.py gated_deltanet --tool racecheck
    python benchmarks/sanitize.py gated_deltanet --set storage.state=split --together 4

What runs is `kvgen check`, a process to a spec; what torch launches for the comparison is not
looked at, which would take most of the time. Tensors are memory of their own there, so that one
that is read beyond its end is not read in its neighbour; seven processes with a checker's own did
not fit on a GPU of 139 GiB. Exit status 1 where anything is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kvgen.shipped import shipped

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
# seconds after which a check under a checker is stopped
LIMIT = 500.0
MARK = "========= "
# names of a module's kernels; those of C++ begin as `_Z`
KERNELS = "regex=^_[a-z]"
# a report begins with what was seen; where, stands there or in the next lines
WHAT = re.compile(
    r"(?:Invalid|Uninitialized|Barrier error|Program hit|(?:Error|Warning|Info): Race)"
)
# of a race both accesses are said; the other one stands in a line of its own
OTHER = re.compile(r"\s*and (?P<access>\w+ access) at ")
WHERE = re.compile(r"\bat (?P<kernel>\w+)(?:\(.*?\))?\+0x[0-9a-f]+(?: in (?P<line>\S+:\d+))?")
SUMMARY = re.compile(r"^=+ (?:ERROR|RACECHECK) SUMMARY: ", re.M)


@dataclass(frozen=True)
class Report:
    """What was seen, and how often. places: kernels and lines of the module, in order."""

    what: str
    places: tuple[str, ...]
    times: int


@dataclass(frozen=True)
class Run:
    """A spec's check under a checker. ended: whether the checker came to its summary. passed: the
    check itself. said: the end of what was said where not."""

    spec: str
    ended: bool
    passed: bool
    reports: tuple[Report, ...]
    seconds: float
    said: str = ""


def main() -> int:
    args = arguments().parse_args()
    if shutil.which(args.sanitizer) is None:
        raise SystemExit(
            f"{args.sanitizer}: not found, expected compute-sanitizer, of CUDA's tools"
        )
    names = args.specs or [each.name for each in shipped()]
    with ThreadPoolExecutor(args.together) as pool:
        runs = list(pool.map(partial(told, args), names))
    if args.json:
        about = {"tool": args.tool, "set": args.set, **versions(args.sanitizer)}
        figures = {"about": about, "runs": [asdict(run) for run in runs]}
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(any(run.reports or not run.ended or not run.passed for run in runs))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="all that ship, unless named")
    parser.add_argument("--tool", default="memcheck", choices=TOOLS)
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="as kvgen check")
    parser.add_argument("--together", type=int, default=2, help="processes at a time")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for a spec")
    parser.add_argument("--sanitizer", default="compute-sanitizer", help="where it is")
    parser.add_argument("--json", type=Path)
    return parser


def told(args: argparse.Namespace, spec: str) -> Run:
    found = run(args, spec)
    how = "passed" if found.passed else "failed"
    print(f"{spec}: {how}, {len(found.reports)} reports, {found.seconds:.0f} s", flush=True)
    for report in found.reports:
        print(f"  {report.times} x {report.what}: {', '.join(report.places)}", flush=True)
    if not found.ended or not found.passed:
        print(found.said, flush=True)
    if any("cudaErrorMemoryAllocation" in report.what for report in found.reports):
        print("  out of the GPU's memory: take a smaller --together", flush=True)
    return found


def run(args: argparse.Namespace, spec: str) -> Run:
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = command_of(args.sanitizer, args.tool, log, spec, args.set)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=args.limit, env=environment()
            )
            status, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            status, said = None, f"stopped after {args.limit:.0f} s"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    ended = SUMMARY.search(text) is not None
    return Run(
        spec, ended, status == 0, reports_of(text), round(time.time() - started, 1),
        "" if ended and status == 0 else (text + said)[-2000:],
    )  # fmt: skip


def command_of(
    sanitizer: str, tool: str, log: Path, spec: str, overrides: Sequence[str]
) -> list[str]:
    chosen = [word for override in overrides for word in ("--set", override)]
    checked = [sys.executable, "-m", "kvgen", "check", spec, "--device", "cuda", *chosen]
    only = ["--kernel-name", KERNELS]
    return [sanitizer, "--tool", tool, *only, "--log-file", str(log), *checked]


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


def reports_of(text: str) -> tuple[Report, ...]:
    """What a checker's log says, the same reports together."""
    lines = [line.removeprefix(MARK) for line in text.splitlines() if line.startswith(MARK)]
    seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for number, line in enumerate(lines):
        if not WHAT.match(line):
            continue
        rest = lines[number + 1 :]
        # what is further in says where; of the host's frames nothing is asked
        inner = [each for each in rest[: next_of(rest)] if "Host Frame" not in each]
        places = [place for each in (line, *inner) for place in places_of(each)]
        others = [f" and {found['access']}" for each in inner if (found := OTHER.match(each))]
        what = line.partition(" at ")[0].strip() + "".join(dict.fromkeys(others))
        seen[what, tuple(dict.fromkeys(places))] += 1
    return tuple(Report(what, places, times) for (what, places), times in seen.items())


def next_of(lines: Sequence[str]) -> int:
    """How many lines belong to a report: those that are further in."""
    return next((at for at, line in enumerate(lines) if not line.startswith(" ")), len(lines))


def places_of(line: str) -> list[str]:
    found = WHERE.finditer(line)
    return [f"{each['kernel']} {Path(each['line'] or '').name}".strip() for each in found]


def versions(sanitizer: str) -> dict[str, Any]:
    import torch
    import triton

    said = subprocess.run([sanitizer, "--version"], capture_output=True, text=True).stdout
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "gpu": name,
        "torch": str(torch.__version__),
        "triton": triton.__version__,
        "sanitizer": (said.strip().splitlines() or ["unknown"])[-1],
    }


if __name__ == "__main__":
    raise SystemExit(main())
