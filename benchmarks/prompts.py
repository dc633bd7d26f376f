"""Time prompts of two trees' modules by turns, beside FLA's chunk kernels, on this machine's GPU.

    python benchmarks/prompts.py OLD NEW --try 128,2,8 128,1,8 64,2,4 --json FILE.json

OLD and NEW are folders of generated modules with the same file names, as `kvgen compile SPEC -o
FOLDER/NAME.py` of each tree writes them. `extend` with `accept` is captured as a graph and replayed
by turns: GPU time, in microseconds for a layer. --try: configurations of NEW beside its own, as
TILE,STAGES,num_warps. FLA's kernels get decays that are computed already, and are captured as well.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from kvgen import compiler
from kvgen.timing.cycles import Times, time_by_turns
from kvgen.timing.drafts import Prompt, make_prompt

# rows and tokens
SHAPES = ((8, 1024), (1, 8192))
# of `time_by_turns`, so that it replays a graph of one prompt no more often than is needed
SHARE = 50
Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--try", nargs="*", default=[], metavar="TILE,STAGES,WARPS", dest="tried")
    parser.add_argument("--no-fla", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in sorted(path.name for path in args.old.glob("*.py")):
        for shape in SHAPES:
            runs = {"old": prompt(args.old / name, shape), "new": prompt(args.new / name, shape)}
            for tried in args.tried:
                runs[tried] = prompt(args.new / name, shape, tried)
            if not args.no_fla:
                runs["FLA"] = peer(Path(name).stem, shape)
            rows += timed(Path(name).stem, shape, runs)
            torch.cuda.empty_cache()
            if args.json:
                about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
                args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def timed(name: str, shape: tuple[int, int], runs: dict[str, Run]) -> list[dict[str, Any]]:
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


def works(what: str, run: Run) -> bool:
    try:
        for _ in range(2):
            run()
        torch.cuda.synchronize()
    except Exception as error:
        say(f"{what}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        return False
    return True


def prompt(path: Path, shape: tuple[int, int], tried: str = "") -> Run:
    if tried:
        # a module of its own, as what it runs with is looked up when it is called
        text = path.read_text(encoding="utf-8")
        path = Path(mkdtemp()) / path.name
        path.write_text(f"{text}\n# {tried}\n", encoding="utf-8")
    module = compiler.imported(path)
    if tried:
        tile, stages, warps = map(int, tried.split(","))
        config = {"TILE": tile, "TOKENS": 16, "STAGES": stages, "num_warps": warps}
        module.CONFIGS.setdefault(torch.cuda.get_device_name(), {})["extend"] = {shape[0]: config}
    made: Prompt = make_prompt(compiler.analyse(module.SPEC["text"]), module, *shape)
    return made.run


def peer(stem: str, shape: tuple[int, int]) -> Run:
    """FLA's kernel for the same prompt, states and all; raises where it has none when called."""
    recurrence = next((name for name in PEERS if stem.startswith(name)), None)
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


PEERS = {"kimi_delta_attention": kda, "gla": gla, "rwkv7": rwkv7}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
