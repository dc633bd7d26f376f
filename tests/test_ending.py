"""Ctrl-C and SIGTERM at any time: the exit code of shells, quietly, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

# what ends a test that hangs
LATE = 600
WAITS = 'import time; print("here", flush=True); time.sleep(600)'


def interrupted(
    *command: str, number: int = signal.SIGINT, path: Path | None = None
) -> tuple[int, str, str]:
    """Run Python, send the signal when "here" is printed; exit code, stdout and stderr."""
    known = [str(path)] if path else []
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*known, str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # in the background it may be ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=LATE)
    assert line == "here\n", err
    return process.returncode, out, err


def command(body: str, after: str = "", number: int = signal.SIGINT) -> tuple[int, str, str]:
    """The same of a command with this body, run as `kvgen` runs its own."""
    inner = "".join(f"    {line}\n" for line in body.splitlines())
    code = (
        "import atexit, os, sys, time\nfrom kvgen import ending\n"
        f"ending.prepare()\ndef command():\n{inner}ending.run(command)\n{after}"
    )
    return interrupted("-c", code, number=number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("click", ("list",)),
        ("ruamel", ("show", "gla")),
        ("torch", ("check", "gla", "--device", "cpu")),
        ("jinja2", ("compile", "gla", "-o", os.devnull)),
    ],
)
def test_in_an_import(module: str, arguments: tuple[str, ...], number: int, tmp_path: Path) -> None:
    """Of a library that takes everything for an import that failed."""
    text = f"try:\n    {WAITS}\nexcept BaseException:\n    raise ImportError('no') from None\n"
    (tmp_path / f"{module}.py").write_text(text)
    code, out, err = interrupted("-m", "kvgen", *arguments, number=number, path=tmp_path)
    assert (code, out) == (128 + number, "")
    assert "Traceback" not in err and "no" not in err.splitlines()
    assert ("interrupted" in err) == (number == signal.SIGINT)


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_that_is_swallowed_comes_again(times: int) -> None:
    body = f"""ending.AGAIN = 0.05
print("here", flush=True)
for _ in range({times}):
    try:
        time.sleep(600)
    except BaseException:
        pass
time.sleep(600)"""
    code, out, err = command(body)
    assert (code, out, err) == (130, "", "")


def test_an_interrupt_in_a_callback() -> None:
    """Python can only say that it ignores what is raised there."""
    body = f"""ending.AGAIN = 0.05
class Late:
    def __del__(self):
        {WAITS}
Late()
time.sleep(600)"""
    assert command(body) == (130, "", "")


@pytest.mark.parametrize("become", ["raise RuntimeError", "return", "sys.exit(1)"])
def test_whatever_an_interrupt_becomes(become: str) -> None:
    body = f"try:\n    {WAITS}\nexcept KeyboardInterrupt:\n    {become}"
    assert command(body) == (130, "", "")
    assert command(body.replace("KeyboardInterrupt", "SystemExit"), number=signal.SIGTERM) == (
        143, "", "",
    )  # fmt: skip


def test_tidying_up_is_not_interrupted_again() -> None:
    body = f"""ending.AGAIN = 0.01
try:
    {WAITS}
finally:
    for _ in range(20):
        time.sleep(0.01)
    print("tidy", flush=True)"""
    assert command(body) == (130, "tidy\n", "")


def test_at_the_end() -> None:
    """Where nothing is left to be interrupted; even what was run to its end has not ended."""
    assert command(f"def late():\n    {WAITS}\natexit.register(late)")[0] == 130
    assert command("pass", after=WAITS)[0] == 130


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Also where it ends in the middle of an import."""
    (tmp_path / "slow.py").write_text(WAITS)
    body = f"""from kvgen import compiler
folder = compiler.temporary_module("x", "").parent
print(folder, file=sys.stderr, flush=True)
sys.path.insert(0, {str(tmp_path)!r})
import slow"""
    code, _, err = command(body)
    folder = Path(err.splitlines()[0])
    assert code == 130 and folder.name.startswith("kvgen-") and not folder.exists()


def test_what_is_ignored_stays_ignored() -> None:
    """As in a shell's background."""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from kvgen import ending; ending.prepare()\n"
        "ending.run(lambda: os.kill(os.getpid(), signal.SIGINT) or sys.exit(3))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=LATE)
    assert found.returncode == 3
