"""How far SGLang with kvgen is from SGLang without, and SGLang from itself at another batch.

    python benchmarks/servers/sglang_equal.py FOLDER --json docs/data/h200-sglang-equal.json
    python benchmarks/servers/sglang_equal.py FOLDER --from --json FILE    again, from what it holds

Stock decodes prompts together, choosing freely; then every arm says those tokens again, so that all
have the same past at every step, and stock says them once more, each prompt alone. What is compared
are log-probabilities of the whole vocabulary, and what is said freely up to the first difference.
FOLDER holds what each arm has said (270 MB an arm).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import models, sglang_engine
from benchmarks.servers.processes import patient, side_by_side
from benchmarks.servers.vllm_equal import PROMPT, ROWS, STOCK, TOKENS, compared, keep, waited_for

# seconds after which an engine does not start, a batch does not end any more
START, STUCK = 300.0, 90.0
# rows, tokens of a prompt and tokens more on a machine without a GPU
TINY = (2, 9, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", default="")
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--prompt", type=int, default=PROMPT)
    parser.add_argument("--together", type=int, default=3, help="arms at a time")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="kept", action="store_true", help="run nothing, compare")
    parser.add_argument("--one", help="run this arm in this process")
    args = parser.parse_args()
    args.dtype, args.ranks = "bfloat16", 1
    if args.tiny:
        args.rows, args.prompt, args.tokens = TINY
    if args.one:
        said(args)
        return
    arms = args.arms.split(",") if args.arms else [x for x in sglang_engine.ARMS if x != STOCK]
    if not args.kept:
        args.folder.mkdir(parents=True, exist_ok=True)
        for old in args.folder.glob("*.pt"):
            old.unlink()
        commands = {arm: [*sys.argv, "--one", arm] for arm in (STOCK, *arms)}
        side_by_side(commands, args.folder, args.together, STOCK)
    found = compared(args, arms)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


# in an arm's own process -------------------------------------------------------------------------


def said(args: argparse.Namespace) -> None:
    """Let one arm speak; FOLDER/ARM.pt is what it said."""
    sglang_engine.prepare(args.tiny)
    patient(0.0 if args.tiny else START)
    arm = sglang_engine.ARMS[args.one]
    length = args.prompt + args.tokens + 1
    server = sglang_engine.start(
        arm, models.write(args.folder / arm.name, args.model, args.tiny), batches=(1, args.rows),
        tiny=args.tiny, context_length=length + 8, max_running_requests=args.rows,
        max_total_tokens=args.rows * length + 4096, max_mamba_cache_size=args.rows + 8,
        max_prefill_tokens=max(16384, args.rows * args.prompt), mem_fraction_static=0.5,
    )  # fmt: skip
    sglang_engine.say("started")
    speak = Speaker(server, args)
    result: dict[str, Any] = {
        "versions": sglang_engine.versions(),
        "memory": sglang_engine.memory(server),
    }
    if arm.name == STOCK:
        tokens, logs = speak.together(None)
        result |= {"tokens": tokens, "free_logs": logs, "logs": logs}
        # the others wait for these
        keep({"tokens": tokens}, args.folder / "tokens.pt")
        _, result["alone_logs"] = speak.alone(tokens)
        # as long as that is what was said, it is what would be said freely
        result["alone_tokens"] = result["alone_logs"].argmax(-1)
    else:
        result["tokens"], result["free_logs"] = speak.together(None)
        _, result["logs"] = speak.together(waited_for(args.folder / "tokens.pt"))
    keep(result, args.folder / f"{arm.name}.pt")


class Speaker:
    """A server and the prompts that it is asked."""

    def __init__(self, server: sglang_engine.Server, args: argparse.Namespace):
        from benchmarks.servers.sglang_forced import Listener

        self.server, self.rows, self.tokens = server, args.rows, args.tokens
        self.stuck = 0.0 if args.tiny else STUCK
        self.listener = Listener(server)
        self.vocabulary = models.config(args.model, args.tiny)["vocab_size"]
        self.asked = [
            sglang_engine.asked(str(row), row, args.prompt, args.tokens, self.vocabulary)
            for row in range(args.rows)
        ]

    def together(self, tokens: Any) -> tuple[Any, Any]:
        """What is said [rows, tokens], and log-probabilities [rows, tokens, vocabulary]."""
        return self._said(tokens, [self.asked])

    def alone(self, tokens: Any) -> tuple[Any, Any]:
        return self._said(tokens, [[each] for each in self.asked])

    def _said(self, tokens: Any, groups: list[list[sglang_engine.Request]]) -> tuple[Any, Any]:
        import torch

        lengths = [len(each.tokens) for each in self.asked]
        book = self.listener.open(lengths, self.tokens, self.vocabulary, tokens)
        heard: dict[str, list[int]] = {}
        started = time.time()
        for group in groups:
            patient(self.stuck)
            heard |= self.server.run(group).outputs
        sglang_engine.say(f"{len(groups)} times {len(groups[0])}: {time.time() - started:.1f} s")
        patient(0)
        found = torch.tensor([heard[str(row)] for row in range(self.rows)])
        if tokens is not None and not torch.equal(found, tokens):
            raise RuntimeError("the server did not say what it was told to")
        return found, book.logs.cpu()


if __name__ == "__main__":
    main()
