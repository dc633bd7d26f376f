"""SGLang with drafts of its model's own kind: requests that fit, and whether the text is the same.

    python benchmarks/servers/sglang_drafts.py FOLDER --json docs/data/h200-sglang-drafts.json
    python benchmarks/servers/sglang_drafts.py FOLDER --topk 2 --json FILE      trees of 8 tokens

Every arm runs with windows of 4 tokens and without. What a request takes is what its slot has of
SGLang's pools, tensor by tensor; how many fit is what goes into so many bytes of states and keys.
Texts are compared up to the first difference, where the figures say how far apart the two best
tokens are without drafts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import models, sglang_engine
from benchmarks.servers.processes import patient, side_by_side

ARMS = ("stock-float32", "replay-float32", "kvgen-float32")
DRAFTS = 4
# tokens of a window that is a tree
NODES = 8
ROWS, PROMPT, TOKENS = 16, 96, 64
# of states and keys, and tokens of the longest request
MEMORY, LONGEST = 16 << 30, 1024
# so that drafts are often right, and often not
PEAK = 18.0
# seconds after which a server does not start, a batch does not end any more
START, STUCK = 240.0, 90.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--topk", type=int, default=1, help="branches of a window")
    parser.add_argument("--together", type=int, default=3, help="servers at a time")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help="run ARM/DRAFTS in this process")
    args = parser.parse_args()
    if args.one:
        measured(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    window = windows(args.topk)["speculative_num_draft_tokens"]
    jobs = [f"{arm}-{drafts}" for drafts in (window, 0) for arm in args.arms.split(",")]
    side_by_side({job: [*sys.argv, "--one", job] for job in jobs}, args.folder, args.together)
    files = [args.folder / f"{job}.json" for job in jobs]
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    found = told(runs, window, args.topk, " ".join(["python", *sys.argv]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def windows(topk: int) -> dict[str, Any]:
    """SGLang's arguments for windows, with so many branches at every step."""
    return {
        "speculative_algorithm": "NEXTN",
        "speculative_num_steps": DRAFTS - 1,
        "speculative_eagle_topk": topk,
        "speculative_num_draft_tokens": DRAFTS if topk == 1 else NODES,
    }


# in an arm's own process -------------------------------------------------------------------------


def measured(args: argparse.Namespace) -> None:
    """One arm with drafts or without; FOLDER/ARM-DRAFTS.json is what it takes and what it says."""
    patient(0.0 if args.tiny else START)
    name, _, count = args.one.rpartition("-")
    drafts = int(count)
    rows, prompt, tokens = (ROWS, PROMPT, TOKENS) if not args.tiny else (2, 12, 6)
    length = prompt + tokens + 2 * NODES
    server = sglang_engine.start(
        sglang_engine.ARMS[name], models.write(args.folder / args.one, args.model, args.tiny),
        batches=(1, 4, rows), tiny=args.tiny, peak=PEAK, drafts=drafts > 0,
        max_running_requests=rows, context_length=length + 8, max_mamba_cache_size=rows,
        max_total_tokens=2 * rows * length + 1024, mem_fraction_static=0.4,
        **(windows(args.topk) if drafts else {}),
    )  # fmt: skip
    sglang_engine.say("started")
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]
    asked = [
        sglang_engine.asked(str(row), row, prompt, tokens, vocabulary)
        if row % 2
        else sglang_engine.Request(str(row), models.cycle(row, prompt, vocabulary), tokens)
        for row in range(rows)
    ]
    book = None
    if not drafts:
        from benchmarks.servers.sglang_forced import Listener

        book = Listener(server).open([prompt] * rows, tokens, vocabulary, None)
    patient(0.0 if args.tiny else STUCK)
    found = server.run(asked)
    patient(0)
    gaps = None
    if book is not None:
        best = book.logs.topk(2, dim=-1).values
        gaps = (best[..., 0] - best[..., 1]).tolist()
    steps = [count for count in found.tokens if count]
    result = {
        "arm": name, "drafts": drafts, **sglang_engine.versions(),
        "memory": sglang_engine.memory(server), "key_bytes": sglang_engine.key_bytes(server),
        "outputs": found.outputs, "gaps": gaps,
        "tokens_a_step": round(sum(steps[1:]) / len(steps[1:]) / rows, 3),
    }  # fmt: skip
    sglang_engine.say(f"{result['tokens_a_step']} tokens a step and request")
    (args.folder / f"{args.one}.json").write_text(json.dumps(result), encoding="utf-8")


# what they said ----------------------------------------------------------------------------------


def told(runs: list[dict[str, Any]], window: int, topk: int, command: str) -> dict[str, Any]:
    """What fits of each arm, and where its text with drafts leaves that without."""
    kept = {(run["arm"], run["drafts"]): run for run in runs}
    fits = []
    for run in runs:
        states = sum(run["memory"]["state_bytes"].values())
        taken = states + LONGEST * run["key_bytes"]
        fits.append(
            {name: run[name] for name in ("arm", "drafts", "tokens_a_step", "key_bytes")}
            | {"state_bytes": states, "requests": MEMORY // taken}
            | {"tensors": run["memory"]["state_bytes"]}
        )
    same = {}
    for (arm, drafts), run in kept.items():
        plain = kept.get((arm, 0))
        if drafts and plain is not None:
            same[arm] = parted(run["outputs"], plain["outputs"], plain["gaps"])
    about = {
        name: runs[0][name]
        for name in ("gpu", "sglang", "torch", "triton", "transformers")
        if runs and name in runs[0]
    }
    return {
        "about": about | {"drafts": window, "topk": topk, "longest": LONGEST,
                          "memory_bytes": MEMORY, "command": command},
        "fit": fits,
        "same": same,
    }  # fmt: skip


def parted(
    ours: dict[str, list[int]], plain: dict[str, list[int]], gaps: list[list[float]]
) -> dict[str, Any]:
    """Requests whose text leaves the other one, where, and how far the two best are apart there."""
    places = []
    for row, known in plain.items():
        for step, (a, b) in enumerate(zip(ours[row], known, strict=True)):
            if a != b:
                places.append({"row": int(row), "step": step, "gap": gaps[int(row)][step]})
                break
    return {
        "requests": len(plain),
        "parted": len(places),
        "gap": max((each["gap"] for each in places), default=0.0),
        "places": places,
    }


if __name__ == "__main__":
    main()
