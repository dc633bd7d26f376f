"""Tokens per second in vLLM, time between tokens, and what linear attention takes of a step.

    python benchmarks/servers/vllm_speed.py stock-float32 kvgen-split --json FILE
    python benchmarks/servers/vllm_speed.py --from OLD.json NEW.json --json FILE    one of several

An arm is a process with one engine. All start side by side, with the same memory for states and
keys; then they take turns, a round of one batch at a time. Requests of a batch are admitted
together, with prompts of one length (--staggered: of many); the first steps are dropped.
Time between tokens is the wall clock between two steps' tokens at the engine's core, scheduling
included; a server's front end is another process. Time on the GPU is the sum over its kernels, by
torch's profiler, in steps of their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import engine, gpu_time, models
from benchmarks.servers.processes import all_ready, patient, side_by_side, turn

BATCHES = (1, 8, 32, 64, 128, 256, 512)
PROMPT, TOKENS, DROPPED, ROUNDS, PROFILED = 128, 256, 32, 3, 20
# for states and keys, in every arm: what a layer takes of a request, and what there is for few
PAGE, FEW = 3 << 20, 2 << 30
# seconds after which a batch does not end any more
STUCK = 90.0
# batches, prompt, tokens, dropped and profiled on a machine without a GPU
TINY = ([1, 3], 9, 24, 4, 4)


def main() -> None:
    args = options(engine.ARMS, engine.BUFFER, 540.0, __doc__).parse_args()
    if args.one:
        measured(args, args.one)
    else:
        conclude(args)


def options(
    arms: Iterable[str], buffer: int, patience: float, about: str | None
) -> argparse.ArgumentParser:
    """What a measurement of a server's arms is asked for. about: the program's own docstring."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help=", ".join(arms))
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--buffer", type=int, default=buffer)
    parser.add_argument("--staggered", action="store_true", help="prompts of 64 to 192 tokens")
    parser.add_argument("--no-profile", action="store_true", help="no sums over kernels")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="kept", nargs="+", type=Path, help="figures to join")
    parser.add_argument("--logs", type=Path, help="where logs go; else beside --json")
    parser.add_argument("--patience", type=float, default=patience, help="seconds for a start")
    parser.add_argument("--one", type=Path, help="measure the first arm here, into this folder")
    return parser


def conclude(args: argparse.Namespace) -> None:
    """Measure every arm, or join what was measured; say it and keep it."""
    if args.kept:
        found = joined([json.loads(path.read_text(encoding="utf-8")) for path in args.kept])
    else:
        found = run_all(args)
    for run in found["runs"]:
        summary(run)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run_all(args: argparse.Namespace) -> dict[str, Any]:
    """What every arm has measured, written anew as each ends."""
    folder = args.logs or (args.json.parent if args.json else Path(tempfile.mkdtemp())) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("ready-*"), *(folder / f"{arm}.json" for arm in args.arms)):
        old.unlink(missing_ok=True)
    script, *words = (word for word in sys.argv if word not in args.arms)

    def command(arm: str) -> list[str]:
        # its own arm first, then those it takes turns with
        others = [each for each in args.arms if each != arm]
        return [script, arm, *others, *words, "--one", str(folder)]

    commands = {arm: command(arm) for arm in args.arms}
    found: dict[str, Any] = {"runs": []}

    def ended(arm: str) -> None:
        file = folder / f"{arm}.json"
        if not file.is_file():
            return
        found["runs"].append(json.loads(file.read_text(encoding="utf-8")))
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    side_by_side(commands, folder, len(commands), ended=ended)
    return found


def joined(files: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of several files; of the same arm, model, prompts and batch the later one."""
    runs: dict[tuple[str, ...], Any] = {}
    for file in files:
        for run in file["runs"]:
            about = run["about"]
            kind = about["model"], about["staggered"], about["buffer"], about.get("overlap", False)
            key = run["arm"], *map(str, kind)
            rows = {row["batch"]: row for row in [*runs.get(key, run)["rows"], *run["rows"]]}
            runs[key] = {**run, "rows": [rows[batch] for batch in sorted(rows)]}
    return {"runs": list(runs.values())}


# in an arm's own process -------------------------------------------------------------------------


def measured(args: argparse.Namespace, folder: Path) -> None:
    """Everything of one arm; FOLDER/ARM.json has what there is after each round."""
    engine.prepare(args.tiny)
    stuck = 0.0 if args.tiny else STUCK
    patient(0.0 if args.tiny else args.patience)
    arm = engine.ARMS[args.arms[0]]
    batches = [int(batch) for batch in args.batches.split(",")]
    prompt, tokens, dropped, profiled = PROMPT, args.tokens, DROPPED, PROFILED
    if args.tiny:
        batches, prompt, tokens, dropped, profiled = TINY
    largest = max(batches)
    layers = models.config(args.model)["num_hidden_layers"]
    memory = {
        "kv_cache_memory_bytes": max(FEW, largest * layers * PAGE),
        "gpu_memory_utilization": 0.05,
    }
    started = time.time()
    llm = engine.start(
        arm, models.write(folder, args.model, args.tiny), batches=batches, tiny=args.tiny,
        buffer=args.buffer, max_num_seqs=largest, max_model_len=prompt + prompt // 2 + tokens + 1,
        # all prompts of a batch in one step
        max_num_batched_tokens=max(2048, largest * prompt),
        **({} if args.tiny else memory),
    )  # fmt: skip
    engine.settle()
    engine.say(f"started in {time.time() - started:.0f} s")
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

    def keep() -> None:
        told = {
            "arm": arm.name,
            "about": {
                **engine.versions(), "model": args.model, "prompt": prompt, "tokens": tokens,
                "dropped": dropped, "staggered": args.staggered, "buffer": args.buffer,
                "timed_at": "the engine's core",
            },
            "memory": engine.memory(llm),
            "peak_bytes": engine.peak_bytes(),
            "rows": [{"batch": batch, **row} for batch, row in rows.items() if row["rounds"]],
        }  # fmt: skip
        (folder / f"{arm.name}.json").write_text(json.dumps(told), encoding="utf-8")

    patient(0)
    all_ready(folder, arm.name, args.arms)
    for lap in range(args.rounds):
        for batch in batches:
            with turn(folder):
                patient(stuck)
                found = engine.run(llm, requests(batch, tokens, f"{lap}-{batch}"))
                rows[batch]["rounds"].append(timed(found, batch, dropped))
                engine.say(f"batch {batch}: {rows[batch]['rounds'][-1]}")
                keep()
                patient(0)
                engine.yielded()
    if args.no_profile:
        return
    for batch in batches:
        with turn(folder):
            patient(stuck)
            asked = requests(batch, 2 * profiled, f"profile-{batch}")
            rows[batch]["gpu"] = profile(llm, asked, batch, profiled // 2, profiled)
            engine.say(f"batch {batch}: {rows[batch]['gpu']['parts_us']}")
            keep()
            patient(0)
            engine.yielded()


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
    running = engine.steps(llm, len(engine.admit(llm, asked)))
    seen = 0
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
    blocks = f"{memory['blocks']} blocks, " if "blocks" in memory else ""
    say(
        f"{run['arm']} on {run['about']['model']}: {blocks}"
        f"{memory['requests']:.1f} requests, {memory['tokens']} tokens"
    )
    for row in run["rows"]:
        fastest = min(row["rounds"], key=lambda each: each["median_ms"])
        line = "  batch {:<4} {:9.1f} tokens/s  median {:7.3f} ms  p99 {:7.3f} ms".format(
            row["batch"], fastest["tokens_s"], fastest["median_ms"], fastest["p99_ms"]
        )
        if gpu := row.get("gpu"):
            parts = gpu["parts_us"]
            line += f"  linear {gpu['linear_us']:7.1f} us ({parts['recurrence']:.1f} recurrence)"
            line += f" of {gpu['total_us']:.1f}"
        say(line)


if __name__ == "__main__":
    main()
