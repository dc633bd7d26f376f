"""Compile a module's launches for a GPU that need not be here, in a process of its own.

Its argument is a request as a JSON object, its answers are JSON objects, one a line: `started`, the
number of programs to compile, then each of them. Every compilation has a process of its own,
which may take too long or crash.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvgen.compiler import imported
from kvgen.probing.launches import Launch, record

if TYPE_CHECKING:
    from triton.backends.compiler import GPUTarget

DEADLINE = 120.0
MOST_PROCESSES = 8


def main() -> None:
    from triton.backends.compiler import GPUTarget

    request = json.loads(sys.argv[1])
    # whoever asked has gone: end what still compiles on the way out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Triton's and LLVM's own messages must not get between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    name: str = request["target"]
    if name.startswith("sm_"):
        target = GPUTarget("cuda", int(name.removeprefix("sm_")), 32)
    else:
        target = GPUTarget("hip", name, 64)
    module = imported(Path(request["module"]))
    batches = request["batches"]
    launches = record(module, name, target, batches and tuple(batches))
    if request["kernel"] is not None:
        launches = [launch for launch in launches if launch.kernel == request["kernel"]]
    answer(started=len(launches))
    # Triton's hash of itself takes longer than most kernels; the processes inherit it
    with suppress(ImportError):
        from triton.runtime.cache import triton_key

        triton_key()
    for index, launch, result in _all_compiled(launches, target, request["kernel"] is not None):
        answer(index=index, kernel=launch.kernel, config=launch.config, **result)


def _all_compiled(
    launches: list[Launch], target: GPUTarget, text: bool
) -> Iterator[tuple[int, Launch, dict[str, Any]]]:
    """Compile side by side; in the order in which they finish."""
    # a fork has the module and all of Triton loaded already
    fork = multiprocessing.get_context("fork")
    most = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    waiting = list(enumerate(launches))[::-1]
    running: dict[Any, tuple[int, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                index, launch = waiting.pop()
                ours, theirs = fork.Pipe(duplex=False)
                process = fork.Process(target=_compile, args=(launch, target, text, theirs))
                process.start()
                theirs.close()
                running[ours] = index, process, time.monotonic() + DEADLINE
            earliest = min(deadline for _, _, deadline in running.values())
            ready = connection.wait(list(running), max(0.0, earliest - time.monotonic()))
            for pipe in list(running):
                index, process, deadline = running[pipe]
                if pipe in ready:
                    result = _received(pipe, process)
                elif time.monotonic() >= deadline:
                    _kill(process)
                    result = _failed(f"not compiled after {DEADLINE:.0f} s")
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
        usage = _nvidia(kernel) if target.backend == "cuda" else _amd(kernel)
        result = {**usage, "shared": kernel.metadata.shared, "error": None}
        if text:
            result["text"] = kernel.asm["ptx" if target.backend == "cuda" else "amdgcn"]
    except Exception as error:
        result = _failed(f"{type(error).__name__}: {error}".strip())
    pipe.send(result)


def _nvidia(kernel: Any) -> dict[str, int]:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(rf"Function {re.escape(kernel.metadata.name)}:\s*(.*)", dump)
    assert found is not None, dump
    usage = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", found[1])}
    return {"registers": usage["REG"], "spills": usage["STACK"] + usage["LOCAL"]}


def _amd(kernel: Any) -> dict[str, int]:
    usage = dict(re.findall(r"\.(\w+):\s+(\d+)\s*$", kernel.asm["amdgcn"], re.MULTILINE))
    return {
        "registers": int(usage["vgpr_count"]),
        "spills": int(usage["private_segment_fixed_size"]),
    }


if __name__ == "__main__":
    main()
