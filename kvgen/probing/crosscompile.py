"""Compile a module's launches for a GPU that need not be here, in a process of its own.

Its argument is a request as a JSON object, its answers are JSON objects, one a line: `started`, the
number of programs to compile, then each of them. Every compilation has a process of its own,
which may take too long or crash.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvgen.compiler import imported
from kvgen.probing.launches import Launch, record
from kvgen.probing.usage import assembly_of, target_of, used

if TYPE_CHECKING:
    from triton.backends.compiler import GPUTarget

DEADLINE = 120.0
MOST_PROCESSES = 8
AFTER = "after {:.0f} s"


def main() -> None:
    request = json.loads(sys.argv[1])
    # whoever asked has gone: end what still compiles on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Triton's and LLVM's own messages must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    name: str = request["target"]
    target = target_of(name)
    module = imported(Path(request["module"]))
    batches = request["batches"]
    launches = record(module, name, target, batches and tuple(batches))
    if request["kernel"] is not None:
        launches = [launch for launch in launches if launch.kernel == request["kernel"]]
    answer(started=len(launches))
    hard = tuple(request["first"])
    order = sorted(range(len(launches)), key=lambda i: not launches[i].kernel.startswith(hard))
    # Triton's hash of itself takes longer than most kernels; the processes inherit it
    with suppress(ImportError):
        from triton.runtime.cache import triton_key

        triton_key()
    several = [launches[i] for i in order]
    for index, launch, result in _all_compiled(several, target, request["kernel"] is not None):
        answer(index=order[index], kernel=launch.kernel, config=launch.config, **result)


def _all_compiled(
    launches: list[Launch], target: GPUTarget, text: bool
) -> Iterator[tuple[int, Launch, dict[str, Any]]]:
    """Compile side by side; in the order in which they finish. Of a kernel that has taken too long
    no other program is begun."""
    # a fork has the module and all of Triton loaded already
    fork = multiprocessing.get_context("fork")
    most = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    waiting = list(enumerate(launches))[::-1]
    running: dict[Any, tuple[int, Any, float]] = {}
    late: set[str] = set()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                index, launch = waiting.pop()
                if launch.kernel in late:
                    why = f"not tried: another of its programs was not compiled {AFTER}"
                    yield index, launch, _failed(why.format(DEADLINE))
                    continue
                ours, theirs = fork.Pipe(duplex=False)
                process = fork.Process(target=_compile, args=(launch, target, text, theirs))
                process.start()
                theirs.close()
                running[ours] = index, process, time.monotonic() + DEADLINE
            if not running:
                break
            earliest = min(deadline for _, _, deadline in running.values())
            ready = connection.wait(list(running), max(0.0, earliest - time.monotonic()))
            for pipe in list(running):
                index, process, deadline = running[pipe]
                if pipe in ready:
                    result = _received(pipe, process)
                elif time.monotonic() >= deadline:
                    _kill(process)
                    late.add(launches[index].kernel)
                    result = _failed(f"not compiled {AFTER}".format(DEADLINE))
                else:
                    continue
                del running[pipe]
                yield index, launches[index], result
    finally:
        for _, process, _ in running.values():
            _kill(process)


def _kill(process: Any) -> None:
    """End a compilation with the ptxas that it may wait for."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _received(pipe: connection.Connection, process: Any) -> dict[str, Any]:
    try:
        result = pipe.recv()
    except EOFError:
        result = None
    process.join()
    return result or _failed(f"the compiler crashed, exit code {process.exitcode}")


def _failed(error: str) -> dict[str, Any]:
    return {"registers": None, "spills": None, "shared": 0, "error": error}


def _compile(launch: Launch, target: GPUTarget, text: bool, pipe: connection.Connection) -> None:
    """In a process of its own: compile one launch and send what it uses."""
    import triton
    from triton.compiler import ASTSource
    from triton.compiler.compiler import make_backend

    os.setpgid(0, 0)
    try:
        unknown = set(launch.options) - set(vars(make_backend(target).parse_options({})))
        if unknown:
            raise KeyError(f"{target.backend} has no option {', '.join(sorted(unknown))}")
        source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
        kernel = triton.compile(source, target=target, options=launch.options)
        result = {**used(kernel, target), "error": None}
        if text:
            result["text"] = assembly_of(kernel, target)
    except Exception as error:
        result = _failed(f"{type(error).__name__}: {error}".strip())
    pipe.send(result)


if __name__ == "__main__":
    main()
