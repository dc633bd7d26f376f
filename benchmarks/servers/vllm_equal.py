"""How far vLLM with kvgen is from vLLM without, and vLLM from itself at another batch.

    python benchmarks/servers/vllm_equal.py FOLDER --json docs/data/h200-vllm-equal.json
    python benchmarks/servers/vllm_equal.py FOLDER --dtype float32 --json FILE
    python benchmarks/servers/vllm_equal.py FOLDER --from --json FILE    again, from what it holds
    python benchmarks/servers/vllm_equal.py FOLDER --arms kvgen-float32 --ranks 2 --json FILE

Stock decodes prompts together, choosing freely; then every arm says those tokens again, so that all
have the same past at every step, and stock says them once more, each prompt alone. What is compared
are log-probabilities of the whole vocabulary, and what is said freely up to the first difference.
FOLDER holds what each arm has said (270 MB an arm).

With ranks every arm speaks twice, on one GPU and on so many (`ARM@RANKS`), from one checkpoint.
Those on several are compared with stock on one, and with the same arm on one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import engine, models
from benchmarks.servers.processes import patient, side_by_side, turn

STOCK = "stock-float32"
ROWS, PROMPT, TOKENS = 64, 128, 256
# seconds after which an engine does not start, a batch does not end any more
START, STUCK = 400.0, 90.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", default="")
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--ranks", type=int, default=1, help="GPUs of one engine (tensor parallel)")
    parser.add_argument("--together", type=int, default=3, help="arms at a time")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="kept", action="store_true", help="run nothing, compare")
    parser.add_argument("--one", help="run this arm in this process")
    args = parser.parse_args()
    if args.one:
        said(args)
        return
    arms = args.arms.split(",") if args.arms else every(args.dtype)
    if args.ranks > 1:
        arms += [f"{arm}@{args.ranks}" for arm in (STOCK, *arms)]
    if not args.kept:
        args.folder.mkdir(parents=True, exist_ok=True)
        for old in args.folder.glob("*.pt"):
            old.unlink()
        if args.ranks > 1:
            models.write_weights(args.folder, args.model, args.tiny)
        commands = {arm: [*sys.argv, "--one", arm] for arm in (STOCK, *arms)}
        side_by_side(commands, args.folder, args.together, STOCK)
    found = compared(args, arms)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def every(dtype: str) -> list[str]:
    if dtype == "float32":
        return ["kvgen-float32"]
    return [name for name in engine.ARMS if name != STOCK]


# in an arm's own process -------------------------------------------------------------------------


def said(args: argparse.Namespace) -> None:
    """Let one arm speak; FOLDER/ARM.pt is what it said."""
    engine.prepare(args.tiny)
    patient(0.0 if args.tiny else START)
    options: dict[str, Any] = {}
    if args.dtype == "float32":
        from benchmarks.servers import float32

        options |= float32.prepare()
    import torch

    from benchmarks.servers import forced

    name, _, ranks = args.one.partition("@")
    several = int(ranks or 1) > 1
    model = models.write(args.folder, args.model, args.tiny)
    length = PROMPT + args.tokens + 1
    if torch.cuda.is_available():
        # beside other arms there is no telling what is free
        options |= {"kv_cache_memory_bytes": 8 << 30, "gpu_memory_utilization": 0.05}
    if args.ranks > 1:
        # what a rank has is cut out of whole weights
        options["load_format"] = "auto"
    if several:
        options |= engine.spread(int(ranks))
        if args.dtype == "float32":
            options["worker_extension_cls"] = "benchmarks.servers.float32_ranks.Keeper"
    llm = engine.start(
        engine.ARMS[name], model, batches=(1, args.rows), tiny=args.tiny, max_model_len=length,
        max_num_seqs=args.rows, **{**forced.options(), **options},
    )  # fmt: skip
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]
    prompt = PROMPT if not args.tiny else 9
    engine.say("started")
    speak = Speaker(
        llm, args.rows, prompt, args.tokens, vocabulary, args.folder / f"{args.one}.book"
    )
    if args.tiny:
        speak.stuck = 0.0
    result: dict[str, Any] = {"versions": engine.versions(), "memory": engine.memory(llm)}
    if args.one == STOCK:
        result["tokens"], result["free_logs"] = speak.together(None)
        # the others wait for these
        keep({"tokens": result["tokens"]}, args.folder / "tokens.pt")
        result["logs"] = result["free_logs"]
        result["alone_tokens"], _ = speak.alone(None)
        _, result["alone_logs"] = speak.alone(result["tokens"])
    else:
        tokens = waited_for(args.folder / "tokens.pt")
        # GPUs that wait for each other are not shared with others that do
        with turn(args.folder) if several else contextlib.nullcontext():
            result["tokens"], result["free_logs"] = speak.together(None)
            _, result["logs"] = speak.together(tokens)
    keep(result, args.folder / f"{args.one}.pt")
    engine.stop(llm)


class Speaker:
    """An engine and the prompts that it is asked."""

    def __init__(
        self, llm: Any, rows: int, prompt: int, tokens: int, vocabulary: int, path: Path
    ) -> None:
        """path: of a file through which books come from the processes that write them."""
        self.llm, self.rows, self.tokens, self.vocabulary = llm, rows, tokens, vocabulary
        self.path = path
        self.stuck = STUCK
        self.prompts = [engine.prompt(row, prompt, vocabulary) for row in range(rows)]

    def together(self, tokens: Any) -> tuple[Any, Any]:
        """What is said [rows, tokens], and log-probabilities [rows, tokens, vocabulary]."""
        return self._said(tokens, [list(range(self.rows))])

    def alone(self, tokens: Any) -> tuple[Any, Any]:
        return self._said(tokens, [[row] for row in range(self.rows)])

    def _said(self, tokens: Any, groups: list[list[int]]) -> tuple[Any, Any]:
        import torch

        self.llm.collective_rpc("open_book", args=(self.rows, self.tokens, self.vocabulary, tokens))
        heard: dict[str, list[int]] = {}
        started = time.time()
        for group in groups:
            patient(self.stuck)
            asked = [
                (str(row), self.prompts[row],
                 engine.greedy(self.tokens, extra_args={"row": row}))
                for row in group
            ]  # fmt: skip
            heard |= engine.run(self.llm, asked).outputs
        engine.say(f"{len(groups)} times {len(groups[0])}: {time.time() - started:.1f} s")
        patient(0)
        said = torch.tensor([heard[str(row)] for row in range(self.rows)])
        if tokens is not None and not torch.equal(said, tokens):
            raise RuntimeError("the engine did not say what it was told to")
        self.llm.collective_rpc("keep_book", args=(str(self.path),))
        logs = torch.load(self.path)
        self.path.unlink()
        return said, logs


def keep(what: dict[str, Any], path: Path) -> None:
    """Whole or not at all: others wait for it."""
    import torch

    torch.save(what, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def waited_for(path: Path, patience: float = 550.0) -> Any:
    import torch

    until = time.time() + patience
    while not path.is_file():
        if time.time() > until:
            raise TimeoutError(f"nobody wrote {path}")
        time.sleep(0.2)
    return torch.load(path)["tokens"]


# what they said ----------------------------------------------------------------------------------


def compared(args: argparse.Namespace, arms: list[str]) -> dict[str, Any]:
    import torch

    stock = torch.load(args.folder / f"{STOCK}.pt")
    found: dict[str, Any] = {
        "about": {**stock["versions"], "model": args.model, "dtype": args.dtype,
                  "prompts": args.rows, "tokens": args.tokens, "ranks": args.ranks,
                  "command": " ".join(["python", *sys.argv])},
        "stock": {**apart(stock["alone_logs"], stock["logs"]),
                  **parted(stock["alone_tokens"], stock)},
        "arms": {},
    }  # fmt: skip
    told = {STOCK: stock}
    for arm in arms:
        path = args.folder / f"{arm}.pt"
        if not path.is_file():
            print(f"{arm} has said nothing", file=sys.stderr)
            continue
        told[arm] = ours = torch.load(path)
        found["arms"][arm] = {
            **apart(ours["logs"], stock["logs"]),
            **parted(ours["tokens"], stock),
            "memory": ours["memory"],
        }
        one = told.get(arm.partition("@")[0])
        if "@" in arm and one:
            found["arms"][arm]["from one GPU"] = {
                **apart(ours["logs"], one["logs"]),
                **parted(ours["tokens"], one),
            }
    return found


def apart(ours: Any, theirs: Any) -> dict[str, float]:
    """The largest and the mean difference of log-probabilities."""
    differences = [(a - b).abs() for a, b in zip(ours, theirs, strict=True)]
    return {
        "largest": max(float(x.max()) for x in differences),
        "mean": sum(float(x.double().mean()) for x in differences) / len(differences),
    }


def parted(tokens: Any, other: dict[str, Any]) -> dict[str, Any]:
    """Prompts whose text leaves another's, where, and how far apart its two best are there."""
    places = []
    for row, (ours, theirs) in enumerate(zip(tokens, other["tokens"], strict=True)):
        differ = (ours != theirs).nonzero()
        if len(differ):
            step = int(differ[0])
            best = other["free_logs"][row, step].topk(2).values
            places.append({"row": row, "step": step, "gap": float(best[0] - best[1])})
    return {"parted": len(places), "gap": max((x["gap"] for x in places), default=0.0),
            "places": places}  # fmt: skip


if __name__ == "__main__":
    main()
