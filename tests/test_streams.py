"""Standard streams that are closed, full or broken: one line that says so, and the exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

COMMANDS = ["list", "list --json", "--help", "explain gla", "wisdom show gla", "wisdom export"]


def shell(line: str, buffered: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a line in which kvgen is this one."""
    start = f"kvgen() {{ {'env -u PYTHONUNBUFFERED' if buffered else 'env PYTHONUNBUFFERED=1'} "
    script = f'{start}"{sys.executable}" -m kvgen "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize(
    ("command", "buffered"), [("list", False), *((each, True) for each in COMMANDS)]
)
def test_results_that_cannot_be_written(command: str, buffered: bool) -> None:
    for where, why in (("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
        found = shell(f"kvgen {command} {where}", buffered)
        assert found.returncode == 1
        lines = [line for line in found.stderr.splitlines() if line.startswith("error")]
        assert lines == [f"error: cannot write to stdout: {why}"]
        assert "Traceback" not in found.stderr and "Exception" not in found.stderr


@pytest.mark.parametrize("command", ["list --json", "show gla", "explain gated_deltanet"])
def test_a_reader_that_has_gone(command: str) -> None:
    found = shell(f"kvgen {command} | head -c 10")
    assert found.returncode == 0 and len(found.stdout) == 10 and found.stderr == ""
    found = shell(f"kvgen {command} | true; exit ${{PIPESTATUS[0]}}")
    assert found.returncode in (0, 1) and found.stderr == ""


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full", "<&-", "<&- 2>&-"])
def test_what_is_said_beside_results_keeps_nothing_from_them(where: str, tmp_path: Path) -> None:
    out = tmp_path / "gla.py"
    found = shell(f"kvgen compile gla -o {out} {where}")
    assert found.returncode == 0 and str(out) in found.stdout and "Traceback" not in found.stderr
    assert out.read_text().startswith("# gla")
    assert shell(f"kvgen wisdom show gla --gpu nothing {where}").returncode == 0
    (tmp_path / "bad.yaml").write_text("kvgen: 1\n")
    assert shell(f"kvgen show {tmp_path}/bad.yaml {where}").returncode == 1


def test_no_other_file_takes_the_place_of_a_stream(tmp_path: Path) -> None:
    """What is opened first would have stdout's number, and results would go into it."""
    out = tmp_path / "gla.py"
    found = shell(f"kvgen compile gla -o {out} <&- >&- 2>&-")
    assert found.returncode == 1 and found.stderr == ""
    plain = shell(f"kvgen compile gla -o {tmp_path}/other.py")
    assert plain.returncode == 0 and out.read_text() == (tmp_path / "other.py").read_text()
