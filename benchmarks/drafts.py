"""Write docs/performance-drafts.md: drafts, prompts and a window's memory on this machine's GPU.

    python benchmarks/drafts.py --warm 12 --json docs/data/h100-drafts.json
    python benchmarks/drafts.py --from docs/data/h100-drafts.json    again, from kept figures
    python benchmarks/drafts.py --json docs/data/h100-drafts.json --resume    what is not there yet

Times are `kvgen bench`'s: see kvgen/timing/drafts.py for the method. The page is drafts_page.py's,
its figure figures.py's.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.drafts_page import BATCHES, SERVED, WINDOWS, Found, Memory, page, read
from benchmarks.warming import warm
from kvgen import compiler, shipped
from kvgen.bench import LAYERS, bench
from kvgen.kernels.short import SHORT
from kvgen.timing.drafts import PROMPT_ROWS

if TYPE_CHECKING:
    from kvgen.checking.twin import Made
    from kvgen.timing.short import ShortRow

STATES = ("bfloat16", "split")
OTHERS = ("kimi_delta_attention", "mamba2", "lightning_attention", "rwkv7")
OTHER_BATCHES = (16, 64)
SHORT_BATCHES = (16, 64, 128, 256)
CASES = [*((SERVED, state) for state in STATES), *((name, "bfloat16") for name in OTHERS)]

GIB = 1 << 30
BUDGET = 32 * GIB
# requests that are allocated at a time
CHUNK = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/performance-drafts.md"))
    parser.add_argument("--json", type=Path, help="write the figures too")
    parser.add_argument(
        "--from", dest="kept", type=Path, help="write the page from such figures; measure nothing"
    )
    parser.add_argument(
        "--warm", type=int, default=0, metavar="N", help="compile everything first, in N processes"
    )
    parser.add_argument(
        "--resume", action="store_true", help="take what --json has, and measure what it lacks"
    )
    args = parser.parse_args()
    if args.resume and not args.json:
        parser.error("--resume needs --json FILE")
    if args.kept:
        args.out.write_text(page(read(args.kept), args.out, args.kept), encoding="utf-8")
        return
    started = time.time()

    def say(text: str) -> None:
        print(f"{time.time() - started:5.1f} s  {text}", file=sys.stderr, flush=True)

    found = read(args.json) if args.resume else Found()
    if args.warm:
        warm(args.warm, compiled, jobs(found), say)
    # what was measured is kept when time runs out
    for _ in measured(found, say):
        if args.json:
            args.json.write_text(json.dumps(found.data()), encoding="utf-8")
        args.out.write_text(page(found, args.out, args.json), encoding="utf-8")


# measuring ---------------------------------------------------------------------------------------


@functools.cache
def made(name: str, state: str) -> Made:
    from kvgen.checking.twin import Made

    chosen = {"storage.state": state, "storage.records": "input"}
    analysis = compiler.analyse(shipped.resolve(name), chosen)
    path = compiler.temporary_module(name, compiler.emit(analysis))
    return Made(analysis, compiler.imported(path))


def measured(found: Found, say: Callable[[str], None]) -> Iterator[None]:
    """Everything that is not found yet, more of it at every turn."""
    for name, state in CASES:
        if (name, state) in found.timed:
            continue
        analysis = made(name, state).analysis
        batches, windows = of_case(name)
        prompts = name == SERVED
        report = bench(analysis, batches, kernels=(), drafts=windows, prompts=prompts)
        found.reports.append(report)
        say(f"{name} {state}")
        yield
    for state in STATES:
        if state not in {row.storage for row in found.memory}:
            found.memory.append(requests(state))
            say(f"memory {state}")
            yield
        if state not in {row.storage for row in found.short}:
            found.short += short_contexts(state)
            say(f"short contexts {state}")
            yield


def of_case(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The batches that a spec is timed at, and the windows."""
    return (BATCHES, WINDOWS) if name == SERVED else (OTHER_BATCHES, WINDOWS[:1])


def short_contexts(state: str) -> list[ShortRow]:
    from kvgen.timing.clock import copy_bandwidth
    from kvgen.timing.short import short_rows

    both = made(SERVED, state)
    sizes = LAYERS, SHORT.context, SHORT.held, copy_bandwidth()
    return short_rows(both.analysis, both.module, SHORT_BATCHES, *sizes)


def requests(state: str, window: int = WINDOWS[0], layers: int = LAYERS) -> Memory:
    """Allocate until nothing more fits, three times."""
    import torch

    both = made(SERVED, state)

    def cache() -> Any:
        return both.module.Cache.empty(CHUNK, layers, device="cuda", window=window)

    first = cache()
    found = [first.tensors[name] for name in both.analysis.form.planes]
    planes = [{"size": x.shape, "dtype": x.dtype, "device": x.device} for x in found]
    mib = first.bytes_per_slot / 2**20
    del first

    def states(count: int) -> list[torch.Tensor]:
        return [torch.empty(**plane) for plane in planes for _ in range(count)]

    ours = fitting(cache)
    beside = fitting(lambda: (cache(), states(window)))
    alone = fitting(lambda: states(window + 1))
    return Memory(state, window, layers, BUDGET / GIB, mib, ours, beside, alone)


def fitting(allocate: Callable[[], object]) -> int:
    """How many requests fit into the budget, CHUNK to a call."""
    import torch

    kept: list[object] = []
    with at_most(BUDGET):
        try:
            while True:
                kept.append(allocate())
        except torch.OutOfMemoryError:
            return CHUNK * len(kept)


@contextmanager
def at_most(budget: int) -> Iterator[None]:
    """Let this process have so many bytes of the GPU's memory."""
    import torch

    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# compiling in several processes ------------------------------------------------------------------

# kind, spec, state, batch, window
Job = tuple[str, str, str, int, int]


def jobs(found: Found) -> list[Job]:
    """What will be timed, with what takes longest to compile in front."""
    cases = [case for case in CASES if case not in found.timed]
    served = [state for name, state in cases if name == SERVED]
    asked: list[Job] = [("prompt", SERVED, state, PROMPT_ROWS, 0) for state in served]
    without = {row.storage for row in found.short}
    asked += [
        ("short", SERVED, state, batch, 0)
        for state in STATES
        if state not in without
        for batch in SHORT_BATCHES
    ]
    for kind in ("errors", "verify", "decode", "end"):
        for name, state in cases:
            batches, windows = of_case(name)
            for batch in batches if kind in ("verify", "decode") else batches[:1]:
                for window in windows if kind in ("errors", "verify") else windows[:1]:
                    asked.append((kind, name, state, batch, window))
    return asked


def compiled(job: Job) -> str:
    """Call once, with few layers, what the measurement calls; what went wrong, or nothing."""
    import torch

    from kvgen.timing import drafts, errors, short, steps

    kind, name, state, batch, window = job
    both = made(name, state)
    analysis, module = both.analysis, both.module
    try:
        if kind == "prompt":
            drafts.make_prompt(analysis, module, batch, 64).errors()
        elif kind == "short":
            # as the untuned kernel of this batch, on fewer rows and layers
            short.short_rows(analysis, module, (batch,), 2, SHORT.context, SHORT.held, 1.0)
        elif kind == "errors":
            errors.output_error(analysis, module, "decode", 2)
            errors.verify_error(analysis, module, window, 2)
        elif kind == "decode":
            steps.make_step(analysis, module, batch, 2, window).layers("decode")
        elif kind == "verify":
            step = steps.make_step(analysis, module, batch, 2, window)
            steps.with_tokens(analysis, step, window).layers("verify")
        else:
            # `advance`, `accept` and the fold are the same kernels for all batches but a few
            batches, windows = of_case(name)
            for rows in batches:
                step = steps.make_step(analysis, module, rows, 2, max(windows))
                module.advance(module.Cache.wrap(step.cache.tensors), step.slots)
                for tokens in windows:
                    cache = module.Cache.wrap(step.cache.tensors, window=tokens)
                    module.accept(cache, step.slots, counts=torch.full_like(step.slots, tokens))
        torch.cuda.synchronize()
    except Exception as error:
        return f"{' '.join(map(str, job))}: {type(error).__name__} {error}"[:300]
    return ""


if __name__ == "__main__":
    main()
