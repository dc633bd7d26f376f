"""A worker without a GPU: answers as kvgen.tuning.worker does, with times of its own making.

Its argument is a JSON object of moods: {"hang": WHAT, "crash": WHAT, "killed": WHAT, "wrong": WHAT,
"launch": WHAT, "internal": WHAT, "memory": WHAT, "babble": WHAT}, where WHAT is what a request must
have to bring it about: knobs, "kernel", and "do", which is "time" where it is not said; with
{"nth": N} only the process's Nth such request does. Beside them {"seconds": S}, how long a timing
takes; {"log": FILE}, a line for each request; {"once": FILE}, only the first process to make that
file has moods; {"hello": {…}}, what is said instead of what stands below; {"names": {DEVICE:
NAME}}, names by what CUDA_VISIBLE_DEVICES says.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from typing import Any

Answer = dict[str, Any]

HELLO = {
    "name": "Test GPU", "count": 1, "target": "sm_90", "processors": 132, "shared": 232448,
    "l2": 50 << 20, "bandwidth": 3e12, "uuid": "", "driver": "1.0", "torch": "2.11.0",
    "triton": "3.6.0", "cuda": "13.0",
}  # fmt: skip
# must not be set in a worker
UNSET = ("TRITON_INTERPRET", "KVGEN_CHECK", "KVGEN_REQUIRE_TUNED")
BEST = {"TILE": 32, "TILES": 2, "STAGES": 2, "EARLY": 0, "num_warps": 2, "programs": 8}


def fake_us(config: dict[str, int], batch: int) -> float:
    """A smooth valley around BEST, a little elsewhere for each batch."""
    away = 0.0
    for knob, value in config.items():
        middle = BEST.get(knob, 1) * (2 if knob == "TILE" and batch >= 16 else 1)
        away += abs(math.log2((value + 1) / (middle + 1)))
    return (2.0 + batch) * (1 + 0.15 * away)


# how many requests fitted so far
SEEN: dict[str, int] = {}
MOODS = ("hang", "crash", "killed", "wrong", "launch", "internal", "memory", "babble")


def answer(request: Answer, moods: Answer) -> Answer:
    config = request.get("config") or {}
    for mood in MOODS:
        if mood not in moods or not fits(moods[mood], request, config):
            continue
        match mood:
            case "hang":
                time.sleep(1000)
            case "crash":
                print("CUDA error: an illegal memory access", file=sys.stderr)
                os._exit(7)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "babble":
                print("this is no answer", flush=True)
        return {"ok": False, "kind": mood, "error": f"made to be {mood}"}
    match request["do"]:
        case "hello":
            device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
            named = {"uuid": f"GPU-{device}", **moods.get("hello", {})}
            if device in moods.get("names", {}):
                named["name"] = moods["names"][device]
            return {"ok": True, **HELLO, **named}
        case "check":
            return {"ok": True, "output": 1e-3, "state": 1e-6}
        case "hold":
            return {"ok": True, "layers": 36}
        case "time":
            time.sleep(moods.get("seconds", 0))
            us = fake_us(config, request["batch"])
            slow = request["best"] is not None and us > 2 * request["best"]
            return {"ok": True, "us": [us * 0.99, us, us * 1.01], "slow": slow, "compiled": 0}
        case "steps":
            times = []
            for entry in request["entries"]:
                share = fake_us(entry["fold"], request["batch"]) * 16 / entry["buffer"]
                us = fake_us(entry["config"], request["batch"]) + entry["buffer"] / 16 + share / 10
                times.append([us * 0.99, us, us * 1.01])
            return {"ok": True, "us": times, "layers": 36, "compiled": 0}
    return {"ok": True}


def fits(wanted: Answer, request: Answer, config: dict[str, int]) -> bool:
    found = {"do": request["do"], "kernel": request.get("kernel"), **config}
    nth = wanted.get("nth")
    wanted = {"do": "time", **{name: value for name, value in wanted.items() if name != "nth"}}
    if not wanted.items() <= found.items():
        return False
    key = json.dumps(wanted)
    SEEN[key] = SEEN.get(key, 0) + 1
    return nth in (None, SEEN[key])


def first(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def main() -> None:
    moods = json.loads(sys.argv[1])
    if "once" in moods and not first(moods["once"]):
        moods = {name: mood for name, mood in moods.items() if name not in MOODS}
    about = {"device": os.environ.get("CUDA_VISIBLE_DEVICES")}
    about["unset"] = [name for name in UNSET if name in os.environ]
    for line in sys.stdin:
        request = json.loads(line)
        if "log" in moods:
            with open(moods["log"], "a") as file:  # noqa: PTH123
                file.write(json.dumps(request | about) + "\n")
        print(json.dumps({"id": request["id"], **answer(request, moods)}), flush=True)


if __name__ == "__main__":
    main()
