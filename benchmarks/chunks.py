"""Time a verify by columns beside the one that solves in every tile, on this machine's GPU.

    python benchmarks/chunks.py --warm 12 --json FILE.json

Both are kernels of one module. Calls of many layers are captured as CUDA graphs and replayed by
turns; cursors stay where they are, and nothing folds. Of the configurations that are tried the
fastest is shown, and all of them are in the file. Errors are those of the worst token against the
recurrence in float64.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.warming import warm
from kvgen import compiler
from kvgen.algebra.chunk import chunks_trees
from kvgen.analysis import Analysis
from kvgen.kernels.chunk import CHUNK
from kvgen.kernels.verify import VERIFY
from kvgen.shipped import resolve
from kvgen.timing.clock import LaunchError, launched
from kvgen.timing.cycles import time_by_turns
from kvgen.timing.errors import exact
from kvgen.timing.steps import DEVICE, Step, make_step, with_tokens

BATCHES = (1, 16, 64, 256)
WINDOWS = (8, 16)
LAYERS = 24
KNOBS = ("TILE", "TILES", "STAGES", "num_warps", "EARLY", "maxnreg")
TRIED = (
    "16,1,1,1,1", "16,1,1,1,0", "32,1,1,1,1", "64,1,1,2,1", "64,1,1,4,1",
    "64,1,1,4,0", "64,2,2,2,0", "64,2,2,1,0", "64,2,2,4,0", "32,4,2,1,0",
)  # fmt: skip
STORAGES = ("bfloat16,input", "split,input")
# of a tree in which every token is behind a drawn one of those before it
SEED = 7
Config = dict[str, int]
Job = tuple[str, Config | None, int, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--spec", default="gated_deltanet")
    parser.add_argument("--storage", nargs="*", default=STORAGES, help="of the state, of records")
    parser.add_argument("--batch", default=",".join(map(str, BATCHES)))
    parser.add_argument("--window", default=",".join(map(str, WINDOWS)))
    parser.add_argument(
        "--configs", nargs="*", type=config_of, default=[config_of(each) for each in TRIED],
        metavar=",".join(KNOBS),
        help="which configurations to try; maxnreg: a thread's registers at most, if it is bounded",
    )  # fmt: skip
    parser.add_argument("--chains", action="store_true", help="no trees")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="compile in N processes")
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    args.trees = not args.chains and chunks_trees(compiler.analyse(resolve(args.spec)).form)
    batches, windows = ([int(x) for x in each.split(",")] for each in (args.batch, args.window))
    folder = Path(mkdtemp())
    files = {storage: written(args.spec, storage, folder) for storage in args.storage}
    if args.warm:
        configs = [None, *args.configs]
        trees = (False, True) if args.trees else (False,)
        jobs = itertools.product(map(str, files.values()), configs, windows, trees)
        # of trees one configuration is timed beside chains, the fastest, whichever that is
        warm(args.warm, compiled, [job for job in jobs if job[1] or not job[3]], say)
    about = {"gpu": torch.cuda.get_device_name(), "spec": args.spec, "torch": torch.__version__}
    rows: list[dict[str, Any]] = []
    for row in report(files, args, batches, windows):
        rows.append(row)
        if args.json:
            args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def say(text: str) -> None:
    print(text, flush=True)


def written(spec: str, storage: str, folder: Path) -> Path:
    """A module of the spec with these formats of state and records, and with the kernel by columns
    even where nothing has timed it yet."""
    state, records = storage.split(",")
    overrides = {"storage.state": state, "storage.records": records}
    analysis = compiler.analyse(resolve(spec), overrides)
    path = folder / f"{spec}_{state}_{records}.py"
    return compiler.write(analysis, path, features=("decode", "verify"), untimed=True)


def loaded(path: Path) -> tuple[Analysis, ModuleType]:
    module = compiler.imported(path)
    return compiler.analyse(module.SPEC["text"]), module


def config_of(text: str) -> Config:
    return {**dict(zip(KNOBS, map(int, text.split(",")), strict=False)), "PDL": 1}


def configure(module: ModuleType, config: Config | None) -> None:
    """Let windows run by columns with this configuration; None: by today's kernel with its own."""
    left_out = VERIFY if config else CHUNK
    kernel = by_columns(module)
    bound = config.get("maxnreg", 0) if config else 0
    vars(module)["_chunk_kernel"] = Bounded(kernel, bound) if bound else kernel
    config = config and {name: value for name, value in config.items() if name != "maxnreg"}
    table = {name: each for name, each in known(module).items() if name != left_out.name}
    module.CONFIGS[torch.cuda.get_device_name()] = {
        **table,
        **({CHUNK.name: {1: CHUNK.asked(config)}} if config else {}),
    }


@cache
def by_columns(module: ModuleType) -> Any:
    return vars(module)["_chunk_kernel"]


class Bounded:
    """A kernel of so many registers a thread at most."""

    def __init__(self, kernel: Any, registers: int) -> None:
        self.kernel, self.registers = kernel, registers

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return partial(self.kernel[grid], maxnreg=self.registers)


@cache
def known(module: ModuleType) -> dict[str, Any]:
    """The configurations that the GPU has or estimates."""
    return module.CONFIGS["default"] | module.CONFIGS.get(torch.cuda.get_device_name(), {})


def compiled(job: Job) -> str:
    """Fills Triton's cache with what a call takes; says what went wrong."""
    file, config, window, tree = job
    try:
        analysis, module = loaded(Path(file))
        step, _ = steps(analysis, module, 1, window, 2)
        call(step, config, parents(1, window) if tree else None)()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{file} {config} {window}: {error}"
    return ""


def steps(
    analysis: Analysis, module: ModuleType, batch: int, window: int, layers: int
) -> tuple[Step, Step]:
    """Rows with a window of tokens, and with one."""
    one = make_step(analysis, module, batch, layers, window)
    several = with_tokens(analysis, one, window)
    one.cache.cursors.copy_(one.spread(one.cache.buffer - window + 1))
    return several, one


def parents(batch: int, window: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    tree = [
        int(torch.randint(-1, t, (1,), generator=generator)) if t else -1 for t in range(window)
    ]
    return torch.tensor([tree] * batch, dtype=torch.int32, device=DEVICE)


def call(step: Step, config: Config | None, tree: torch.Tensor | None) -> Callable[[], None]:
    def run() -> None:
        configure(step.module, config)
        for layer, (inputs, params) in enumerate(zip(step.inputs, step.params, strict=True)):
            given: dict[str, Any] = {**inputs, **params, "parents": tree, "out": step.out[layer]}
            step.module.verify(step.cache, layer, step.slots, **given)

    return run


def error(analysis: Analysis, module: ModuleType, config: Config | None, window: int) -> float:
    """Of windows one after the other, all kept."""
    tokens = 3 * window
    right = exact(analysis, module, tokens)
    configure(module, config)
    cache = module.Cache.empty(2, 1, device=DEVICE, window=window)
    slots = torch.arange(2, device=DEVICE, dtype=torch.int32)
    outputs: list[torch.Tensor] = []
    for start in range(0, tokens, window):
        several = right.inputs[start : start + window]
        given = {name: torch.stack([each[name] for each in several], 1) for name in several[0]}
        out = module.verify(cache, 0, slots, **given, **right.params)
        module.accept(cache, slots, counts=torch.full_like(slots, window))
        outputs += out.unbind(1)
    return right.worst(lambda at: outputs[at])


def report(
    files: dict[str, Path],
    args: argparse.Namespace,
    batches: Iterable[int],
    windows: Iterable[int],
) -> Iterator[dict[str, Any]]:
    for (storage, path), window in itertools.product(files.items(), windows):
        analysis, module = loaded(path)
        errors = [error(analysis, module, config, window) for config in (None, args.configs[0])]
        say(f"{storage} T {window}: errors today {errors[0]:.1e}, by columns {errors[1]:.1e}")
        for batch in batches:
            row = timed(analysis, module, batch, window, args)
            row = {"storage": storage, "window": window, "batch": batch, **row, "errors": errors}
            say(
                "{storage:18} T {window:<2} B {batch:<4} decode {decode:7.2f}  today {today:7.2f}"
                "  columns {columns:7.2f}  tree {tree}  {config}".format(**row)
            )
            yield row
            torch.cuda.empty_cache()


def timed(
    analysis: Analysis, module: ModuleType, batch: int, window: int, args: argparse.Namespace
) -> dict[str, Any]:
    layers = max(2, min(LAYERS, 4096 // batch))
    several, one = steps(analysis, module, batch, window, layers)
    configs = [config for config in args.configs if launches(call(several, config, None))]
    every = [call(several, config, None) for config in (None, *configs)]
    runs = [partial(one.layers, "decode"), *every]
    decode, today, *found = (each.us for each in time_by_turns(runs, layers))
    best = min(range(len(found)), key=found.__getitem__)
    behind = None
    if args.trees:
        tree = call(several, configs[best], parents(batch, window))
        behind = time_by_turns([tree], layers)[0].us
    return {
        "decode": decode,
        "today": today,
        "columns": found[best],
        "tree": behind,
        "config": configs[best],
        "all": [
            [*(each.get(knob, 0) for knob in KNOBS), us]
            for each, us in zip(configs, found, strict=True)
        ],
    }


def launches(run: Callable[[], None]) -> bool:
    """Whether a GPU takes the configuration."""
    try:
        launched(run)
    except LaunchError as error:
        say(str(error))
        return False
    return True


if __name__ == "__main__":
    main()
