"""Compile what is asked for, one configuration of one kernel at a time, on all cores.

A child of `Compilers` (kvgen.probing.compilers). Its processes stay and take one request after
another; one that crashes or is too slow is replaced. What they compile stays in Triton's cache on
disk, under the key that Triton's JIT looks up when it launches the same.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from kvgen.compiler import imported
from kvgen.conversation import answers
from kvgen.probing.launches import Case, Launch, launches_of
from kvgen.probing.usage import assembly_of, digest, target_of, used

Answer = dict[str, Any]

NICE = 5


def main() -> None:
    options = json.loads(sys.argv[1])
    stream = answers()
    # whoever asks has something to do beside waiting
    os.nice(NICE)

    def say(answer: Answer) -> None:
        # whoever asked may have gone
        with suppress(BrokenPipeError):
            print(json.dumps(answer), file=stream, flush=True)

    # Triton's hash of itself takes longer than most kernels; the processes inherit it
    with suppress(ImportError):
        from triton.runtime.cache import triton_key

        triton_key()
    with suppress(ImportError):
        # what every request needs, and the processes inherit too
        import torch  # noqa: F401
    pool = Pool(compiled, options["processes"], options["seconds"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        serve(pool, say)
    finally:
        pool.end()


def compiled(request: Answer) -> Answer:
    """What the launches of a case use together: the most of each, and one digest of all."""
    import triton
    from triton.compiler import ASTSource

    module = imported(Path(request["module"]))
    gpu = target_of(request["target"])
    found: list[Answer] = []
    for launch in launches_of(module, Case(**request["case"]), gpu):
        checked(launch, gpu)
        source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
        kernel = triton.compile(source, target=gpu, options=launch.options)
        usage = used(kernel, gpu)
        usage["threads"] = gpu.warp_size * kernel.metadata.num_warps
        found.append({**usage, "program": digest(assembly_of(kernel, gpu))})
    if not found:
        raise LookupError(f"nothing launches {request['case']['kernel']}")
    programs = sorted({each.pop("program") for each in found})
    most = {name: max(each[name] for each in found) for name in found[0]}
    return {**most, "program": " ".join(programs), "error": None}


def checked(launch: Launch, target: Any) -> None:
    from triton.compiler.compiler import make_backend

    unknown = set(launch.options) - set(vars(make_backend(target).parse_options({})))
    if unknown:
        raise KeyError(f"{target.backend} has no option {', '.join(sorted(unknown))}")


# the processes -----------------------------------------------------------------------------------


@dataclass
class Process:
    process: Any
    pipe: connection.Connection
    request: Answer | None = None
    deadline: float = 0.0


class Pool:
    """Processes that run `work` on one request after another; each gets `seconds` for one.

    waiting: what is wanted now. later: what is taken when nothing else is to be done.
    """

    def __init__(self, work: Callable[[Answer], Answer], most: int, seconds: float) -> None:
        self.work, self.most, self.seconds = work, most, seconds
        self.processes: list[Process] = []
        self.waiting: deque[Answer] = deque()
        self.later: dict[int, Answer] = {}

    def take(self, request: Answer) -> None:
        """One that names another, by its `id`, makes that one wanted now."""
        if "sooner" in request:
            wanted = self.later.pop(request["sooner"], None)
            self.waiting.extend([wanted] if wanted else [])
        elif request.get("later"):
            self.later[request["id"]] = request
        else:
            self.waiting.append(request)

    def feed(self) -> None:
        """Give requests to processes that are free."""
        while self.waiting or self.later:
            free = next((each for each in self.processes if each.request is None), None)
            if free is None:
                if len(self.processes) >= self.most:
                    return
                free = self._started()
            if self.waiting:
                free.request = self.waiting.popleft()
            else:
                free.request = self.later.pop(next(iter(self.later)))
            free.deadline = time.monotonic() + self.seconds
            # one that has died is found where its answer is waited for
            with suppress(OSError):
                free.pipe.send(free.request)

    def finished(self, also: list[Any]) -> tuple[list[Answer], bool]:
        """Wait for answers; True if one of the files in `also` has something to read."""
        busy = {each.pipe: each for each in self.processes if each.request is not None}
        earliest = min((each.deadline for each in busy.values()), default=None)
        wait = None if earliest is None else max(0.0, earliest - time.monotonic())
        ready = connection.wait([*busy, *also], wait)
        found: list[Answer] = []
        for pipe, each in busy.items():
            assert each.request is not None
            if pipe in ready:
                try:
                    answer = pipe.recv()
                except (EOFError, OSError):
                    each.process.join()
                    answer = {"error": f"the compiler crashed, exit code {each.process.exitcode}"}
                    self._drop(each)
            elif time.monotonic() >= each.deadline:
                answer = {"error": f"not compiled after {self.seconds:.0f} s"}
                self._drop(each)
            else:
                continue
            found.append({**answer, "id": each.request["id"]})
            each.request = None
        return found, any(file in ready for file in also)

    def end(self) -> None:
        for each in list(self.processes):
            self._drop(each)

    def _started(self) -> Process:
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_attend,
            args=(self.work, theirs, [ours, *(each.pipe for each in self.processes)]),
        )
        process.start()
        theirs.close()
        self.processes.append(Process(process, ours))
        return self.processes[-1]

    def _drop(self, each: Process) -> None:
        """End a process with the ptxas that it may wait for."""
        self.processes.remove(each)
        with suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.kill()
        each.process.join()
        each.pipe.close()


def _attend(
    work: Callable[[Answer], Answer],
    pipe: connection.Connection,
    others: list[connection.Connection],
) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # a copy of the server's ends would keep them from seeing that the server has gone
    for other in others:
        other.close()
    with suppress(EOFError, OSError):
        while True:
            request = pipe.recv()
            try:
                answer = work(request)
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}".strip()}
            pipe.send(answer)


def serve(pool: Pool, say: Callable[[Answer], None]) -> None:
    """Requests come as lines on stdin, until it ends."""
    rest = b""
    while True:
        found, more = pool.finished([0])
        for answer in found:
            say(answer)
        if more:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                pool.take(json.loads(line))
        pool.feed()


if __name__ == "__main__":
    main()
