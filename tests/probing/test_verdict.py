"""What the programs of a module come to: rows, the line of a target, and how the command ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli import cli
from kvgen.probing import crosscompile, probe, verdict
from kvgen.probing.launches import Launch
from kvgen.probing.probe import KernelUsage

FITS = [
    KernelUsage("decode", "TILE=32 batch=1", 128, 0, 4096, None),
    KernelUsage("decode", "TILE=64 batch=64", 200, 0, 2048, None),
    KernelUsage("fold", "TILE=32", 64, 0, 0, None),
]
SPILLS = [
    KernelUsage("verify", "TILE=32 batch=1", 255, 24, 4096, None),
    KernelUsage("verify", "TILE=32 batch=64", 255, 1064, 4096, None),
    KernelUsage("chain", "TILE=32", 255, 8, 4096, None),
]
BROKEN = [
    KernelUsage("extend", "TILE=2", 32, 19600, 529408, None),
    KernelUsage("short_verify", "TILE=2", None, None, 0, "not compiled after 120 s"),
]


def test_a_row_is_the_worst_of_a_kernels_programs() -> None:
    rows = verdict.kernels([*FITS, *SPILLS, *BROKEN], "sm_90")
    assert [row.kernel for row in rows] == [
        "extend", "short_verify", "verify", "chain", "decode", "fold",
    ]  # fmt: skip
    found = {row.kernel: row for row in rows}
    assert found["decode"] == verdict.Kernel("decode", 2, 200, 0, 4096, None)
    assert found["verify"].spills == 1064 and found["verify"].found == "spills"
    assert found["short_verify"].registers is None


def test_the_line_of_a_target() -> None:
    assert verdict.line(verdict.kernels(FITS, "sm_90"), "sm_90") == "sm_90: 2 of 2 kernels fit"
    rows = verdict.kernels([*FITS, *SPILLS, *BROKEN], "sm_90")
    assert verdict.line(rows, "sm_90") == (
        "sm_90: 2 of 6 kernels fit; spill bytes of a thread: verify 1,064, chain 8; cannot be "
        "built: extend (529,408 bytes of shared memory, of 232,448), short_verify (not compiled "
        "after 120 s)"
    )


def test_shared_memory_is_a_targets_own() -> None:
    usage = KernelUsage("verify", "", 255, 0, 131072, None)
    found = {t: verdict.unfit(usage, t) for t in ("sm_80", "sm_90", "sm_120", "gfx942")}
    assert found["sm_80"] is found["sm_90"] is None
    assert "131,072 bytes of shared memory, of 101,376" in str(found["sm_120"])
    assert found["gfx942"]


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usages: Any, *more: str) -> Any:
    def probed(text: str, target: str, **options: Any) -> list[KernelUsage]:
        for usage in usages:
            options["told"](usage)
        return usages

    monkeypatch.setattr(probe, "probe", probed)
    command = ["compile", "gated_deltanet", "-o", str(tmp_path / "out.py"), "--target", "sm_90"]
    return CliRunner().invoke(cli, [*command, *more])


def test_the_command_ends_in_a_line_a_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = run(monkeypatch, tmp_path, [*FITS, *SPILLS], "--target", "sm_100")
    assert done.exit_code == 0
    last = done.stdout.splitlines()[-2:]
    assert [line.partition(":")[0] for line in last] == ["sm_90", "sm_100"]
    assert all("2 of 4 kernels fit; spill bytes of a thread: verify 1,064" in line for line in last)
    table = done.stdout.partition("\nsm_90 ")[2].splitlines()[:6]
    assert table and max(map(len, table)) < 80
    assert "TILE=32" not in done.stdout
    every = run(monkeypatch, tmp_path, [*FITS, *SPILLS], "--programs")
    assert "TILE=32 batch=1" in every.stdout


def test_what_cannot_be_built_is_said_at_once_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = run(monkeypatch, tmp_path, [*FITS, *BROKEN])
    assert done.exit_code == 1
    assert "sm_90: extend cannot be built: 529,408 bytes of shared memory" in done.stderr
    assert done.stderr.rstrip().endswith("error: kernels cannot be built for sm_90")
    assert done.stdout.splitlines()[-1].startswith("sm_90: 2 of 4 kernels fit; cannot be built: ")
    as_json = run(monkeypatch, tmp_path, [*FITS, *BROKEN], "--json")
    assert as_json.exit_code == 1
    found = json.loads(as_json.stdout)
    assert len(found["kernels"]) == 5 and found["kernels"][0]["config"] == "TILE=32 batch=1"
    (only,) = found["verdicts"]
    assert only["target"] == "sm_90" and only["kernels"][0]["kernel"] == "extend"


def test_no_other_program_of_a_kernel_that_hangs_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(launch: Launch, target: object, text: bool, pipe: Any) -> None:
        import os
        import time

        os.setpgid(0, 0)
        if launch.kernel == "hangs":
            time.sleep(60)
        pipe.send({"registers": 1, "spills": 0, "shared": 0, "error": None})

    monkeypatch.setattr(crosscompile, "_compile", compile)
    monkeypatch.setattr(crosscompile, "DEADLINE", 1.0)
    monkeypatch.setattr(crosscompile, "MOST_PROCESSES", 1)
    names = ["hangs", "fine", "hangs", "hangs"]
    launches = [Launch(name, "", NotImplemented, {}, {}, {}, {}) for name in names]
    found = {
        index: result["error"]
        for index, _, result in crosscompile._all_compiled(launches, NotImplemented, False)
    }
    assert found[0] == "not compiled after 1 s" and found[1] is None
    assert found[2] == found[3] == "not tried: another of its programs was not compiled after 1 s"
