"""Tokens per second in vLLM, time between tokens, and what linear attention takes of a step.

    python benchmarks/servers/vllm_speed.py stock-float32 kvgen-split --json FILE
    python benchmarks/servers/vllm_speed.py --from OLD.json NEW.json --json FILE    one of several

An arm is a process with one engine. Requests of a batch are admitted together, with prompts of one
length (--staggered: of many); the first steps are dropped, and rounds of all batches repeat.
Time between tokens is the wall clock between the outputs of two steps, everything included; time
on the GPU is the sum over its kernels, by torch's profiler, in steps of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import engine, gpu_time, models
from benchmarks.servers.processes import side_by_side

BATCHES = (1, 8, 32, 64, 128, 256, 512)
PROMPT, TOKENS, DROPPED, ROUNDS, PROFILED = 128, 256, 32, 3, 20
TINY = {"batches": (1, 3), "prompt": 9, "tokens": 24, "dropped": 4, "profiled": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(engine.ARMS))
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--buffer", type=int, default=engine.BUFFER)
    parser.add_argument("--staggered", action="store_true", help="prompts of 64 to 192 tokens")
    parser.add_argument("--no-profile", action="store_true", help="no sums over kernels")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="kept", nargs="+", type=Path, help="figures to join")
    parser.add_argument("--one", type=Path, help="measure the one arm here, into this file")
    args = parser.parse_args()
    if args.one:
        args.one.write_text(json.dumps(measured(args)), encoding="utf-8")
        return
    if args.kept:
        found = joined([json.loads(path.read_text(encoding="utf-8")) for path in args.kept])
    else:
        found = {"runs": list(each(args))}
    for run in found["runs"]:
        summary(run)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def each(args: argparse.Namespace) -> Any:
    """One arm after the other: they are timed."""
    with tempfile.TemporaryDirectory() as folder:
        for arm in args.arms:
            # the process is told its arm and nothing of the others
            rest = [word for word in sys.argv if word not in args.arms]
            out = Path(folder) / f"{arm}.json"
            side_by_side({arm: [*rest, arm, "--one", str(out)]}, Path(folder))
            if out.is_file():
                yield json.loads(out.read_text(encoding="utf-8"))


def joined(files: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of several files; of the same arm, model and prompts the later one."""
    runs: dict[tuple[str, ...], Any] = {}
    for file in files:
        for run in file["runs"]:
            about = run["about"]
            runs[run["arm"], about["model"], str(about["staggered"]), str(about["buffer"])] = run
    return {"runs": list(runs.values())}


# in an arm's own process -------------------------------------------------------------------------


def measured(args: argparse.Namespace) -> dict[str, Any]:
    engine.prepare(args.tiny)
    arm = engine.ARMS[args.arms[0]]
    batches = [int(batch) for batch in args.batches.split(",")]
    prompt, tokens, dropped, profiled = PROMPT, args.tokens, DROPPED, PROFILED
    if args.tiny:
        batches = list(TINY["batches"])
        prompt, tokens, dropped, profiled = (
            TINY["prompt"], TINY["tokens"], TINY["dropped"], TINY["profiled"]
        )  # fmt: skip
    largest = max(batches)
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        llm = engine.start(
            arm, models.write(Path(folder), args.model, args.tiny), batches=batches,
            tiny=args.tiny, buffer=args.buffer, max_num_seqs=largest,
            max_model_len=prompt + prompt // 2 + tokens + 1,
            # all prompts of a batch in one step
            max_num_batched_tokens=max(2048, largest * prompt),
            **({} if args.tiny else {"gpu_memory_utilization": 0.6}),
        )  # fmt: skip
    say(f"started in {time.time() - started:.0f} s")
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]

    def requests(batch: int, count: int, turn: str) -> list[tuple[str, Any, Any]]:
        found = []
        for row in range(batch):
            length = prompt
            if args.staggered:
                length = prompt // 2 + row * 37 % prompt
            asked = engine.prompt(row, length, vocabulary), engine.greedy(count)
            found.append((f"{turn}-{row}", *asked))
        return found

    rows: dict[int, dict[str, Any]] = {batch: {"rounds": []} for batch in batches}
    for turn in range(args.rounds):
        for batch in batches:
            found = engine.run(llm, requests(batch, tokens, f"{turn}-{batch}"))
            rows[batch]["rounds"].append(timed(found, batch, dropped))
        say(f"round {turn + 1}")
    if not args.no_profile:
        for batch in batches:
            asked = requests(batch, dropped + 2 * profiled, f"profile-{batch}")
            rows[batch]["gpu"] = profile(llm, asked, batch, dropped, profiled)
        say("profiled")
    return {
        "arm": arm.name,
        "about": {
            **engine.versions(), "model": args.model, "prompt": prompt, "tokens": tokens,
            "dropped": dropped, "staggered": args.staggered, "buffer": args.buffer,
            "command": " ".join(["python", *sys.argv[:1], arm.name]),
        },
        "memory": engine.memory(llm),
        "peak_bytes": engine.peak_bytes(),
        "rows": [{"batch": batch, **row} for batch, row in rows.items()],
    }  # fmt: skip


def timed(found: engine.Steps, batch: int, dropped: int) -> dict[str, float]:
    """Of the steps in which every request got a token, without the first: milliseconds between
    tokens, tokens a second."""
    full = [at for at, count in enumerate(found.tokens) if count == batch]
    # consecutive ones, after the prompts
    full = [at for at in full[dropped:] if at and found.tokens[at - 1] == batch]
    gaps = sorted((found.times[at] - found.times[at - 1]) * 1e3 for at in full)
    return {
        "median_ms": round(statistics.median(gaps), 4),
        "p99_ms": round(gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))], 4),
        "tokens_s": round(batch * len(gaps) / sum(gaps) * 1e3, 1),
        "steps": len(gaps),
    }


def profile(llm: Any, asked: Any, batch: int, dropped: int, steps: int) -> dict[str, Any]:
    import torch
    from torch.profiler import ProfilerActivity

    gpu = torch.cuda.is_available()
    for name, tokens, parameters in asked:
        llm.llm_engine.add_request(name, tokens, parameters)
    seen = 0
    running = engine.stepped(llm)
    for outputs in running:
        seen += len(outputs) == batch
        if seen == dropped:
            break
    if gpu:
        torch.cuda.synchronize()
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as seen_by:
        for _ in range(steps):
            next(running)
        if gpu:
            torch.cuda.synchronize()
    for _ in running:
        pass
    return gpu_time.summed(gpu_time.events(seen_by), steps)


def say(text: str) -> None:
    print(text, flush=True)


def summary(run: dict[str, Any]) -> None:
    memory = run["memory"]
    say(
        f"{run['arm']} on {run['about']['model']}: {memory['blocks']} blocks, "
        f"{memory['requests']:.1f} requests of {memory['tokens']} tokens"
    )
    for row in run["rows"]:
        middle = sorted(row["rounds"], key=lambda each: each["median_ms"])[len(row["rounds"]) // 2]
        line = "  batch {:<4} {:9.1f} tokens/s  median {:7.3f} ms  p99 {:7.3f} ms".format(
            row["batch"], middle["tokens_s"], middle["median_ms"], middle["p99_ms"]
        )
        if gpu := row.get("gpu"):
            parts = gpu["parts_us"]
            line += f"  linear {gpu['linear_us']:7.1f} us ({parts['recurrence']:.1f} recurrence)"
            line += f" of {gpu['total_us']:.1f}"
        say(line)


if __name__ == "__main__":
    main()
