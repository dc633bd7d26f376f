"""Time two trees' modules of the same recurrences by turns, on this machine's GPU.

    python benchmarks/turns.py OLD NEW --warm 12 --json docs/data/FILE.json

OLD and NEW are folders of generated modules with the same file names, as `kvgen compile SPEC -o
FOLDER` of each tree writes them. Calls are captured as CUDA graphs of many layers and replayed by
turns; cursors stay where they are, and nothing folds but in `decode + advance`. A ratio is NEW over
OLD.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.warming import warm
from kvgen import compiler
from kvgen.analysis import Analysis
from kvgen.timing.cycles import Cycle, time_by_turns, time_cycles
from kvgen.timing.drafts import PROMPT, PROMPT_ROWS, longest_window, make_prompt
from kvgen.timing.steps import Step, make_step, with_tokens

BATCHES = (1, 16, 64, 256)
WINDOWS = (4, 8, 16)
LAYERS = 24
Job = tuple[str, str, int]


def main() -> None:
    parser = of_two_trees(__doc__, BATCHES)
    parser.add_argument("--calls", default=",".join([*kinds(), "extend"]), help="which are timed")
    args = parser.parse_args()
    wanted = args.calls.split(",")
    batches = [int(batch) for batch in args.batch.split(",")]
    names = names_in(args.old)
    if args.warm:
        jobs = [
            (file, kind, 1 if kind == "extend" else batch)
            for file in files_of(args, names)
            for kind in wanted
            for batch in (batches[:1] if kind == "extend" else batches)
        ]
        warm(args.warm, compiled, jobs, say)
    found = (turns(name, args.old / name, args.new / name, batches, wanted) for name in names)
    report(chain.from_iterable(found), args.json)


def of_two_trees(doc: str | None, batches: Sequence[int]) -> argparse.ArgumentParser:
    """Arguments of what compares two folders of modules."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="compile in N processes")
    parser.add_argument("--batch", default=",".join(map(str, batches)))
    return parser


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.py"))


def files_of(args: argparse.Namespace, names: list[str]) -> list[str]:
    """The modules of both folders."""
    return [str(folder / name) for name in names for folder in (args.old, args.new)]


def report(rows: Iterable[dict[str, Any]], path: Path | None) -> None:
    """Say every row as it comes, then the summary; write them where a path is given."""
    kept = []
    for row in rows:
        kept.append(row)
        say("{spec:32} {call:16} B {batch:<4} {old:8.2f} {new:8.2f} {ratio:.3f}".format(**row))
    summary(kept)
    if path:
        about = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "command": " ".join(["python", *sys.argv]),
        }
        path.write_text(json.dumps({"about": about, "rows": kept}, indent=1) + "\n")


def say(text: str) -> None:
    print(text, flush=True)


def kinds() -> list[str]:
    return ["decode + advance", *(f"verify {window}" for window in WINDOWS)]


def loaded(path: Path) -> tuple[Analysis, ModuleType]:
    module = compiler.imported(path)
    return compiler.analyse(module.SPEC["text"]), module


def compiled(job: Job) -> str:
    """Fills Triton's cache with what a call takes at a batch; says what went wrong."""
    file, kind, batch = job
    try:
        analysis, module = loaded(Path(file))
        for run in calls(kind, *steps(analysis, module, kind, batch, layers=1)):
            run()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{file} {kind} {batch}: {error}"
    return ""


def steps(
    analysis: Analysis, module: ModuleType, kind: str, batch: int, layers: int
) -> tuple[Any, ...]:
    if kind == "extend":
        return (make_prompt(analysis, module, PROMPT_ROWS, PROMPT),)
    window = int(kind.split()[1]) if kind.startswith("verify") else 0
    one = make_step(analysis, module, batch, layers, window)
    return (with_tokens(analysis, one, window) if window else one,)


def calls(kind: str, step: Any) -> list[Callable[[], object]]:
    if kind == "extend":
        return [step.run]
    if kind.startswith("verify"):
        room = step.cache.buffer - step.cache.window
        step.cache.cursors.copy_(step.spread(room + 1))
        return [lambda: step.layers("verify")]
    return [lambda: step.run("decode")]


def turns(
    name: str, old: Path, new: Path, batches: list[int], wanted: list[str]
) -> Iterator[dict[str, Any]]:
    """The calls that are wanted at every batch, for both modules."""
    pairs = [loaded(path) for path in (old, new)]
    spec = Path(name).stem
    for batch in batches:
        for kind in (kind for kind in kinds() if kind in wanted):
            if kind.startswith("verify") and int(kind.split()[1]) > longest_window(pairs[0][0]):
                continue
            layers = max(2, min(LAYERS, 4096 // batch))
            found = [steps(*pair, kind, batch, layers)[0] for pair in pairs]
            yield row(spec, kind, batch, layers, *timed(kind, found, layers))
            del found
            torch.cuda.empty_cache()
    if "extend" not in wanted:
        return
    prompts = [make_prompt(*pair, PROMPT_ROWS, PROMPT) for pair in pairs]
    runs = [prompt.run for prompt in prompts]
    times = [each.us for each in time_by_turns(runs, 20)]
    yield row(spec, "extend", PROMPT_ROWS, 1, *(us * 20 for us in times))


def timed(kind: str, found: list[Step], layers: int) -> list[float]:
    runs = [run for step in found for run in calls(kind, step)]
    if kind.startswith("verify"):
        return [each.us for each in time_by_turns(runs, layers)]
    cycles = [
        Cycle(run, layers, step.cache.buffer, step.cache.cursors, step.staggered(step.cache.buffer))
        for run, step in zip(runs, found, strict=True)
    ]
    return [times.us for times, _ in time_cycles(cycles)]


def row(spec: str, call: str, batch: int, layers: int, old: float, new: float) -> dict[str, Any]:
    return {
        "spec": spec, "call": call, "batch": batch, "layers": layers,
        "old": round(old, 3), "new": round(new, 3), "ratio": round(new / old, 4),
    }  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> None:
    """The geometric mean of each call's ratios, and the worst."""
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in rows:
        ratios[each["spec"], each["call"]].append(each["ratio"])
    for (spec, call), found in ratios.items():
        mean = math.exp(statistics.fmean(map(math.log, found)))
        say(f"{spec:32} {call:16} mean {mean:.3f} worst {max(found):.3f}")


if __name__ == "__main__":
    main()
