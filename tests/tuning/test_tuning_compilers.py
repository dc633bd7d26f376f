"""Compilations side by side: what is wanted now goes first, and one that fails stops nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE
from places import SUPPORT
from tuners import SMALL

from kvgen import compiler
from kvgen.conversation import ROOT
from kvgen.probing.compilers import Compilers
from kvgen.probing.launches import Case
from kvgen.probing.server import Pool
from kvgen.probing.usage import digest
from kvgen.shipped import resolve
from kvgen.tuning import space


def work(request: dict[str, Any]) -> dict[str, Any]:
    match request["what"]:
        case "crash":
            os._exit(9)
        case "hang":
            time.sleep(1000)
        case "fail":
            raise ValueError("no such kernel")
    return {"what": request["what"], "error": None}


@pytest.fixture
def pool() -> Iterator[Pool]:
    found = Pool(work, 1, 1.0)
    yield found
    found.end()


def answers(pool: Pool, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < count:
        pool.feed()
        more, _ = pool.finished([])
        found += more
    return found


def take(pool: Pool, *requests: tuple[int, str, bool]) -> None:
    for number, what, later in requests:
        pool.take({"id": number, "what": what, "later": later})


def test_now_before_later(pool: Pool) -> None:
    take(pool, (0, "a", True), (1, "b", False), (2, "c", True), (3, "d", False), (4, "e", True))
    # one that may wait is wanted now
    pool.take({"sooner": 4})
    assert [each["id"] for each in answers(pool, 5)] == [1, 3, 4, 0, 2]


def test_what_is_done_cannot_be_sooner(pool: Pool) -> None:
    take(pool, (0, "a", True))
    assert answers(pool, 1) == [{"id": 0, "what": "a", "error": None}]
    pool.take({"sooner": 0})
    take(pool, (1, "b", False))
    assert [each["id"] for each in answers(pool, 1)] == [1] and not pool.waiting


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("crash", "the compiler crashed, exit code 9"),
        ("hang", "not compiled after 1 s"),
        ("fail", "ValueError: no such kernel"),
    ],
)
def test_one_that_fails(what: str, error: str, pool: Pool) -> None:
    take(pool, (0, "a", False), (1, what, False), (2, "b", False))
    found = answers(pool, 3)
    assert [each["error"] for each in found] == [None, error, None]
    assert len(pool.processes) == 1


def test_side_by_side() -> None:
    """A process that hangs does not keep the other from working."""
    pool = Pool(work, 2, 3.0)
    try:
        take(pool, (0, "hang", False), *((number, "a", False) for number in range(1, 6)))
        assert [each["id"] for each in answers(pool, 6)] == [1, 2, 3, 4, 5, 0]
    finally:
        pool.end()


def test_a_killed_server_leaves_nothing() -> None:
    """A process that waits for its next request ends with it."""
    code = (
        "import os, signal; from kvgen.probing.server import Pool\n"
        "pool = Pool(lambda request: {}, 2, 600.0)\n"
        "pool.take({'id': 0}); pool.take({'id': 1}); pool.feed()\n"
        "while any(each.request for each in pool.processes): pool.finished([])\n"
        "print(*(each.process.pid for each in pool.processes), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    pids = [int(each) for each in server.stdout.readline().split()]
    try:
        # the processes have its stdout, too: it ends when all of them have
        out, _ = server.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        raise
    assert (len(pids), out, server.returncode) == (2, "", -signal.SIGKILL)


def test_a_program_is_told_by_what_it_does() -> None:
    text = ".visible .entry f()\n{\n  .loc 1 2 3  // here\n  add.s32 %r1, %r2, %r3;\n}\n"
    moved = text.replace("1 2 3  // here", "9 8 7") + '\t.file 1 "else.py"\n'
    other = text.replace("add", "sub")
    debugged = text + ".section .debug_str\n{\n.b8 1\n}\n"
    assert digest(text) == digest(moved) == digest(debugged) != digest(other)


@pytest.fixture(scope="module")
def module() -> Path:
    analysis = compiler.analyse(resolve("gated_deltanet"), SMALL)
    text = compiler.emit(analysis, {})
    return compiler.temporary_module("gated_deltanet", text)


def test_a_server(module: Path) -> None:
    """Compiles for a GPU that is not here; equal programs have one digest."""
    analysis = compiler.analyse(resolve("gated_deltanet"), SMALL)
    config = space.default(analysis, "recurrent", 4)
    case = Case("recurrent", config, 16, 16, 36, 16, 1)
    compilers = Compilers("sm_90", processes=1)
    try:
        compilers.begin(module, case, later=True)
        assert compilers.wait(module, case, 0.0) is None and not compilers.ready(module, case)
        found = compilers.wait(module, case)
        assert found is not None and found.error is None
        assert 16 < found.registers <= 255 and found.threads == 32 * config["num_warps"]
        assert found.program and compilers.wait(module, case) == found
        # layers and rows of the same divisibility are the same program
        again = compilers.wait(module, replace(case, rows=32, slots=48, layers=12))
        assert again is not None and again.program == found.program
        broken = compilers.wait(module, replace(case, config={**config, "TILE": 24}))
        assert broken is not None and broken.error and "power of 2" in broken.error
        absent = compilers.wait(module, replace(case, kernel="nothing"))
        assert absent is not None and absent.error
    finally:
        compilers.close()


def test_what_is_searched_compiles() -> None:
    """With the knobs that a search tries, which a form's kernels need not all have."""
    compilers = Compilers("sm_90", processes=2)
    try:
        for state in ("float32", "split"):
            analysis = compiler.analyse(
                resolve("gated_deltanet"), {**SMALL, "storage.state": state}
            )
            path = compiler.temporary_module("gated_deltanet", compiler.emit(analysis, {}))
            kernels = space.kernels(analysis) if state == "float32" else ("decode",)
            for kernel in kernels:
                config = space.program_of(space.legal(analysis, kernel, "sm_90")[0])
                tokens = space.tokens_of(analysis, kernel)
                found = compilers.wait(path, Case(kernel, config, 16, 16, 36, 16, tokens))
                assert found is not None and found.error is None, (state, kernel, config)
    finally:
        compilers.close()


def test_programs_of_all_layers_are_compiled() -> None:
    """Strides and offsets of a few heads are multiples of 16 in some layers, and not in others."""
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    script = SUPPORT / "layers.py"
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    missing = [line for line in found.stdout.splitlines() if not line.endswith(" 0 missing")]
    assert found.stdout and not missing
