"""Drafts in vLLM: how many requests fit, and tokens per second on text that repeats.

    python benchmarks/servers/vllm_drafts.py FOLDER --json FILE
    python benchmarks/servers/vllm_drafts.py FOLDER --only fit --json FILE     without the times

Requests that fit are vLLM's own account of requests of the longest kind, with the same memory for
all arms. Drafts are looked up in the text itself; the model's text goes round a cycle of 64 tokens,
so that nearly all are kept. The engines that are timed start side by side and then take turns, a
batch at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import engine, models
from benchmarks.servers.processes import all_ready, patient, side_by_side, turn

DRAFTS = 3
LONGEST = 1024
# for states and keys: of an engine that says what fits, and of one that is timed
MEMORY, TIMED_MEMORY = 16 << 30, 10 << 30
BATCHES = (1, 8, 32, 64)
PROMPT, TOKENS, DROPPED, ROUNDS = 192, 320, 64, 3
# seconds after which an engine does not start, a batch does not end any more
START, STUCK = 300.0, 90.0
TIMED = ("stock-float32", "kvgen-float32", "kvgen-split", "kvgen-bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", default="")
    parser.add_argument("--only", choices=("fit", "speed"), help="one of the two")
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--together", type=int, default=5, help="engines at a time, to fit")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help="run this here: fit or speed, an arm, drafts")
    args = parser.parse_args()
    if args.one:
        kind, name, drafts = args.one.split()
        patient(0.0 if args.tiny else START)
        run = fit if kind == "fit" else speed
        found = run(args, engine.ARMS[name], int(drafts))
        file = args.folder / f"{kind}-{name}-{drafts}.json"
        file.write_text(json.dumps(found), encoding="utf-8")
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Any]] = {}
    for kind, arms in (("fit", tuple(engine.ARMS)), ("speed", TIMED)):
        if args.only not in (None, kind):
            continue
        jobs = jobs_of(kind, args.arms.split(",") if args.arms else arms)
        files = {job: args.folder / f"{job.replace(' ', '-')}.json" for job in jobs}
        for old in (*files.values(), *args.folder.glob("ready-*")):
            old.unlink(missing_ok=True)
        commands = {file.stem: [*sys.argv, "--one", job] for job, file in files.items()}
        side_by_side(commands, args.folder, args.together if kind == "fit" else len(jobs))
        found = [file for file in files.values() if file.is_file()]
        results[kind] = [json.loads(file.read_text(encoding="utf-8")) for file in found]
    about = {"model": args.model, "drafts": DRAFTS, "longest": LONGEST, "memory_bytes": MEMORY,
             "command": " ".join(["python", *sys.argv])}  # fmt: skip
    summary(results)
    if args.json:
        text = json.dumps({"about": about, **results}, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")


def jobs_of(kind: str, arms: Sequence[str]) -> list[str]:
    return [f"{kind} {arm} {drafts}" for arm in arms for drafts in (0, DRAFTS)]


def fit(args: argparse.Namespace, arm: engine.Arm, drafts: int) -> dict[str, Any]:
    """vLLM's account of its memory; nothing is decoded."""
    import torch

    gpu = torch.cuda.is_available()
    shared = {"kv_cache_memory_bytes": MEMORY, "gpu_memory_utilization": 0.05} if gpu else {}
    llm = engine.start(
        arm, models.write(args.folder, args.model, args.tiny), tiny=args.tiny,
        max_model_len=LONGEST if not args.tiny else 256, max_num_seqs=256 if not args.tiny else 8,
        **engine.looked_up(drafts), **shared,
    )  # fmt: skip
    return {"arm": arm.name, "drafts": drafts, **engine.versions(), **engine.memory(llm)}


def speed(args: argparse.Namespace, arm: engine.Arm, drafts: int) -> dict[str, Any]:
    """Tokens a second of text that repeats."""
    batches = [int(batch) for batch in args.batches.split(",")] if not args.tiny else [2]
    prompt, tokens, dropped = (PROMPT, TOKENS, DROPPED) if not args.tiny else (80, 40, 8)
    rounds = ROUNDS if not args.tiny else 1
    # a step with drafts takes so many tokens a request
    sizes = {batch * width for batch in batches for width in {1, 1 + drafts}}
    memory = {"kv_cache_memory_bytes": TIMED_MEMORY, "gpu_memory_utilization": 0.05}
    llm = engine.start(
        arm, models.write(args.folder, args.model, args.tiny), batches=sorted(sizes),
        tiny=args.tiny, peak=engine.PEAK, max_num_seqs=max(batches),
        max_model_len=prompt + tokens + 1 + DRAFTS, **engine.looked_up(drafts),
        max_num_batched_tokens=max(2048, max(batches) * prompt),
        **({} if args.tiny else memory),
    )  # fmt: skip
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]
    rows: list[dict[str, Any]] = [{"batch": batch, "rounds": []} for batch in batches]
    engine.settle()
    engine.say("started")
    patient(0.0)
    jobs = jobs_of("speed", args.arms.split(",") if args.arms else TIMED)
    names = [job.replace(" ", "-") for job in jobs]
    all_ready(args.folder, f"speed-{arm.name}-{drafts}", names)
    for lap in range(rounds):
        for row in rows:
            batch = row["batch"]
            asked = [
                (
                    f"{lap}-{batch}-{at}",
                    engine.repeating(at, prompt, vocabulary),
                    engine.greedy(tokens),
                )
                for at in range(batch)
            ]
            with turn(args.folder):
                patient(0.0 if args.tiny else STUCK)
                row["rounds"].append(timed(engine.run(llm, asked), batch, dropped))
                patient(0.0)
            engine.say(f"batch {batch}: {row['rounds'][-1]}")
    return {"arm": arm.name, "drafts": drafts, **engine.versions(), "rows": rows}


def timed(found: engine.Steps, batch: int, dropped: int) -> dict[str, float]:
    """After so many tokens a request and while none has ended: what a step takes and gives."""
    total, begin, until = 0, None, len(found.times) - 1
    for at, count in enumerate(found.tokens):
        total += count
        if begin is None and total >= dropped * batch:
            begin = at
        if total >= (len(next(iter(found.outputs.values()))) - 16) * batch:
            until = at
            break
    assert begin is not None and until > begin
    steps = until - begin
    taken = found.times[until] - found.times[begin]
    tokens = sum(found.tokens[begin + 1 : until + 1])
    gaps = [found.times[at] - found.times[at - 1] for at in range(begin + 1, until + 1)]
    return {
        "tokens_s": round(tokens / taken, 1),
        "tokens_a_step": round(tokens / steps / batch, 3),
        "step_ms": round(statistics.median(gaps) * 1e3, 4),
    }


def summary(results: dict[str, list[Any]]) -> None:
    for each in results.get("fit", ()):
        blocks = sum(group["blocks_a_request"] for group in each["groups"])
        print(
            f"{each['arm']:15} drafts {each['drafts']}: {each['requests']:8.1f} requests of "
            f"{each['tokens']} tokens, {each['blocks']} blocks, {blocks} a request, pages of "
            f"{each['groups'][0]['page_bytes']} bytes"
        )
    for each in results.get("speed", ()):
        for row in each["rows"]:
            middle = sorted(row["rounds"], key=lambda x: x["tokens_s"])[len(row["rounds"]) // 2]
            print(f"{each['arm']:15} drafts {each['drafts']} batch {row['batch']:<4} {middle}")


if __name__ == "__main__":
    started = time.time()
    main()
    print(f"{time.time() - started:.0f} s", file=sys.stderr)
