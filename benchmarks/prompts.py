"""Time prompts of two trees' modules by turns, beside FLA's chunk kernels, on this machine's GPU.

    python benchmarks/prompts.py OLD NEW --try 64,2,4 64,3,4 128,2,8 --warm 14 --json FILE.json

OLD and NEW are folders of generated modules with the same file names, as
`kvgen compile SPEC -o FOLDER/NAME.py` of each tree writes them. `extend` with `accept` is captured
as a graph and replayed by turns: GPU time, in microseconds for a layer. --try: configurations
beside NEW's own, as TILE,STAGES,num_warps, of what this tree compiles of its recurrences. FLA's
kernels get decays that are computed already, and are captured as well. Errors are those of the
first row against the recurrence in float64: of the worst token's output, and of the state.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.warming import warm
from kvgen import compiler
from kvgen.timing.cycles import Times, time_by_turns
from kvgen.timing.drafts import Prompt, make_prompt

# of `time_by_turns`, so that it replays a graph of one prompt no more often than is needed
SHARE = 50
# tokens of the prompt that is compared with float64
CHECKED = 512
# parts of what FLA tries of its kernels, each compiled in a process
SHARES = 6
Run = Callable[[], object]
Shape = tuple[int, int]
# a module's file, or FLA's recurrence; a configuration, or which share of FLA's; a shape
Job = tuple[str, str, Shape]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="*", help="of the modules those of these names")
    parser.add_argument(
        "--shapes", nargs="*", type=shape_of, default=[(8, 1024), (1, 8192)], metavar="ROWSxTOKENS"
    )
    parser.add_argument(
        "--try", nargs="*", default=[], metavar="TILE,STAGES,WARPS[,MAXNREG,EACH]",
        dest="tried", help="MAXNREG, EACH: registers of what prepares, programs until it shares",
    )  # fmt: skip
    parser.add_argument("--old-most", type=int, default=1 << 20, help="tokens that OLD is timed at")
    parser.add_argument("--warm", type=int, default=0, metavar="N", help="compile in N processes")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so many")
    parser.add_argument("--no-fla", action="store_true")
    parser.add_argument("--no-old", action="store_true")
    parser.add_argument("--kernels", action="store_true", help="say how long each kernel takes")
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    began = time.monotonic()
    names = sorted(path.name for path in args.old.glob("*.py"))
    names = [name for name in names if not args.only or Path(name).stem in args.only]
    if args.warm:
        warm(args.warm, compiled, list(jobs(args, names)), say)
        say(f"{time.monotonic() - began:.0f} s")
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += errors(args, name)
    for shape, name in itertools.product(args.shapes, names):
        if time.monotonic() - began > args.seconds:
            say(f"out of time: {name} {shape[0]} x {shape[1]}")
            continue
        runs = {"new": prompt(args.new / name, shape).run}
        if shape[0] * shape[1] <= args.old_most and not args.no_old:
            runs = {"old": prompt(args.old / name, shape).run, **runs}
        for tried in args.tried:
            runs[tried] = prompt(args.new / name, shape, tried).run
        if not args.no_fla:
            runs["FLA"] = peer(Path(name).stem, shape)
        rows += timed(Path(name).stem, shape, runs)
        if args.kernels:
            for which in ("new", "FLA"):
                if which in runs:
                    say_kernels(f"{Path(name).stem} {shape[0]} x {shape[1]} {which}", runs[which])
        del runs
        torch.cuda.empty_cache()
        if args.json:
            about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
            args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    say(f"{time.monotonic() - began:.0f} s")


def shape_of(text: str) -> Shape:
    rows, tokens = text.split("x")
    return int(rows), int(tokens)


def jobs(args: argparse.Namespace, names: list[str]) -> list[Job]:
    """What is compiled, the largest first. How many heads a program prepares hangs on the shape."""
    found: list[Job] = []
    for name, shape in itertools.product(names, args.shapes):
        found += [(str(args.new / name), tried, shape) for tried in ("", *args.tried)]
        found += [] if args.no_old else [(str(args.old / name), "", shape)]
    peers = {known(Path(name).stem) for name in names} - {None} if not args.no_fla else set()
    return [(str(each), str(share), (1, 1024)) for share in range(SHARES) for each in peers] + found


def compiled(job: Job) -> str:
    """Fills Triton's cache with what a call takes; says what went wrong."""
    which, tried, shape = job
    try:
        if which in PEERS:
            share_configurations(int(tried))
            PEERS[which](*shape)()
        else:
            prompt(Path(which), shape, tried).run()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{which} {tried} {shape}: {type(error).__name__} {str(error).splitlines()[:1]}"
    return ""


def share_configurations(share: int) -> None:
    """Let every kernel that tunes itself try only a share of what it would."""
    from triton.runtime.autotuner import Autotuner

    run = Autotuner.run

    def shared(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self, "whole"):
            self.whole = self.configs
        self.configs = self.whole[share::SHARES] or self.whole[:1]
        return run(self, *args, **kwargs)

    Autotuner.run = shared


def errors(args: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for which, folder, tried in (
        ("old", args.old, ""), ("new", args.new, ""), *((x, args.new, x) for x in args.tried[:1]),
    ):  # fmt: skip
        if which == "old" and args.no_old:
            continue
        try:
            output, state = prompt(folder / name, (2, CHECKED), tried).errors()
        except Exception as error:
            say(f"{name} {which}: {type(error).__name__}: {str(error).splitlines()[:1]}")
            continue
        say(f"{Path(name).stem:32} errors {which:12} output {output:.1e}  state {state:.1e}")
        found.append({"spec": Path(name).stem, "which": which, "errors": [output, state]})
    return found


def timed(name: str, shape: Shape, runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Every call that the GPU takes, by turns; what it refuses is said."""
    ready = {which: run for which, run in runs.items() if works(f"{name} {which}", run)}
    times: list[Times] = time_by_turns(list(ready.values()), SHARE)
    found = []
    for which, each in zip(ready, times, strict=True):
        us, spread = each.us * SHARE, each.spread * SHARE
        say(f"{name:32} {shape[0]} x {shape[1]:<6} {which:12} {us:9.1f} us  ± {spread:.1f}")
        found.append(
            {"spec": name, "rows": shape[0], "tokens": shape[1], "which": which, "us": round(us, 2),
             "spread": round(spread, 2)}
        )  # fmt: skip
    return found


def say_kernels(what: str, run: Run) -> None:
    """How long each kernel of a call takes, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    if not works(what, run):
        return
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            run()
        torch.cuda.synchronize()
    for each in sorted(found.key_averages(), key=lambda x: -x.device_time_total)[:8]:
        say(f"  {what:44} {each.key[:60]:60} {each.device_time_total / 5:9.1f} us")


def works(what: str, run: Run) -> bool:
    try:
        for _ in range(2):
            run()
        torch.cuda.synchronize()
    except Exception as error:
        say(f"{what}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        return False
    return True


def prompt(path: Path, shape: Shape, tried: str = "") -> Prompt:
    module = compiler.imported(path)
    analysis = compiler.analyse(module.SPEC["text"])
    if tried:
        # with kernels that nothing has timed yet; a module of its own, as what it runs with is
        # looked up when it is called
        text = compiler.emit(analysis, features=module.FEATURES, untimed=True)
        path = compiler.temporary_module(path.stem, f"{text}\n# {tried}\n")
        module = compiler.imported(path)
        configure(module, shape[0], tried)
    return make_prompt(analysis, module, *shape)


def configure(module: ModuleType, rows: int, tried: str) -> None:
    tile, stages, warps, *preparing = map(int, tried.split(","))
    if preparing:
        registers, module.EACH = preparing
        module.PREPARING = {**module.PREPARING, "maxnreg": registers}
    config = {"TILE": tile, "STAGES": stages, "num_warps": warps}
    table = module.Cache.table
    kernel = "sweep" if table.blocks else "extend"
    more = {} if table.blocks else {"TOKENS": 16}
    if table.blocks:
        # as many stages as are asked for
        module.Cache.table = table._replace(blocks=table.blocks._replace(beside=0))
    module.CONFIGS.setdefault(torch.cuda.get_device_name(), {})[kernel] = {rows: config | more}


def known(stem: str) -> str | None:
    """The recurrence of FLA's that a module's file is called by."""
    return next((name for name in PEERS if stem.startswith(name)), None)


def peer(stem: str, shape: Shape) -> Run:
    """FLA's kernel for the same prompt, states and all; raises where it has none when called."""
    recurrence = known(stem)
    return PEERS[recurrence](*shape) if recurrence else lambda: _none(stem)


def _none(stem: str) -> None:
    raise LookupError(f"FLA has no kernel for {stem} that this benchmark knows")


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def decays(*shape: int) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(torch.randn(*shape, device="cuda") + 3.0)


def kda(rows: int, tokens: int) -> Run:
    heads = (rows, tokens, 32)
    q, k, v, log = (
        normal(*heads, 128),
        normal(*heads, 128),
        normal(*heads, 128),
        decays(*heads, 128),
    )
    beta, state = (
        torch.rand(*heads, device="cuda").bfloat16(),
        torch.zeros(rows, 32, 128, 128).cuda(),
    )

    def run() -> object:
        from fla.ops.kda import chunk_kda

        return chunk_kda(
            q, k, v, log, beta, initial_state=state, output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )  # fmt: skip

    return run


def gla(rows: int, tokens: int) -> Run:
    heads = (rows, tokens, 4)
    q, k, v, log = (
        normal(*heads, 256),
        normal(*heads, 256),
        normal(*heads, 512),
        decays(*heads, 256),
    )
    state = torch.zeros(rows, 4, 256, 512).cuda()

    def run() -> object:
        from fla.ops.gla import chunk_gla

        return chunk_gla(q, k, v, log, initial_state=state, output_final_state=True)

    return run


def gated_deltanet(rows: int, tokens: int) -> Run:
    q, k = (normal(rows, tokens, 16, 128) for _ in range(2))
    heads = (rows, tokens, 32)
    v, log, beta = normal(*heads, 128), decays(*heads), torch.rand(*heads, device="cuda").bfloat16()
    state = torch.zeros(rows, 32, 128, 128).cuda()

    def run() -> object:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        return chunk_gated_delta_rule(
            q, k, v, log, beta, initial_state=state, output_final_state=True,
            use_qk_l2norm_in_kernel=True,
        )  # fmt: skip

    return run


def mamba2(rows: int, tokens: int) -> Run:
    """Keys and queries of a group are given to each of its heads."""
    heads = (rows, tokens, 128)
    q, k, v, log = normal(*heads, 128), normal(*heads, 128), normal(*heads, 64), decays(*heads)
    state = torch.zeros(rows, 128, 128, 64).cuda()

    def run() -> object:
        from fla.ops.simple_gla import chunk_simple_gla

        return chunk_simple_gla(q, k, v, log, initial_state=state, output_final_state=True)

    return run


def rwkv7(rows: int, tokens: int) -> Run:
    heads = (rows, tokens, 64, 64)
    r, k, v = normal(*heads), normal(*heads), normal(*heads)
    w = (-math.exp(-0.5) * torch.rand(*heads, device="cuda")).bfloat16()
    key = torch.nn.functional.normalize(normal(*heads).float(), dim=-1)
    a, b = (-key).bfloat16(), (key * torch.rand(*heads, device="cuda")).bfloat16()
    state = torch.zeros(rows, 64, 64, 64).cuda()

    def run() -> object:
        from fla.ops.rwkv7 import chunk_rwkv7

        return chunk_rwkv7(r, w, k, v, a, b, initial_state=state, output_final_state=True)

    return run


PEERS = {
    "gated_deltanet": gated_deltanet,
    "mamba2": mamba2,
    "kimi_delta_attention": kda,
    "gla": gla,
    "rwkv7": rwkv7,
}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
