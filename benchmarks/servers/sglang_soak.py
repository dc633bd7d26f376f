"""Requests of random lengths through SGLang with kvgen, some of them aborted, put back, or with a
prefix that is known: is any output another than stock's?

    python benchmarks/servers/sglang_soak.py FOLDER --json docs/data/h200-sglang-soak.json

Stock runs every request alone, with nothing known before it. Then stock and kvgen each run all of
them together, with the prefix cache: they come in bursts, some are aborted, and memory is too
little for those that run, so that some are put back and begin again. What a request says is
compared with what it said alone, up to the first difference; the figures say how far apart the two
best tokens are there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import models, sglang_engine
from benchmarks.servers.engine import prompt
from benchmarks.servers.processes import patient, side_by_side
from benchmarks.servers.vllm_soak import Asked, different, held

STOCK = "stock-float32"
ROWS = 64
# the longest prompt and the most new tokens
LONGEST, NEW = 320, 64
# of keys and values: too few for what all that run grow to
TOKENS = 9000
# seconds after which a request does not end any more
STUCK = 90.0
# how often memory is looked at
LOOKS = 5
STEMS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arm", default="kvgen-float32", choices=sglang_engine.ARMS)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="places for keys and values")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", help="run this arm in this process")
    args = parser.parse_args()
    if args.one:
        soaked(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    commands = {arm: [*sys.argv, "--one", arm] for arm in (STOCK, args.arm)}
    side_by_side(commands, args.folder, len(commands), STOCK)
    found = told(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found | {"places": found["places"][:20]}, indent=1))


def requests(count: int, seed: int, vocabulary: int, tiny: bool) -> list[Asked]:
    """Up to 64 new tokens after prompts of which half begin as others do; one in twelve is
    aborted."""
    chosen = random.Random(seed)
    longest, most, stems = (LONGEST, NEW, STEMS) if not tiny else (20, 5, 1)
    found = []
    for row in range(count):
        length, new = chosen.randint(longest // 20, longest), chosen.randint(1, most)
        own = prompt(row, length, vocabulary)["prompt_token_ids"]
        if chosen.random() < 0.5:
            # one in three such is what the others go on from
            stem = chosen.randrange(stems)
            known = prompt(10_000 + stem, longest // 2 + 3 * stem % 40, vocabulary)
            rest = own[: length // 2] if chosen.random() < 2 / 3 else []
            own = known["prompt_token_ids"] + rest
        leaves = chosen.randint(1, new) if chosen.random() < 1 / 12 else 0
        # no name begins with another
        found.append(Asked(f"{row:05}", {"prompt_token_ids": own}, new, leaves))
    return found


def soaked(args: argparse.Namespace) -> None:
    """One arm; FOLDER/ARM.json is what it said."""
    patient(0.0 if args.tiny else 4 * STUCK)
    started = time.time()
    rows = ROWS if not args.tiny else 3
    room = args.tokens if not args.tiny else 110
    server = sglang_engine.start(
        sglang_engine.ARMS[args.one],
        models.write(args.folder / args.one, "soak", args.tiny),
        batches=(1, 2, 4, 8, 16, 32, 48, ROWS), tiny=args.tiny, max_running_requests=rows,
        context_length=2 * LONGEST + NEW if not args.tiny else 128, max_total_tokens=room,
        max_mamba_cache_size=4 * rows, max_prefill_tokens=2048, mem_fraction_static=0.4,
        disable_radix_cache=False, mamba_radix_cache_strategy="no_buffer",
        # as if requests would say little, so that more are let in than there is room for
        schedule_conservativeness=0.05,
    )  # fmt: skip
    sglang_engine.say(f"started in {time.time() - started:.0f} s")
    vocabulary = models.config("soak", args.tiny)["vocab_size"]
    asked = requests(args.requests, args.seed, vocabulary, args.tiny)
    result: dict[str, Any] = {"arm": args.one, "versions": sglang_engine.versions()}
    if args.one == STOCK:
        patient(0.0 if args.tiny else 3 * STUCK)
        result["alone"] = alone(server, asked, vocabulary)
        sglang_engine.say(f"alone: {time.time() - started:.0f} s")
        server.scheduler.flush_cache(empty_cache=False)
    soak = Soak(server, asked, random.Random(args.seed + 1))
    patient(0.0 if args.tiny else 3 * STUCK)
    soak.run(rows)
    patient(0)
    result |= {"said": soak.said(), **soak.told(), "seconds": round(time.time() - started)}
    sglang_engine.say(f"together: {json.dumps(soak.told() | {'memory': None})}")
    (args.folder / f"{args.one}.json").write_text(json.dumps(result), encoding="utf-8")


def alone(
    server: sglang_engine.Server, asked: Sequence[Asked], vocabulary: int
) -> dict[str, tuple[list[int], list[float]]]:
    """Each request's tokens, and at each how far the two best are apart."""
    from benchmarks.servers.sglang_forced import Listener

    listener, found = Listener(server), {}
    for each in asked:
        server.scheduler.flush_cache(empty_cache=False)
        tokens = each.prompt["prompt_token_ids"]
        book = listener.open([len(tokens)], each.tokens, vocabulary, None, first=int(each.name))
        said = server.run([sglang_engine.Request(each.name, tokens, each.tokens)])
        best = book.logs[0].topk(2, dim=-1).values
        found[each.name] = said.outputs[each.name], (best[:, 0] - best[:, 1]).tolist()
    listener.book = None
    return found


@dataclass
class Soak:
    """Requests in bursts through one server."""

    server: sglang_engine.Server
    asked: Sequence[Asked]
    chosen: random.Random
    aborted: set[str] = field(default_factory=set)
    leaving: list[str] = field(default_factory=list)
    looks: list[dict[str, int]] = field(default_factory=list)
    most: int = 0
    steps: int = 0

    def run(self, rows: int) -> None:
        server, waiting = self.server, list(self.asked)
        leaves = {each.name: each.leaves for each in self.asked}
        server.held, server.gone = {}, set()

        def feed() -> list[Any]:
            given = [server.abort(name) for name in self.leaving]
            self.leaving.clear()
            scheduler = server.scheduler
            there = len(scheduler.waiting_queue) + len(scheduler.running_batch.reqs)
            if there < 2 * rows:
                for _ in range(min(len(waiting), self.chosen.randint(1, 12))):
                    each = waiting.pop(0)
                    given.append(
                        sglang_engine.tokenized(
                            sglang_engine.Request(
                                each.name, each.prompt["prompt_token_ids"], each.tokens
                            )
                        )
                    )
            if not waiting and not given and server.idle():
                server.feed = None
            return given

        def after(batch: Any, result: Any) -> None:
            self.steps += 1
            self.most = max(self.most, len(batch.reqs))
            for request in batch.reqs:
                name, limit = request.rid, leaves[request.rid]
                enough = limit and len(request.output_ids) >= limit
                # once more where it was put back meanwhile
                if enough and not request.finished():
                    self.aborted.add(name)
                    self.leaving.append(name)
            finished = sum(map(server.done, server.held.values()))
            if finished * LOOKS >= len(self.asked) * (len(self.looks) + 1):
                self.looks.append({"requests": finished, **held()})

        server.feed, server.after = feed, after
        try:
            server.loop()
        finally:
            server.feed = server.after = None

    def said(self) -> dict[str, list[int]]:
        return {name: list(each.output_ids) for name, each in self.server.held.items()}

    def told(self) -> dict[str, Any]:
        requests = self.server.held.values()
        known = [each.cached_tokens for each in requests if each.cached_tokens]
        back = [each.retraction_count for each in requests if each.retraction_count]
        return {
            "finished": len(requests) - len(self.aborted),
            "aborted": len(self.aborted),
            "preempted": len(back),
            "preemptions": sum(back),
            "known": len(known),
            "known_tokens": sum(known),
            "most_running": self.most,
            "steps": self.steps,
            "left": sum(not self.server.done(each) for each in requests),
            "memory": self.looks,
        }


def told(args: argparse.Namespace) -> dict[str, Any]:
    """What both said, beside what stock said of each request alone."""
    stock, ours = (
        json.loads((args.folder / f"{arm}.json").read_text(encoding="utf-8"))
        for arm in (STOCK, args.arm)
    )
    vocabulary = models.config("soak", args.tiny)["vocab_size"]
    asked = requests(args.requests, args.seed, vocabulary, args.tiny)
    kept = ("said", "alone", "versions", "arm", "seconds")
    plain = {name: value for name, value in ours.items() if name not in kept}
    return {
        "about": {
            **ours["versions"], "arm": args.arm, "dtype": "bfloat16", "model": "soak",
            "requests": args.requests, "tokens": args.tokens, "seconds": ours["seconds"],
            "command": " ".join(["python", *sys.argv]),
        },
        **plain,
        **different(asked, stock["alone"], ours["said"]),
        "stock": {
            **{name: stock[name] for name in ("aborted", "preempted", "preemptions", "known")},
            **different(asked, stock["alone"], stock["said"]),
        },
    }  # fmt: skip


if __name__ == "__main__":
    main()
