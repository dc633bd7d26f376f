"""The command line: help, exit codes, stdout and stderr, the start of a spec, speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run
from places import ROOT, TESTS

import cli
from kvgen import shipped

COMMANDS = ["list", "new", "show", "compile", "explain", "check", "bench", "tune", "wisdom"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_is_fast() -> None:
    """Nothing is imported that takes long: the processor's time says so of one machine alone."""
    command = [sys.executable, "-X", "importtime", "-m", "kvgen", "list"]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    imported = {line.split("|")[-1].strip() for line in found.stderr.splitlines()}
    assert "kvgen.shipped" in imported
    assert imported.isdisjoint({"jinja2", "numpy", "optuna", "torch", "triton"})
    # 240 of Python, rich, click and kvgen; torch alone would be more than 1,000
    assert len(imported) < 400


def test_help(golden) -> None:
    assert golden("help/kvgen.txt") == run("--help").stdout
    for command in COMMANDS:
        assert golden(f"help/{command}.txt") == run(command, "--help").stdout


def test_every_command_has_a_golden_help() -> None:
    assert list(cli.cli.commands) == COMMANDS
    files = {path.stem for path in (TESTS / "golden/help").glob("*.txt")}
    assert files == {"kvgen", *COMMANDS}


def test_list_reads_what_a_yaml_library_reads() -> None:
    from ruamel.yaml import YAML

    for spec in shipped.shipped():
        data = YAML(typ="safe", pure=True).load(spec.path.read_text(encoding="utf-8"))
        assert (spec.name, spec.title, spec.source) == (
            data["name"],
            data["title"],
            data["source"],
        )


def test_list_json_and_table_agree() -> None:
    names = [row["name"] for row in json.loads(run("list", "--json").stdout)]
    assert names == [line.split()[0] for line in run("list").stdout.splitlines()]
    assert names == sorted(names)


@pytest.mark.parametrize(
    "line",
    [
        ("title: Plain words, as in a paper", "Plain words, as in a paper"),
        ("title: 'single: quoted'   # a remark", "single: quoted"),
        ('title: "double # quoted"', "double # quoted"),
        ("title: no#comment here # but here", "no#comment here"),
        ("  title: nested", ""),
    ],
)
def test_titles(line: tuple[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "some.yaml").write_text(f"kvgen: 1\n{line[0]}\n")
    monkeypatch.setattr(shipped, "SPECS", folder)
    assert shipped.shipped()[0].title == line[1]


# exit codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ("compile",),
        ("compile", "nowhere.yaml"),
        ("compile", "."),
        ("compile", "/dev/null"),
        ("compile", "/dev/zero"),
        ("compile", "/dev/stdin"),
        ("compile", "a" * 5000),
        ("new", "mine", "--from", "/dev/zero"),
        ("explain", "gated_delta_nte"),
        ("show", "mine.yaml", "--set", "sizes.HV"),
        ("show", "mine.yaml", "--set", "=8"),
        ("compile", "mine.yaml", "--target", "sm_1"),
        ("compile", "mine.yaml", "-o", "mine.yaml"),
        ("compile", "mine.yaml", "-o", "./nowhere/"),
        ("compile", "mine.yaml", "-o", "-"),
        ("compile", "mine.yaml", "-o", "torch.py"),
        ("compile", "mine.yaml", "-o", "json.py"),
        ("check", "mine.yaml", "--device", "tpu"),
        ("bench", "mine.yaml", "--batch", "1,x"),
        ("bench", "mine.yaml", "--batch", "0"),
        ("bench", "mine.yaml", "--layers", "0"),
        ("bench", "mine.yaml", "--drafts", "17"),
        ("new", "class"),
        # refused by the language alone
        ("new", "decode"),
        ("new", "exp"),
        ("new", "I"),
        ("new", "a" * 65),
        ("new", "2fast"),
        ("new", "../escape"),
        ("new", "math"),
        ("new", "torch"),
        ("new", "a\x1b[31m"),
        ("tune", "mine.yaml", "--gpu", "--storage", "shared"),
        ("tune", "mine.yaml", "--gpu", "--storage", "journal:"),
        ("tune", "mine.yaml", "--gpu", "--storage", "journal:."),
        ("tune", "mine.yaml", "--gpu", "--storage", "redis://localhost"),
        ("no-such-command",),
    ],
)
def test_wrong_usage(args: tuple[str, ...], folder: Path) -> None:
    assert run("new", "mine").exit_code == 0
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "\x1b" not in result.stderr
    assert [path.name for path in folder.iterdir()] == ["mine.yaml"]


BAD = "kvgen: 1\nname: bad\nstep: |\n  o = nothing\n"


@pytest.mark.parametrize("command", ["show", "compile", "explain"])
def test_a_bad_spec(command: str, folder: Path) -> None:
    (folder / "bad.yaml").write_text(BAD)
    result = run(command, "bad.yaml")
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "error[" in result.stderr and "bad.yaml" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["bad.yaml"]


def test_a_bad_spec_as_json(folder: Path) -> None:
    (folder / "bad.yaml").write_text(BAD)
    result = run("explain", "bad.yaml", "--json")
    assert result.exit_code == 1
    for error in json.loads(result.stdout)["errors"]:
        assert {"code", "message", "path", "line", "column", "end", "help"} <= set(error)


def test_spec_that_is_nearly_a_shipped_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "specs").mkdir()
    (folder / "specs/gated_deltanet.yaml").write_text("kvgen: 1\n")
    monkeypatch.setattr(shipped, "SPECS", folder / "specs")
    for slip in ("gated_deltanett", "gated_deltanet.yaml", "./gated_delta_net.yaml"):
        assert "did you mean 'gated_deltanet'?" in run("show", slip).stderr
    assert "kvgen list" in run("show", "zzz").stderr
    # a shipped name stays one whatever lies in the working directory
    (folder / "gated_deltanet").write_text("")
    assert shipped.resolve("gated_deltanet") == folder / "specs/gated_deltanet.yaml"
    assert shipped.resolve("./gated_deltanet") == Path("gated_deltanet")


# printing ----------------------------------------------------------------------------------------


def test_text_of_a_spec_cannot_steer_the_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.yaml").write_text("title: \x1b[2Jgone [bold]\x9b1m\n")
    monkeypatch.setattr(shipped, "SPECS", folder)
    assert run("list").stdout == "evil  \\x1b[2Jgone [bold]\\x9b1m\n"


def test_tables_are_not_cut_off_in_a_pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    title = "long " * 80
    (folder / "long.yaml").write_text(f"title: {title}\nsource: here\n")
    monkeypatch.setattr(shipped, "SPECS", folder)
    assert run("list").stdout == f"long  {title.strip()}  here\n"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    from kvgen.terminal import print_json

    print_json({"a": [float("nan"), {"b": float("-inf")}], "c": 1.5, "d": None, "e": True})
    shown = capsys.readouterr().out
    assert json.loads(shown, parse_constant=pytest.fail) == {
        "a": ["nan", {"b": "-inf"}],
        "c": 1.5,
        "d": None,
        "e": True,
    }


# new ---------------------------------------------------------------------------------------------


def test_new_compiles_at_once(folder: Path) -> None:
    result = run("new", "mine")
    assert (result.exit_code, result.stdout) == (0, "mine.yaml\n")
    assert "name: mine\n" in (folder / "mine.yaml").read_text()
    result = run("compile", "mine.yaml")
    assert result.exit_code == 0, result.output
    assert (folder / "mine.py").is_file()
    assert "mine.py" in result.stdout


def test_new_from_a_spec_compiles_at_once(folder: Path) -> None:
    result = run("new", "mine", "--from", "gated_deltanet")
    assert result.exit_code == 0, result.output
    original = shipped.resolve("gated_deltanet").read_text()
    renamed = original.replace("name: gated_deltanet", "name: mine", 1)
    assert (folder / "mine.yaml").read_text() == renamed
    result = run("compile", "mine.yaml")
    assert result.exit_code == 0, result.output


def test_new_never_overwrites(folder: Path) -> None:
    (folder / "mine.yaml").write_text("precious")
    result = run("new", "mine")
    assert result.exit_code == 1
    assert "mine.yaml exists already" in result.stderr
    assert (folder / "mine.yaml").read_text() == "precious"


def test_new_from_a_spec_without_a_name(folder: Path) -> None:
    (folder / "odd.yaml").write_text("{kvgen: 1, name: odd}\n")
    result = run("new", "mine", "--from", "odd.yaml")
    assert result.exit_code == 1
    assert not (folder / "mine.yaml").exists()


# compile, explain, show --------------------------------------------------------------------------


def test_compile_says_what_it_wrote(folder: Path) -> None:
    out = folder / "somewhere"
    out.mkdir()
    result = run("compile", "gated_deltanet", "-o", str(out), "--set", "sizes.HV=32")
    assert result.exit_code == 0, result.output
    assert str(out / "gated_deltanet.py") in result.stdout
    assert result.stderr == ""
    written = (out / "gated_deltanet.py").stat().st_mtime_ns
    data = json.loads(run("compile", "gated_deltanet", "-o", str(out), "--json").stdout)
    assert data["module"] == str(out / "gated_deltanet.py")
    assert data["summary"] and data["kernels"] == []
    # the same text is not written again
    assert (out / "gated_deltanet.py").stat().st_mtime_ns == written


def test_compile_writes_into_a_device(folder: Path) -> None:
    """And says why where that is full; the device stays one."""
    (folder / "null").symlink_to("/dev/null")
    assert run("compile", "gla", "-o", "null").exit_code == 0
    (folder / "full").symlink_to("/dev/full")
    result = run("compile", "gla", "-o", "full")
    assert result.exit_code == 1 and "'full': No space left on device" in result.stderr
    assert all(Path(f"/dev/{name}").is_char_device() for name in ("null", "full"))


def test_compile_writes_over_what_is_no_text(folder: Path) -> None:
    (folder / "gla.py").write_bytes(bytes(range(256)))
    result = run("compile", "gla")
    assert result.exit_code == 0, result.output
    assert (folder / "gla.py").read_text(encoding="utf-8").startswith("# gla")


def test_a_spec_as_long_as_a_disk(folder: Path) -> None:
    with (folder / "long.yaml").open("wb") as file:
        file.truncate(1 << 40)
    for args in (("show", "long.yaml"), ("compile", "long.yaml")):
        result = run(*args)
        assert result.exit_code == 1 and "is longer than 65536 bytes" in result.stderr
    result = run("new", "mine", "--from", "long.yaml")
    assert result.exit_code == 1 and result.stderr == "error: 'long.yaml' is too long for a spec\n"
    # nor is what stands where the module goes read whole
    (folder / "gla.py").symlink_to("long.yaml")
    assert run("compile", "gla").exit_code == 0
    assert (folder / "long.yaml").read_text(encoding="utf-8").startswith("# gla")


def test_a_pipe_is_no_spec(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    result = run("compile", "pipe.yaml")
    assert result.exit_code == 2 and "is a pipe or a device, and a spec is a file" in result.stderr


def test_compile_names_the_file_it_cannot_write(folder: Path) -> None:
    result = run("compile", "gla", "-o", "nowhere/gla.py")
    assert result.exit_code == 1 and result.stdout == ""
    assert "'nowhere/gla.py': No such file or directory" in result.stderr
    assert not list(folder.iterdir())


def test_explain() -> None:
    result = run("explain", "gated_deltanet")
    assert result.exit_code == 0 and result.stdout and result.stderr == ""
    assert isinstance(json.loads(run("explain", "gated_deltanet", "--json").stdout), dict)


def test_spaces_around_what_is_set_or_listed(folder: Path) -> None:
    shown = run("show", "rwkv7", "--set", " sizes.K = 8").stdout
    assert shown == run("show", "rwkv7", "--set", "sizes.K=8").stdout
    assert run("compile", "rwkv7", "--with", "decode, verify").exit_code == 0


def test_show_prints_a_spec(folder: Path) -> None:
    result = run("show", "gated_deltanet", "--set", "sizes.HV=16")
    assert result.exit_code == 0, result.output
    (folder / "gated_deltanet.yaml").write_text(result.stdout)
    assert run("show", "./gated_deltanet.yaml").stdout == result.stdout
