"""`kvgen tune` as a command: interrupted, killed, twice at once, without a GPU."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import patience
import pytest
from click.testing import CliRunner, Result
from places import ROOT
from tuners import SMALL, FakeCompilers, command, tuner

import cli
from benchmarks import family
from kvgen.probing.compilers import Compiled
from kvgen.tuning.trials import Trials
from kvgen.wisdom.folder import Folder, WisdomWarning
from kvgen.wisdom.store import Store

TUNE = ("tune", "gated_deltanet", "--gpu", "--effort", "quick", "--batch", "4,16")
SETS = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]


def trials(folder: Path) -> dict[str, list[Any]]:
    """What was measured, by study."""
    found = (folder / "cache" / "trials").glob("*/*.jsonl")
    return {path.name.rsplit("-", 1)[0]: Trials(path, {}).read() for path in sorted(found)}


def asked(log: Path) -> list[str]:
    if not log.exists():
        return []
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        f"gated_deltanet-{r['kernel']}-B{r['batch']} {sorted(r['config'].items())}"
        for r in requests
        if r["do"] == "time"
    ]


def until(true: Callable[[], bool], process: Any) -> None:
    def runs() -> None:
        assert process.poll() is None, process.communicate()

    patience.until(true, runs)


def ended(process: Any, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=patience.PATIENCE)
    assert process.returncode == code, (out, err)
    return out, err


def test_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """The torn line is forgotten, everything else is measured once."""
    first, second = tmp_path / "first", tmp_path / "second"
    process = command(tmp_path, *TUNE, seconds=0.05, log=str(first))
    until(lambda: sum(map(len, trials(tmp_path).values())) >= 20, process)
    process.kill()
    process.communicate()
    before = {f"{name} {sorted(o.config.items())}" for name in trials(tmp_path)
              for o in trials(tmp_path)[name]}  # fmt: skip
    assert 20 <= len(before) < 150
    [path, *_] = sorted((tmp_path / "cache").glob("trials/*/*-decode-B4-*.jsonl")) or sorted(
        (tmp_path / "cache").glob("trials/*/*.jsonl")
    )
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"config": {"TILE": 16, "num_wa')
    assert not list((tmp_path / "wisdom").glob("*/*.json"))
    out, err = ended(command(tmp_path, *TUNE, log=str(second)))
    assert "everything was tried" in err
    assert not set(asked(second)) & before, "measured again"
    assert len(set(asked(second))) == len(asked(second))
    assert path.read_bytes().startswith(whole) and b'"num_wa\n' not in path.read_bytes()
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "recurrent", "recurrent", "decode", "decode", "fold", "fold", "buffer",
    ]  # fmt: skip
    # and now the store answers
    third = tmp_path / "third"
    out, err = ended(command(tmp_path, *TUNE, log=str(third)))
    assert "known already" in err and len(out.splitlines()) == 8 and not third.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_was_measured(how: int, tmp_path: Path) -> None:
    process = command(tmp_path, *TUNE, seconds=0.05)
    until(lambda: len(trials(tmp_path).get("gated_deltanet-decode-B4", [])) >= 3, process)
    process.send_signal(how)
    out, err = ended(process, 130)
    assert "interrupted, after" in err and "kept in" in err and "Traceback" not in err
    assert "(cut short)" in out
    records = Folder(tmp_path / "wisdom", "test").records()
    assert records and all(record.effort == "quick" for record in records)
    assert any(record.at.get("cut") for record in records)


def test_an_interrupt_as_json(tmp_path: Path) -> None:
    process = command(tmp_path, *TUNE, "--json", seconds=0.05)
    until(lambda: len(trials(tmp_path).get("gated_deltanet-decode-B4", [])) >= 3, process)
    process.send_signal(signal.SIGINT)
    out, _ = ended(process, 130)
    [found] = json.loads(out)
    assert found["interrupted"] and found["records"]


def test_an_interrupted_repetition_replaces_nothing(tmp_path: Path) -> None:
    ended(command(tmp_path, *TUNE))
    before = Folder(tmp_path / "wisdom", "test").records()
    process = command(tmp_path, *TUNE, "--force", hang={"do": "steps"}, log=str(tmp_path / "log"))
    log = tmp_path / "log"
    until(lambda: log.exists() and '"do": "steps"' in log.read_text(), process)
    process.send_signal(signal.SIGINT)
    ended(process, 130)
    after = {record.key: record for record in Folder(tmp_path / "wisdom", "test").records()}
    for record in before:
        if record.key.kernel == "decode":
            assert after[record.key] == record


def test_interrupted_before_anything(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = command(tmp_path, *TUNE, hang={"do": "hello"}, log=str(log))
    until(log.exists, process)
    process.send_signal(signal.SIGINT)
    out, err = ended(process, 130)
    assert out == "" and "Traceback" not in err


def test_two_at_once(tmp_path: Path) -> None:
    """On one store and one cache folder, each on its GPU: nothing of either is lost."""
    one = command(tmp_path, *TUNE, device="0", seconds=0.01)
    two = command(tmp_path, *TUNE[:-1], "4,64", device="1", seconds=0.01)
    for process in (one, two):
        _, err = ended(process)
        assert "everything was tried" in err
    records = Folder(tmp_path / "wisdom", "test").records()
    decodes = {r.key.shape.B for r in records if r.key.kernel == "decode"}
    assert decodes == {4, 16, 64}
    for path in (tmp_path / "cache").glob("trials/*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert "study" in lines[0] and all("config" in line for line in lines[1:])
    assert not list(tmp_path.rglob("*.bad"))


def test_one_gpu_is_for_one_tuner(tmp_path: Path) -> None:
    """The second waits until the first has ended, however that ends."""
    first = command(tmp_path, *TUNE, hang={"do": "begin"})
    until(lambda: any((tmp_path / "cache").glob("gpus/*.pid")), first)
    log = tmp_path / "log"
    second = command(tmp_path, *TUNE, log=str(log))
    until(log.exists, second)
    time.sleep(1.5)
    assert len(log.read_text().splitlines()) == 1, "it asks for more than which GPU this is"
    first.kill()
    first.communicate()
    _, err = ended(second)
    assert f"Test GPU is being tuned on by process {first.pid}; waiting for its end" in err
    assert err.count("waiting for its end") == 1 and "everything was tried" in err


def test_of_several_gpus_one_is_taken(tmp_path: Path) -> None:
    first = command(tmp_path, *TUNE, device="1", hang={"do": "begin"})
    until(lambda: any((tmp_path / "cache").glob("gpus/*.pid")), first)
    log = tmp_path / "log"
    moods = {"hello": {"count": 2}, "log": str(log)}
    _, err = ended(command(tmp_path, *TUNE, device="0,1", **moods))
    assert f"left out: Test GPU, which process {first.pid} is tuning on" in err
    times = [json.loads(line) for line in log.read_text().splitlines()]
    assert {each["device"] for each in times if each["do"] == "time"} == {"0,1"}
    first.kill()
    first.communicate()


def test_what_fails(tmp_path: Path) -> None:
    process = command(tmp_path, *TUNE, crash={"do": "check"})
    _, err = ended(process, 1)
    assert "8 failures in a row" in err and "illegal memory access" in err
    assert "Traceback" not in err and not list((tmp_path / "wisdom").rglob("*.json"))


def test_an_error_keeps_what_was_measured(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, say: it is reported, and what came before it is stored."""
    real, count = Trials.add, itertools.count()

    def add(self: Trials, outcome: Any) -> None:
        if next(count) >= 20:
            raise OSError(28, "No space left on device")
        real(self, outcome)

    monkeypatch.setattr(Trials, "add", add)
    result = run(*TUNE[1:])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "No space left on device" in result.stderr.splitlines()[-1]
    assert f"kept in {tmp_path / 'wisdom'}" in result.stderr and "(cut short)" in result.stdout
    assert Folder(tmp_path / "wisdom", "test").records()


def test_what_cannot_be_kept_is_printed(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "add", full)
    result = run(*TUNE[1:])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert len(result.stdout.splitlines()) == 8
    message = "error: gated_deltanet: it cannot be kept: No space left on device"
    assert result.stderr.splitlines()[-1] == message


def test_force_where_the_first_folder_cannot_be_written(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("KVGEN_WISDOM", f"{first}{os.pathsep}{second}")
    (first / ".lock").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WisdomWarning)
        result = run(*TUNE[1:], "--force")
    assert result.exit_code == 0, result.output
    assert len(Folder(second, "test").records()) == 7


def test_plain_text_where_stderr_is_no_terminal(tmp_path: Path) -> None:
    out, err = ended(command(tmp_path, *TUNE))
    assert "\x1b" not in err + out and "\r" not in err + out
    assert re.search(r"^\[\d\d:\d\d\] decode, batch 4: .* of the floor\)", err, re.MULTILINE)
    assert f"kept in {tmp_path / 'wisdom'}" in err
    assert f"next: kvgen compile gated_deltanet {' '.join(SETS)}" in err
    head = out.splitlines()[0].split()
    assert head == ["kernel", "batch", "us", "untuned", "gain", "floor", "share", "configuration"]


# in this process ---------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("KVGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KVGEN_WISDOM", str(tmp_path / "wisdom"))
    monkeypatch.setattr("kvgen.tuning.plan.gpu_name", lambda: "Test GPU")

    def called(*args: str, **moods: Any) -> Result:
        monkeypatch.setattr("kvgen.tuning.tune.Tuner", lambda note: tuner(note, **moods))
        return CliRunner().invoke(cli.cli, ["tune", *args, *SETS], prog_name="kvgen")

    return called


def test_json(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run(*TUNE[1:], "--json", wrong={"TILE": 32, "do": "check"})
    assert result.exit_code == 0, result.output
    [found] = json.loads(result.stdout)
    assert found["gpu"] == "Test GPU" and found["why"] == "everything was tried"
    assert len(found["records"]) == 7 and found["refused"][0]["verdict"] == "wrong"
    assert all(record["config"].get("TILE") != 32 for record in found["records"])
    # what the page of the family is made of
    kept = family.tuned_of(found, "kvgen tune")
    assert kept is not None and kept.storage == "float32" and kept.rows
    again = run(*TUNE[1:], "--json")
    [known] = json.loads(again.stdout)
    assert "known already" in again.stderr and len(known["records"]) == 7
    forced = run(*TUNE[1:], "--json", "--force")
    assert "known already" not in forced.stderr and len(json.loads(forced.stdout)) == 1


def test_what_is_not_installed(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Is missed before anything is measured."""
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "optuna" else real(name)
    )
    result = run(*TUNE[1:], crash={"do": "hello"})
    assert result.exit_code == 1
    assert result.stderr == "error: this needs optuna: pip install 'kvgen[gpu]'\n"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ships with kvgen, which is nothing yet."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    monkeypatch.setattr("kvgen.wisdom.store.data_dir", lambda name: folder)
    return folder


def files(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def test_ship(run: Callable[..., Result], shipped: Path, tmp_path: Path) -> None:
    result = run(*TUNE[1:], "--ship")
    assert result.exit_code == 0, result.output
    assert files(shipped) == ["test-gpu/gated_deltanet.json"]
    assert f"kept in {shipped}" in result.stderr and not (tmp_path / "wisdom").exists()


def test_ship_what_is_known(run: Callable[..., Result], shipped: Path, tmp_path: Path) -> None:
    """From the user's store, without measuring it again."""
    run(*TUNE[1:])
    result = run(*TUNE[1:], "--ship", crash={"do": "hello"})
    assert result.exit_code == 0, result.output
    assert "known already" in result.stderr
    assert f"kept in {shipped} (+7 ~0 =0)" in result.stderr
    assert files(shipped) == ["test-gpu/gated_deltanet.json"]
    assert Folder(shipped, "").records() == Folder(tmp_path / "wisdom", "").records()


def test_dry_run(run: Callable[..., Result], tmp_path: Path) -> None:
    """Starts nothing, keeps nothing."""
    result = run("gated_deltanet", "--dry-run", "--batch", "4", "--json", crash={"do": "hello"})
    assert result.exit_code == 0, result.output
    rows = {row["kernel"]: row for row in json.loads(result.stdout)}
    assert {"recurrent", "decode", "fold", "buffer", "verify", "extend"} <= set(rows)
    assert rows["decode"]["timed at most"] == 120 < rows["decode"]["legal"]
    assert rows["recurrent"]["timed at most"] == rows["recurrent"]["legal"]
    quick = run("gated_deltanet", "--dry-run", "--effort", "quick").stdout
    assert "decode" in quick and "verify" not in quick
    assert not list(tmp_path.iterdir())


def test_an_estimate(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: says that it is one, and is not kept."""
    begun: list[FakeCompilers] = []

    def compilers(target: str) -> FakeCompilers:
        begun.append(FakeCompilers())
        begun[-1].target = target
        return begun[-1]

    monkeypatch.setattr("kvgen.tuning.estimates.Compilers", compilers)
    result = run("gated_deltanet", "--batch", "4,64", "--target", "sm_80")
    assert result.exit_code == 0, result.output
    # before anything is compiled, how much there is to do
    said, first, *_ = result.stderr.splitlines()
    assert said == (
        "without --gpu nothing is timed: compiling gated_deltanet for an estimate for sm_80"
    )
    counted = r"compiling gated_deltanet: \d+ programs, \d+ at a time, about \d+ min \.\.\."
    assert re.fullmatch(counted, first)
    assert "an estimate for sm_80, from compiled programs" in result.stderr
    assert "nothing was timed or kept" in result.stderr
    assert [each.target for each in begun] == ["sm_80"] and begun[0].begun
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert {(row[1], row[2]) for row in rows} == {
        (kernel, batch) for kernel in ("recurrent", "decode", "fold") for batch in ("4", "64")
    }
    assert not (tmp_path / "wisdom").exists() and not list(tmp_path.rglob("*.jsonl"))


def test_an_estimate_without_a_compiler(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else real(name)
    )
    result = run("gated_deltanet", "--batch", "4")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("error: this needs triton: pip install 'kvgen[run]'\n")


def test_an_estimate_where_nothing_compiles(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Says why, for the first configuration."""
    broken = FakeCompilers(lambda case: Compiled(error="ptxas is not to be found"))
    monkeypatch.setattr("kvgen.tuning.estimates.Compilers", lambda target: broken)
    result = run("gated_deltanet", "--batch", "4")
    assert (result.exit_code, result.stdout) == (1, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: gated_deltanet: nothing compiles for sm_90: recurrent (TILE=")
    assert last.endswith("ptxas is not to be found")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--batch", "0"), ("--batch", "x"), ("--budget", "soon"), ("--effort", "some")],
)
def test_bad_options(option: str, value: str, run: Callable[..., Result]) -> None:
    result = run("gated_deltanet", option, value)
    assert result.exit_code == 2 and f"Invalid value for '{option}'" in result.stderr


def test_the_store_answers_at_once(tmp_path: Path) -> None:
    """Without torch, Triton or Optuna; the GPU's name comes from the driver's tool."""
    ended(command(tmp_path, *TUNE))
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-aaaa, Test GPU'\n")
    tool.chmod(0o755)
    arguments = [*TUNE, *SETS]
    code = (
        f"import cli, sys; cli.cli({arguments}, standalone_mode=False);"
        "sys.exit(repr([m for m in ('torch', 'triton', 'optuna') if m in sys.modules] or ''))"
    )
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "KVGEN_CACHE_DIR": str(tmp_path / "cache"), "KVGEN_WISDOM": str(tmp_path / "wisdom"),
    }  # fmt: skip
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "known already" in result.stderr and len(result.stdout.splitlines()) == 8
    assert result.stderr.splitlines()[-1] == "''"


@pytest.mark.parametrize(
    ("visible", "order", "name"),
    [
        (None, "PCI_BUS_ID", "First"),
        ("1", "PCI_BUS_ID", "Second"),
        ("GPU-bb", None, "Second"),
        ("", "PCI_BUS_ID", None),
        ("7", "PCI_BUS_ID", None),
        # which of the two CUDA has put first is not known
        (None, None, None),
        ("1", "FASTEST_FIRST", None),
    ],
)
def test_the_gpus_name(
    visible: str | None,
    order: str | None,
    name: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kvgen.tuning import plan

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, GPU-aa, First\\n1, GPU-bb, Second\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for variable, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    assert plan.gpu_name() == name


def test_the_name_of_equal_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvgen.tuning import plan

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, GPU-aa, Same\\n1, GPU-bb, Same\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert plan.gpu_name() == "Same"


def test_no_tool_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kvgen.tuning import plan

    monkeypatch.setenv("PATH", str(tmp_path))
    assert plan.gpu_name() is None
