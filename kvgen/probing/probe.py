"""What the kernels of a module use on a GPU, without that GPU: registers, spills, shared memory."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class KernelUsage:
    """One program that a module may launch.

    registers: for each thread; on AMD with the accumulation registers. spills: bytes of local
    memory for each thread. shared: bytes for each program. error: why it could not be compiled;
    then the others are None, None and 0.
    """

    kernel: str
    config: str
    registers: int | None
    spills: int | None
    shared: int
    error: str | None


class ProbeError(Exception):
    """A module that cannot be imported, or whose functions fail before they launch a kernel."""


def probe(
    module_text: str,
    target: str,
    *,
    batches: tuple[int, ...] | None = None,
    progress: Callable[[str], None] | None = None,
    told: Callable[[KernelUsage], None] | None = None,
    first: tuple[str, ...] = (),
) -> list[KernelUsage]:
    """Compile every kernel that the module launches, with all its configurations.

    target: sm_80, sm_90, sm_100, sm_120 or gfx942. batches: None for all that the configurations
    distinguish. progress: told of each program; told: what each comes to, as it is known. first:
    how the names of kernels begin that are compiled before all others. Raises ProbeError.
    """
    answers = _answers(module_text, target, batches, None, progress, told, first)
    return [KernelUsage(**answer) for answer in answers]


def assembly(module_text: str, target: str, kernel: str) -> dict[str, str]:
    """The PTX or AMD assembly of a kernel, as in decode, by configuration. Raises ProbeError."""
    texts = {}
    for answer in _answers(module_text, target, None, kernel):
        if answer["error"]:
            raise ProbeError(answer["error"])
        texts[answer["config"]] = answer["text"]
    return texts


def _answers(
    module_text: str,
    target: str,
    batches: tuple[int, ...] | None,
    kernel: str | None,
    progress: Callable[[str], None] | None = None,
    told: Callable[[KernelUsage], None] | None = None,
    first: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    with tempfile.TemporaryDirectory(prefix="kvgen-") as folder:
        module = Path(folder) / "module.py"
        module.write_text(module_text, encoding="utf-8")
        request = {
            "module": str(module), "target": target, "batches": batches, "kernel": kernel,
            "first": first,
        }  # fmt: skip
        answers = []
        total = 0
        for answer in _conversation(json.dumps(request), Path(folder) / "errors"):
            if "started" in answer:
                total = answer["started"]
                continue
            answers.append(answer)
            if told is not None:
                told(KernelUsage(**{k: v for k, v in answer.items() if k != "index"}))
            if progress is not None:
                progress(f"{answer['kernel']}, {len(answers)} of {total}")
    answers.sort(key=lambda answer: answer.pop("index"))
    return answers


def _conversation(request: str, errors: Path) -> Iterator[dict[str, Any]]:
    """Ask a process without the interpreter: which of the two Triton runs is decided at import."""
    environment = {key: os.environ[key] for key in os.environ if key != "TRITON_INTERPRET"}
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    with (
        errors.open("w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "kvgen.probing.crosscompile", request],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
            if process.wait() != 0:
                stderr.seek(0)
                raise ProbeError(stderr.read().strip() or f"exit code {process.returncode}")
        finally:
            process.terminate()
