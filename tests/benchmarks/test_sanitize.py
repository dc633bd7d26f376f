"""What compute-sanitizer says is understood, and a checker that did not end is no pass."""

from __future__ import annotations

import json
import re
import stat
import sys
from pathlib import Path

import pytest

from benchmarks import sanitize
from kvgen.compiler import analyse, emit
from kvgen.shipped import resolve

MEMCHECK = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at _decode_kernel+0x1f0 in /tmp/kvgen-1/gated_deltanet.py:2140
=========     by thread (3,0,0) in block (7,0,0)
=========     Address 0x7f3c00000200 is out of bounds
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: cuLaunchKernelEx [0x2cd5c0] in libcuda.so.1
========= Invalid __global__ read of size 4 bytes
=========     at _decode_kernel+0x1f0 in /tmp/kvgen-1/gated_deltanet.py:2140
=========     by thread (4,0,0) in block (7,0,0)
========= Invalid __shared__ write of size 16 bytes
=========     at void at::native::fill(int, float)+0x20
========= ERROR SUMMARY: 3 errors
"""
RACECHECK = """\
========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at _fold_kernel+0x40 in /a/m.py:12
=========     and Read access at _fold_kernel+0x60 in /a/m.py:15 [256 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
NOTHING = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"


def test_reports_are_counted_by_what_and_where() -> None:
    first, second = sanitize.reports_of(MEMCHECK)
    assert first.what == "Invalid __global__ read of size 4 bytes" and first.times == 2
    assert first.places == ("_decode_kernel gated_deltanet.py:2140",)
    assert second.what == "Invalid __shared__ write of size 16 bytes" and second.times == 1


def test_a_race_has_both_accesses() -> None:
    (report,) = sanitize.reports_of(RACECHECK)
    assert report.what == "Error: Race reported between Write access and Read access"
    assert report.places == ("_fold_kernel m.py:12", "_fold_kernel m.py:15")


def test_nothing_is_no_report() -> None:
    assert sanitize.reports_of(NOTHING) == ()


FULL = """\
========= COMPUTE-SANITIZER
========= Program hit cudaErrorMemoryAllocation (error 2) due to "out of memory" on CUDA API call to cudaMalloc.
========= ERROR SUMMARY: 1 error
"""  # noqa: E501


def sanitizer(folder: Path, log: str, status: int = 0) -> Path:
    """A program in its place, that writes what it is to find and does not run the check."""
    program = folder / "compute-sanitizer"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "if '--version' in sys.argv:\n    print('Version 2025.1')\n    raise SystemExit\n"
        "assert os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'] == '1'\n"
        "assert sys.argv[sys.argv.index('kvgen') + 1:][:2] == ['check', 'mamba2'], sys.argv\n"
        f"open(sys.argv[sys.argv.index('--log-file') + 1], 'w').write({log!r})\n"
        f"print('what the check says')\nraise SystemExit({status})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return program


@pytest.mark.parametrize(
    ("log", "status", "ended", "reports"),
    [
        (NOTHING, 0, True, 0),
        # the check itself has failed
        (NOTHING, 1, True, 0),
        (MEMCHECK, 0, True, 2),
        ("========= Error: Device not supported\n", 1, False, 0),
    ],
)
def test_what_ran_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: str,
    status: int,
    ended: bool,
    reports: int,
) -> None:
    program, file = sanitizer(tmp_path, log, status), tmp_path / "found.json"
    words = ["sanitize", "mamba2", "--sanitizer", str(program), "--json", str(file)]
    monkeypatch.setattr(sys, "argv", words)
    bad = bool(status or reports or not ended)
    assert sanitize.main() == int(bad)
    found = json.loads(file.read_text(encoding="utf-8"))
    (run,) = found["runs"]
    assert (run["ended"], len(run["reports"]), run["passed"]) == (ended, reports, not status)
    assert ("what the check says" in run["said"]) == (not ended or bool(status))
    assert found["about"]["sanitizer"] == "Version 2025.1"


def test_a_full_gpu_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = sanitizer(tmp_path, FULL, status=1)
    monkeypatch.setattr(sys, "argv", ["sanitize", "mamba2", "--sanitizer", str(program)])
    assert sanitize.main() == 1
    assert "out of the GPU's memory: take a smaller --together" in capsys.readouterr().out


def test_a_modules_kernels_are_looked_at_and_no_others() -> None:
    command = sanitize.command_of("sanitizer", "memcheck", Path("log"), "mamba2", [])
    kind, _, pattern = command[command.index("--kernel-name") + 1].partition("=")
    assert kind == "regex"
    kernels = re.findall(r"^def (_\w+_kernel)\(", emit(analyse(resolve("mamba2"))), re.M)
    assert "_decode_kernel" in kernels and len(kernels) > 5
    assert all(re.search(pattern, name) for name in kernels)
    others = ("_ZN2at6native29vectorized_elementwise_kernelILi4E", "nvjet_sm90_tst_64x8")
    assert not any(re.search(pattern, name) for name in others)


def test_without_the_tool_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sanitize", "--sanitizer", "no-such-tool"])
    with pytest.raises(SystemExit, match="no-such-tool: not found, expected compute-sanitizer"):
        sanitize.main()
