"""Thousands of requests of random lengths through vLLM with kvgen: is any output another one's?

    python benchmarks/servers/vllm_soak.py --json FILE                    bfloat16
    python benchmarks/servers/vllm_soak.py --dtype float32 --json FILE    token for token

Every request is run alone, and all are run together: they come in bursts, some are aborted, memory
is too little for those that run, so that some are put back and begin again, and blocks are
recycled. What a request says is compared with what it said alone, up to the first difference; the
page says how far apart the two best tokens are there. In float32 vLLM and kvgen compute so that a
row's bits do not depend on the rows beside it: there is little left to differ but another row's
numbers. Engines of their own beside the one with all of them say the requests alone, a share each,
as one at a time leaves a GPU idle.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import engine, models
from benchmarks.servers.processes import patient, side_by_side

ROWS = 64
# requests of those that run whose blocks there are: too few for what all of them grow to
BLOCKS = 200
# seconds after which a request does not end any more
STUCK = 90.0
# how often memory is looked at
LOOKS = 5


@dataclass(frozen=True)
class Asked:
    """A request; leaves: tokens after which it is aborted, 0: it is not."""

    name: str
    prompt: dict[str, list[int]]
    tokens: int
    leaves: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arm", default="kvgen-float32", choices=engine.ARMS)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--beside", type=int, default=3, help="engines that say requests alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=Path, help="run one part here, and write to this file")
    args = parser.parse_args()
    if args.one:
        part(args, args.one)
        return
    found = soaked(args)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found | {"places": found["places"][:20]}, indent=1))


def requests(args: argparse.Namespace) -> list[Asked]:
    """Prompts of 16 to 320 tokens and up to 64 new ones; one in twelve is aborted."""
    vocabulary, tiny = models.config("soak", args.tiny)["vocab_size"], args.tiny
    chosen = random.Random(args.seed)
    found = []
    for row in range(args.requests):
        length = chosen.randint(16, 320) if not tiny else chosen.randint(3, 90)
        tokens = chosen.randint(1, 64) if not tiny else chosen.randint(1, 60)
        leaves = chosen.randint(1, tokens) if chosen.random() < 1 / 12 else 0
        found.append(Asked(f"r{row}", engine.prompt(row, length, vocabulary), tokens, leaves))
    return found


def soaked(args: argparse.Namespace) -> dict[str, Any]:
    started = time.time()
    parts = ["together", *(f"alone-{share}" for share in range(args.beside))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {each: folder / f"{each}.json" for each in parts}
        commands = {each: [*sys.argv, "--one", str(file)] for each, file in files.items()}
        if any(side_by_side(commands, folder, len(parts)).values()):
            raise SystemExit("a part has failed")
        told, *shares = (json.loads(file.read_text(encoding="utf-8")) for file in files.values())
    alone = {name: said for share in shares for name, said in share.items()}
    return {
        "about": {
            **told["versions"], "arm": args.arm, "dtype": args.dtype, "model": "soak",
            "requests": args.requests, "blocks": args.blocks,
            "command": " ".join(["python", *sys.argv]), "seconds": round(time.time() - started),
        },
        **told["soak"],
        **different(requests(args), alone, told["said"]),
    }  # fmt: skip


# in a part's own process -------------------------------------------------------------------------


def part(args: argparse.Namespace, file: Path) -> None:
    """All requests together, or a share of them alone, as the file's name says."""
    engine.prepare(args.tiny)
    patient(0.0 if args.tiny else 4 * STUCK)
    llm = started(args, file.parent)
    engine.say(f"started: {engine.memory(llm)}")
    asked = requests(args)
    kind, _, share = file.stem.partition("-")
    if kind == "alone":
        found: dict[str, Any] = {}
        for each in asked[int(share) :: args.beside]:
            patient(0.0 if args.tiny else STUCK)
            found[each.name] = said_alone(llm, each)
        engine.say(f"{sum(len(tokens) for tokens, _ in found.values())} tokens")
    else:
        soak = Soak(llm, args.seed)
        patient(0.0 if args.tiny else 4 * STUCK)
        soak.run(asked)
        engine.say(f"{soak.steps} steps")
        found = {"versions": engine.versions(), "soak": soak.told(), "said": soak.said}
    patient(0)
    file.write_text(json.dumps(found), encoding="utf-8")


def started(args: argparse.Namespace, folder: Path) -> Any:
    options: dict[str, Any] = {}
    if args.dtype == "float32":
        from benchmarks.servers import float32

        options |= float32.prepare(invariant=True)
    if not args.tiny:
        # beside others there is no telling what is free
        options |= {"kv_cache_memory_bytes": 8 << 30, "gpu_memory_utilization": 0.05}
    return engine.start(
        engine.ARMS[args.arm], models.write(folder, "soak", args.tiny),
        batches=(1, 2, 4, 8, 16, 32, 48, ROWS), tiny=args.tiny, max_num_seqs=ROWS,
        max_model_len=512 if not args.tiny else 160, max_num_batched_tokens=1024,
        num_gpu_blocks_override=args.blocks, **options,
    )  # fmt: skip


def said_alone(llm: Any, each: Asked) -> tuple[list[int], list[float]]:
    """A request's tokens, and at each how far the two best are apart."""
    llm.llm_engine.add_request(each.name, each.prompt, engine.greedy(each.tokens, logprobs=2))
    last: Any = None
    while llm.llm_engine.has_unfinished_requests():
        last = (llm.llm_engine.step() or [last])[-1]
    gaps = []
    for best in last.outputs[0].logprobs:
        values = sorted((x.logprob for x in best.values()), reverse=True)
        gaps.append(values[0] - values[1])
    return list(last.outputs[0].token_ids), gaps


class Soak:
    """Requests in bursts through one engine."""

    def __init__(self, llm: Any, seed: int):
        self.llm, self.chosen = llm, random.Random(seed + 1)
        self.said: dict[str, list[int]] = {}
        self.ended: set[str] = set()
        self.aborted: set[str] = set()
        self.preempted: dict[str, int] = {}
        self.most, self.steps = 0, 0
        self.looks: list[dict[str, int]] = []
        self.free = self.pool.get_num_free_blocks()

    @property
    def scheduler(self) -> Any:
        return engine.core(self.llm).scheduler

    @property
    def pool(self) -> Any:
        return self.scheduler.kv_cache_manager.block_pool

    def run(self, asked: list[Asked]) -> None:
        server = self.llm.llm_engine
        waiting, leaves = list(asked), {each.name: each.leaves for each in asked}
        while waiting or server.has_unfinished_requests():
            if waiting and server.get_num_unfinished_requests() < 2 * ROWS:
                for _ in range(min(len(waiting), self.chosen.randint(0, 12))):
                    each = waiting.pop(0)
                    server.add_request(each.name, each.prompt, engine.greedy(each.tokens))
            for output in server.step():
                name = output.request_id
                self.said[name] = list(output.outputs[0].token_ids)
                if output.finished:
                    self.ended.add(name)
                elif leaves[name] and len(self.said[name]) >= leaves[name]:
                    server.abort_request([name])
                    self.aborted.add(name)
            self.look(len(asked))

    def look(self, count: int) -> None:
        scheduler = self.scheduler
        for name, request in scheduler.requests.items():
            if request.num_preemptions:
                self.preempted[name] = request.num_preemptions
        self.most = max(self.most, len(scheduler.running))
        self.steps += 1
        done = len(self.ended) + len(self.aborted)
        if done * LOOKS >= count * (len(self.looks) + 1):
            self.looks.append({"requests": done, **held()})

    def told(self) -> dict[str, Any]:
        return {
            "finished": len(self.ended),
            "aborted": len(self.aborted - self.ended),
            "preempted": len(self.preempted),
            "preemptions": sum(self.preempted.values()),
            "most_running": self.most,
            "steps": self.steps,
            "left": len(self.scheduler.requests),
            "blocks_not_returned": self.free - self.pool.get_num_free_blocks(),
            "memory": self.looks,
        }


def held() -> dict[str, int]:
    """Bytes of the GPU's memory that are allocated, and of the host's that are resident."""
    import torch

    fields = Path("/proc/self/statm").read_text(encoding="utf-8").split()
    gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return {"gpu_bytes": gpu, "host_bytes": int(fields[1]) * 4096}


def different(
    asked: list[Asked],
    alone: Mapping[str, Sequence[Any]],
    said: dict[str, list[int]],
) -> dict[str, Any]:
    """Requests that were lost or cut short, and those that said something else."""
    lost, places, tokens = [], [], 0
    for each in asked:
        known, gaps = alone[each.name]
        heard = said.get(each.name, [])
        if len(heard) < (each.leaves or each.tokens):
            lost.append(each.name)
        tokens += len(heard)
        for step, (ours, theirs) in enumerate(zip(heard, known, strict=False)):
            if ours != theirs:
                places.append({"request": each.name, "step": step, "gap": gaps[step]})
                break
    return {
        "lost": lost,
        "tokens": tokens,
        "parted": len(places),
        "gap": max((each["gap"] for each in places), default=0.0),
        "places": places,
    }


if __name__ == "__main__":
    main()
