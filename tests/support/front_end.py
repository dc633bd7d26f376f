"""Triton's front end in a process of its own, which stays for one request after another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from places import ROOT, SUPPORT


class FrontEnd:
    """Started with the first request; `lowering.py` says what may be asked."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        process = self.process = self.process or self._started()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        found = []
        for line in process.stdout:
            if line.startswith("{"):
                found.append(json.loads(line))
            elif line == "null\n":
                return found
        # it has ended in the middle
        self.process = None
        raise AssertionError(f"{process.wait()}: {self.log.read_text(encoding='utf-8')[-2000:]}")

    def _started(self) -> subprocess.Popen[str]:
        environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
        number, path = tempfile.mkstemp(suffix=".log")
        self.log = Path(path)
        with os.fdopen(number, "w") as log:
            return subprocess.Popen(
                [sys.executable, str(SUPPORT / "lowering.py")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, env=environment, cwd=ROOT,
            )  # fmt: skip

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()
            self.process = None
