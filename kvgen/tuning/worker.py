"""The process that owns a GPU: it is asked in JSON lines to check and to time configurations.

Answers are {"ok": true, …}, or {"ok": false, "kind", "error"} where a configuration is at fault. An
error that leaves the GPU unusable ends the process, after it was answered with kind "crash".
"""

from __future__ import annotations

import gc
import json
import math
import os
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kvgen.conversation import answers, end_with_parent, requests
from kvgen.tuning.driver import queried

Answer = dict[str, Any]


def main() -> None:
    end_with_parent()
    stream = answers()
    worker = Worker()
    for request in requests():
        answer = worker.answered(request)
        print(json.dumps({"id": request["id"], **answer}), file=stream, flush=True)
        if answer.get("kind") == "crash":
            # nothing on this GPU works in this process any more
            os._exit(3)


class Worker:
    def __init__(self) -> None:
        self.bench: Any = None
        self.misses = 0

    def answered(self, request: Answer) -> Answer:
        from kvgen.timing.clock import LaunchError, usable
        from kvgen.tuning.measure import WrongError

        made = self.bench.made if self.bench else 0.0
        try:
            answer = {"ok": True, **getattr(self, f"do_{request['do']}")(request)}
            return {**answer, "made": self.bench.made - made} if self.bench else answer
        except LaunchError as error:
            return refused("launch", error)
        except WrongError as error:
            return refused("wrong", error)
        except Exception as error:
            text = f"{type(error).__name__}: {error}".strip()
            traceback.print_exc()
            if "out of memory" in text.lower():
                if self.bench is not None:
                    self.bench.free()
                return refused("memory", text)
            return refused("internal" if usable() else "crash", text)

    def do_hello(self, request: Answer) -> Answer:
        """What GPU this is, and how many there are."""
        import torch
        import triton

        from kvgen.timing.clock import copy_bandwidth

        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU; without --gpu there is an estimate")
        if torch.version.hip:
            raise RuntimeError("this GPU is AMD's: only NVIDIA's can be tuned")
        # what was imported need not be looked at again when garbage is collected
        gc.collect()
        gc.freeze()
        self._listen()
        properties = torch.cuda.get_device_properties(0)
        major, minor = torch.cuda.get_device_capability(0)
        uuid = str(getattr(properties, "uuid", ""))
        bandwidth = copy_bandwidth()
        torch.cuda.empty_cache()
        return {
            "name": torch.cuda.get_device_name(0),
            "count": torch.cuda.device_count(),
            "target": f"sm_{major}{minor}",
            "processors": properties.multi_processor_count,
            "shared": getattr(properties, "shared_memory_per_block_optin", 101376),
            "l2": getattr(properties, "L2_cache_size", 50 << 20),
            "bandwidth": bandwidth,
            "uuid": uuid,
            "driver": driver(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda or "",
        }

    def do_open(self, request: Answer) -> Answer:
        """Take on a module: its file, and the spec's text and overrides that it was made from."""
        import torch

        from kvgen import compiler
        from kvgen.tuning.measure import Bench

        self.do_close(request)
        analysis = compiler.analyse(request["spec"], request["overrides"])
        module = compiler.imported(Path(request["module"]))
        l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 50 << 20)
        self.bench = Bench(analysis, module, torch.cuda.get_device_name(0), l2)
        return {}

    def do_begin(self, request: Answer) -> Answer:
        """Make what configurations of a kernel are checked against."""
        self.bench.begin(request["kernel"], request["buffer"])
        return {}

    def do_check(self, request: Answer) -> Answer:
        """Errors of a configuration against float64."""
        from kvgen.tuning.measure import WrongError

        errors = self.bench.errors(request["kernel"], request["config"], request["buffer"])
        if not errors.ok:
            raise WrongError(str(errors))
        return {name: value for name, value in asdict(errors).items() if math.isfinite(value)}

    def do_time(self, request: Answer) -> Answer:
        """One kernel alone."""
        before = self.misses
        timing = self.bench.time(
            request["kernel"], request["config"], request["batch"], request["buffer"],
            request["best"],
        )  # fmt: skip
        return {"us": timing.us, "slow": timing.slow, "compiled": self.misses - before}

    def do_steps(self, request: Answer) -> Answer:
        """Whole steps, side by side."""
        from kvgen.tuning.measure import Entry

        entries = [Entry(**entry) for entry in request["entries"]]
        before = self.misses
        us, layers = self.bench.steps(request["batch"], entries)
        return {"us": us, "layers": layers, "compiled": self.misses - before}

    def do_hold(self, request: Answer) -> Answer:
        """Make the rows that a kernel is timed on."""
        what = request["kernel"], request["batch"], request["buffer"]
        return {"layers": self.bench.hold(*what)}

    def do_close(self, request: Answer) -> Answer:
        """Give back the memory."""
        import torch

        self.bench = None
        gc.collect()
        torch.cuda.empty_cache()
        return {"free": torch.cuda.mem_get_info()[0]}

    def _listen(self) -> None:
        """Count the programs that were not in Triton's cache when they were launched."""
        try:
            from triton import knobs
        except ImportError:
            return

        def listener(*, cache_hit: bool, **_: Any) -> None:
            self.misses += not cache_hit

        knobs.compilation.listener = listener  # pyright: ignore[reportAttributeAccessIssue]


def refused(kind: str, error: object) -> Answer:
    return {"ok": False, "kind": kind, "error": str(error)[:2000]}


def driver() -> str:
    """The driver's version, as far as it can be found out."""
    rows = queried("driver_version")
    return rows[0][0].strip()[:40] if rows else ""


if __name__ == "__main__":
    main()
