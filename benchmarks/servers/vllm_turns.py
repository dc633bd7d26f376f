"""Tokens a second in vLLM with kvgen over vLLM's own, both in one process, by turns of few steps.

    python benchmarks/servers/vllm_turns.py stock-float32 kvgen-float32 kvgen-split --json FILE
    python benchmarks/servers/vllm_turns.py stock-float32 kvgen-split kvgen-split stock-float32
    python benchmarks/servers/vllm_turns.py stock-float32 kvgen-float32 --drafts 3 --batches 1,8,32

What a step waits for of the host differs by more, from process to process and from second to
second, than arms do. So the engines share a process and a thread here and decode the same batch
by turns: what else the host does meets all of them. A turn is as many steps as a buffer has
places, so that rows which fold together fold once in each, after a few that do not count. The first
arm is what the others are compared with, turn by turn. Time is the wall clock between steps' tokens
at the engine's core, scheduling included. Beside it, of steps of their own: what kernels take, and
how many functions Python calls, which no other load of the host changes. An arm that is named
twice has two engines: so nobody is always the first that was started, and the second shows what
two of a kind differ by. With drafts, looked up in the text itself, the text repeats so that all of
them are kept, in every step and arm.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import engine, models
from benchmarks.servers.processes import patient
from benchmarks.servers.vllm_speed import profile

BATCHES = (1, 8, 32, 64, 128, 256, 512)
PROMPT, ROUNDS, TURNS = 128, 3, 12
# steps after a prompt, and of a turn, that do not count: another engine's were before
SETTLING, SKIPPED = 8, 2
# what a layer's pages take of a request, the largest of an arm's, more where decays go by channel;
# blocks beside those of requests
PAGE, PAGES, SPARE = 11 << 18, {"kimi": 13 << 18}, 4
# seconds after which a turn, or a start, does not end any more
STUCK, STARTING = 60.0, 240.0
# batches, prompt, rounds and turns on a machine without a GPU
TINY = ([1, 3], 9, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("arms", nargs="+", metavar="ARM", choices=engine.ARMS)
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="batches anew, of each size")
    parser.add_argument("--turns", type=int, default=TURNS, help="in a round, of each arm")
    parser.add_argument("--buffer", type=int, default=engine.BUFFER)
    parser.add_argument("--drafts", type=int, default=0, help="tokens a step beside the first")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    engine.prepare(args.tiny)
    batches, prompt = [int(batch) for batch in args.batches.split(",")], PROMPT
    if args.tiny:
        batches, prompt, args.rounds, args.turns = TINY
    # behind the turns that are compared one in which calls are counted
    if args.drafts:
        # once round the cycle: there is something to look up from the first step on
        prompt += models.CYCLE
    width = 1 + args.drafts
    tokens = width * (SETTLING + (args.turns + 2) * (SKIPPED + args.buffer) + 2)
    args.arms = numbered(args.arms)
    arms = started(args, batches, prompt, tokens)
    found: dict[str, Any] = {
        "about": {
            **engine.versions(), "model": args.model, "prompt": prompt, "tokens": tokens,
            "buffer": args.buffer, "drafts": args.drafts, "skipped": SKIPPED, "stock": args.arms[0],
        },
        "runs": [{"arm": arm, "batch": batch, "steps_ms": []} for batch in batches for arm in arms],
    }  # fmt: skip
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]
    text = engine.repeating if args.drafts else engine.prompt

    def requests(turn: str, batch: int, count: int) -> list[tuple[str, Any, Any]]:
        return [
            (f"{turn}-{batch}-{row}", text(row, prompt, vocabulary), engine.greedy(count))
            for row in range(batch)
        ]

    def keep() -> None:
        if args.json:
            args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    for lap in range(args.rounds):
        for batch in batches:
            patient(0.0 if args.tiny else STUCK)
            rows = {run["arm"]: run for run in found["runs"] if run["batch"] == batch}
            asked = requests(str(lap), batch, tokens)
            last = lap == args.rounds - 1
            together(arms, asked, args.turns, args.buffer, rows, last, batch * width)
            engine.say(said(rows, args.arms[0]))
            keep()
    for run in [] if args.tiny else found["runs"]:
        if run["arm"] != kind(run["arm"]):
            continue
        patient(STUCK)
        asked = requests("profile", run["batch"], width * (2 * args.buffer + 8))
        run["gpu"] = profile(arms[run["arm"]], asked, run["batch"], SETTLING, args.buffer)
        engine.say(f"{run['arm']}, {run['batch']}: {run['gpu']['total_us']:.0f} us of kernels")
        keep()
    patient(0)


def started(
    args: argparse.Namespace, batches: Sequence[int], prompt: int, tokens: int
) -> dict[str, Any]:
    """An engine for each arm, one after the other."""
    largest, folder, arms = max(batches), Path(tempfile.mkdtemp()), {}
    # a step takes so many tokens a request, for each of which vLLM keeps a state
    width = 1 + args.drafts
    peak = engine.PEAK if args.drafts else 0.0
    layers = models.config(args.model)["num_hidden_layers"]
    page = PAGES.get(args.model, PAGE)
    memory = {
        "kv_cache_memory_bytes": (largest + SPARE) * width * layers * page,
        "gpu_memory_utilization": 0.05,
    }
    for arm in args.arms:
        patient(0.0 if args.tiny else STARTING)
        begun = time.time()
        arms[arm] = engine.start(
            engine.ARMS[kind(arm)], models.write(folder, args.model, args.tiny),
            batches=sorted({batch * each for batch in batches for each in {1, width}}),
            tiny=args.tiny, buffer=args.buffer, peak=peak, max_num_seqs=largest,
            max_model_len=prompt + tokens + 1,
            # all prompts of a batch in one step
            max_num_batched_tokens=max(2048, largest * prompt),
            **({} if args.tiny else memory), **engine.looked_up(args.drafts),
        )  # fmt: skip
        # goes when the engine goes
        arms[arm].scratch = scratch()
        engine.settle()
        engine.yielded()
        engine.say(f"{arm} started in {time.time() - begun:.0f} s")
    return arms


def scratch() -> Any:
    """The memory that an engine's graphs work in, which the next engine in this process lets go."""
    from vllm.v1.worker import workspace

    known = workspace.is_workspace_manager_initialized()
    return workspace.current_workspace_manager() if known else None


def together(
    arms: Mapping[str, Any],
    asked: Sequence[tuple[str, Any, Any]],
    turns: int,
    counted: int,
    rows: Mapping[str, dict[str, Any]],
    last: bool,
    given: int,
) -> None:
    """One batch in every arm, by turns. rows: what each arm's turns took is added to; last: and how
    many functions Python called in a step; given: tokens that each step gives, in every arm."""
    running = {}
    for arm, llm in arms.items():
        running[arm] = decoding(llm, asked)
        for _ in range(SETTLING):
            next(running[arm])
    order = list(arms)
    for _ in range(turns):
        for arm in order:
            rows[arm]["steps_ms"].append(round(turn(running[arm], counted, given), 5))
        # whoever was last is first: none is always behind the same one
        order.reverse()
    for arm, steps in running.items():
        if last:
            rows[arm]["calls"] = calls(steps, counted)
        for _ in steps:
            pass
        engine.yielded()


def decoding(llm: Any, asked: Sequence[tuple[str, Any, Any]]) -> Iterator[int]:
    """The tokens of a batch's steps, from the first in which all of its requests have got one."""
    full = False
    for outputs in engine.steps(llm, len(engine.admit(llm, asked))):
        full = full or len(outputs) == len(asked)
        if full:
            yield sum(len(output.new_token_ids) for output in outputs)


def turn(steps: Iterator[int], counted: int, given: int) -> float:
    """Milliseconds a step, each of which gives so many tokens. Nothing is on the way to the GPU
    after it."""
    import torch

    for _ in range(SKIPPED):
        next(steps)
    begun, tokens = time.perf_counter(), 0
    for _ in range(counted):
        tokens += next(steps)
    taken = (time.perf_counter() - begun) / counted * 1e3
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    if tokens != counted * given:
        raise RuntimeError(
            f"{counted} steps gave {tokens} tokens, expected {counted * given}: "
            "steps of arms that keep other drafts are not to be compared"
        )
    return taken


def calls(steps: Iterator[int], counted: int) -> float:
    """Functions that Python calls in a step, built-in ones included."""
    seen = cProfile.Profile()
    for _ in range(SKIPPED):
        next(steps)
    seen.enable()
    for _ in range(counted):
        next(steps)
    seen.disable()
    return sum(entry.callcount for entry in seen.getstats()) / counted


def numbered(arms: Sequence[str]) -> list[str]:
    """A name for each engine: its arm's, and ARM#2 for the second of an arm."""
    named: list[str] = []
    for at, arm in enumerate(arms):
        before = arms[:at].count(arm)
        named.append(f"{arm}#{before + 1}" if before else arm)
    return named


def kind(name: str) -> str:
    """An engine's arm."""
    return name.partition("#")[0]


Times = Mapping[str, Sequence[float]]


def of_arm(times: Times, arm: str) -> list[Sequence[float]]:
    return [each for name, each in times.items() if kind(name) == arm]


def over(stock: Sequence[Sequence[float]], own: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Tokens a second over stock's: the geometric mean of turns side by side, and its standard
    error. stock, own: what each engine of an arm took, turn by turn."""
    means = [
        [statistics.mean(map(math.log, turn)) for turn in zip(*arm, strict=True)]
        for arm in (stock, own)
    ]
    logs = [theirs - ours for theirs, ours in zip(*means, strict=True)]
    ratio = math.exp(statistics.mean(logs))
    return ratio, ratio * statistics.stdev(logs) / math.sqrt(len(logs))


def ratio(times: Times, name: str, stock: str) -> tuple[float, float] | None:
    """What `over` says of an engine's arm, or of a second engine of stock's over its first; None
    for what nothing is over. name: an engine's, of which there may be none."""
    if name == stock or name not in times or len(times[stock]) < 2:
        return None
    if kind(name) == stock:
        return over([times[stock]], [times[name]])
    return over(of_arm(times, stock), of_arm(times, kind(name)))


def said(rows: Mapping[str, dict[str, Any]], stock: str) -> str:
    told = []
    times = {name: run["steps_ms"] for name, run in rows.items()}
    for name, run in rows.items():
        text = f"{name} {statistics.median(run['steps_ms']):.3f} ms"
        if found := ratio(times, name, stock):
            text += f" ({found[0]:.3f} ± {found[1]:.3f})"
        told.append(text)
    return f"batch {rows[stock]['batch']}: {', '.join(told)}"


if __name__ == "__main__":
    main()
