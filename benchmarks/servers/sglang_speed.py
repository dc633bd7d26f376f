"""Tokens per second in SGLang, time between tokens, and what linear attention takes of a step.

    python benchmarks/servers/sglang_speed.py stock-float32 replay-float32 kvgen-float32 --json FILE
    python benchmarks/servers/sglang_speed.py --from OLD.json NEW.json --json FILE    one of several

An arm is a process with one scheduler. All start side by side, with as many states; then they take
turns, a round of all batches at a time. Requests of a batch are admitted together, with prompts of
one length (--staggered: of many); the first steps are dropped. Time between tokens is the wall
clock between two steps' results in SGLang's own loop, scheduling included; a server's front end is
another process. Time on the GPU is the sum over its kernels, by torch's profiler, in steps of their
own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import gpu_time, models, sglang_engine, vllm_speed
from benchmarks.servers.engine import yielded
from benchmarks.servers.processes import all_ready, patient, turn
from benchmarks.servers.vllm_speed import timed


def main() -> None:
    parser = vllm_speed.options(sglang_engine.ARMS, sglang_engine.BUFFER, 300.0, __doc__)
    parser.add_argument("--overlap", action="store_true", help="SGLang's overlap schedule")
    args = parser.parse_args()
    if args.one:
        measured(args, args.one)
    else:
        vllm_speed.conclude(args)


# in an arm's own process -------------------------------------------------------------------------


def measured(args: argparse.Namespace, folder: Path) -> None:
    """Everything of one arm; FOLDER/ARM.json has what there is after each batch."""
    sglang_engine.prepare(args.tiny)
    stuck = 0.0 if args.tiny else vllm_speed.STUCK
    patient(0.0 if args.tiny else args.patience)
    arm = sglang_engine.ARMS[args.arms[0]]
    batches = [int(batch) for batch in args.batches.split(",")]
    prompt, tokens, dropped, profiled = (
        vllm_speed.PROMPT,
        args.tokens,
        vllm_speed.DROPPED,
        vllm_speed.PROFILED,
    )
    if args.tiny:
        batches, prompt, tokens, dropped, profiled = vllm_speed.TINY
    largest, length = max(batches), prompt + prompt // 2 + tokens + 1
    started = time.time()
    server = sglang_engine.start(
        arm, models.write(folder / arm.name, args.model, args.tiny), batches=batches,
        tiny=args.tiny, buffer=args.buffer, max_running_requests=largest, context_length=length + 8,
        max_mamba_cache_size=largest + 8, max_total_tokens=largest * length + 4096,
        # all prompts of a batch in one step
        max_prefill_tokens=max(16384, 2 * largest * prompt), mem_fraction_static=0.5,
        disable_overlap_schedule=not args.overlap,
    )  # fmt: skip
    sglang_engine.settle()
    sglang_engine.say(f"started in {time.time() - started:.0f} s")
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]

    def requests(batch: int, count: int, lap: str) -> list[sglang_engine.Request]:
        return [
            sglang_engine.asked(
                f"{lap}-{row}", row, prompt // 2 + row * 37 % prompt if args.staggered else prompt,
                count, vocabulary,
            )
            for row in range(batch)
        ]  # fmt: skip

    rows: dict[int, dict[str, Any]] = {batch: {"rounds": []} for batch in batches}

    def keep() -> None:
        told = {
            "arm": arm.name,
            "about": {
                **sglang_engine.versions(), "model": args.model, "prompt": prompt,
                "tokens": tokens, "dropped": dropped, "staggered": args.staggered,
                "buffer": args.buffer, "overlap": args.overlap, "timed_at": "the scheduler",
            },
            "memory": sglang_engine.memory(server),
            "peak_bytes": sglang_engine.peak_bytes(),
            "rows": [{"batch": batch, **row} for batch, row in rows.items() if row["rounds"]],
        }  # fmt: skip
        (folder / f"{arm.name}.json").write_text(json.dumps(told), encoding="utf-8")

    patient(0)
    all_ready(folder, arm.name, args.arms)
    for lap in range(args.rounds):
        with turn(folder):
            for batch in batches:
                patient(stuck)
                found = server.run(requests(batch, tokens, f"{lap}-{batch}"))
                rows[batch]["rounds"].append(timed(found, batch, dropped))
                sglang_engine.say(f"batch {batch}: {rows[batch]['rounds'][-1]}")
                keep()
            patient(0)
            yielded()
    if args.no_profile:
        return
    for batch in batches:
        with turn(folder):
            patient(stuck)
            asked = requests(batch, 2 * profiled + 8, f"profile-{batch}")
            rows[batch]["gpu"] = profile(server, asked, profiled // 2, profiled)
            sglang_engine.say(f"batch {batch}: {rows[batch]['gpu']['parts_us']}")
            keep()
            patient(0)
            yielded()


def profile(
    server: sglang_engine.Server, asked: list[sglang_engine.Request], dropped: int, steps: int
) -> dict[str, Any]:
    """Sums over the kernels of so many steps in which all requests decode."""
    import torch
    from torch.profiler import ProfilerActivity

    gpu = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    seen_by = torch.profiler.profile(activities=[activity])
    seen = 0

    def after(batch: Any, result: Any) -> None:
        nonlocal seen
        if len(batch.reqs) != len(asked) or not batch.forward_mode.is_decode():
            return
        seen += 1
        if seen in (dropped, dropped + steps):
            torch.cuda.synchronize()
        if seen == dropped:
            seen_by.__enter__()
        elif seen == dropped + steps:
            seen_by.__exit__(None, None, None)

    server.after = after
    try:
        server.run(asked)
    finally:
        server.after = None
    return gpu_time.summed(gpu_time.events(seen_by), steps)


if __name__ == "__main__":
    main()
