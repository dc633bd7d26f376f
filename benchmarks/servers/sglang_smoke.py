"""Does SGLang run here, and with kvgen: it is imported, it starts, it says one token and then more.

    python benchmarks/servers/sglang_smoke.py FOLDER [--arms stock-float32,kvgen-float32] [--tiny]

Each step is a process of its own with a limit in seconds; FOLDER/STEP.log has all of its output,
FOLDER/smoke.json how far each came. The arms begin once the import is through, side by side.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.servers import models, sglang_engine
from benchmarks.servers.processes import patient, side_by_side

ARMS = ("stock-float32", "kvgen-float32", "replay-float32")
BATCHES = (1, 4, 64)
MEMORY = {"max_total_tokens": 1 << 16, "max_mamba_cache_size": 96, "mem_fraction_static": 0.4}
TINY = {"max_total_tokens": 2048, "max_mamba_cache_size": 8, "mem_fraction_static": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--model", default="next", choices=models.MODELS)
    parser.add_argument("--limit", type=float, default=150.0, help="seconds for each step")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without a GPU")
    parser.add_argument("--one", help="do this step in this process")
    args = parser.parse_args()
    if args.one:
        patient(args.limit)
        imported() if args.one == "import" else said(args)
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    steps: dict[str, str] = {}
    for group in (["import"], args.arms.split(",")):
        commands = {name: [*sys.argv, "--one", name] for name in group}
        statuses = side_by_side(commands, args.folder, len(commands))
        steps |= {name: "done" if not status else f"exit {status}"
                  for name, status in statuses.items()}  # fmt: skip
        (args.folder / "smoke.json").write_text(json.dumps(steps, indent=1) + "\n")
        if group == ["import"] and steps["import"] != "done":
            break
    print(json.dumps(steps))


def imported() -> None:
    sglang_engine.prepare()
    started = time.time()
    from importlib.metadata import version

    import sglang.srt.managers.scheduler  # pyright: ignore[reportMissingImports]

    where = sglang.srt.managers.scheduler.__file__
    sglang_engine.say(f"sglang {version('sglang')} imported in {time.time() - started:.0f} s")
    print(where)


def said(args: argparse.Namespace) -> None:
    """One arm: it starts, says one token, then is stepped at several batches."""
    started = time.time()
    arm = sglang_engine.ARMS[args.one]
    batches = BATCHES[:2] if args.tiny else BATCHES
    server = sglang_engine.start(
        arm, models.write(args.folder / arm.name, args.model, args.tiny),
        batches=() if args.no_graphs else batches, tiny=args.tiny, context_length=512,
        max_running_requests=batches[-1], **(TINY if args.tiny else MEMORY),
    )  # fmt: skip
    sglang_engine.say(f"started in {time.time() - started:.0f} s")
    print(sglang_engine.versions(), sglang_engine.memory(server), sglang_engine.served(server))
    vocabulary = models.config(args.model, args.tiny)["vocab_size"]
    one = server.run([sglang_engine.asked("one", 0, 5, 1, vocabulary)])
    sglang_engine.say(f"one token: {one.outputs['one']}, by {sglang_engine.served(server)}")
    for batch in batches:
        new = 6 if args.tiny else 48
        found = server.run(
            [
                sglang_engine.asked(f"{batch}-{row}", row, 5 + 9 * row % 110, new, vocabulary)
                for row in range(batch)
            ]
        )
        last = min(17, len(found.times) - 1)
        taken = (found.times[-1] - found.times[-last]) / (last - 1) * 1e3
        first = found.outputs[f"{batch}-0"][:16]
        sglang_engine.say(f"batch {batch}: {taken:.2f} ms a step; first {first}")


if __name__ == "__main__":
    main()
