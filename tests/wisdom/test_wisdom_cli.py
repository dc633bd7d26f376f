"""`kvgen wisdom`: what it shows, and records that come from and go to other machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import click
import commands
import pytest
from click.testing import Result
from places import ROOT
from tuned_records import H100, H200, record

import cli
from kvgen import files
from kvgen.compiler import analyse
from kvgen.kernels.registry import subjects_of
from kvgen.shipped import resolve
from kvgen.tuning import plan
from kvgen.wisdom import baking, places
from kvgen.wisdom.document import text_of
from kvgen.wisdom.folder import Folder
from kvgen.wisdom.identity import key_of
from kvgen.wisdom.record import Record
from kvgen.wisdom.store import Store

pytestmark = pytest.mark.usefixtures("own")

SPEC = "gated_deltanet"


def run(*args: str, input: str | None = None) -> Result:
    return commands.run("wisdom", *args, input=input)


def measured(kernel: str = "decode", batch: int = 4, gpu: str = H100, **other: object) -> Record:
    of = key_of(analyse(resolve(SPEC)), kernel, gpu, batch)
    return record(of, spec=SPEC, **other)  # type: ignore[arg-type]


def held(folder: Path) -> list[Record]:
    return Folder(folder, "").records()


# show --------------------------------------------------------------------------------------------


def test_show(own: Path) -> None:
    Store.default().add([measured(), measured("fold", 64, H200)])
    Folder(own.parent / "shipped", "shipped").add([measured(batch=16, us=30.0)])
    lines = run("show").stdout.splitlines()
    assert lines[0].split()[:4] == ["spec", "GPU", "form", "H/HV"]
    assert len(lines) == 4
    assert lines[1].split()[:5] == [SPEC, *H100.split()]
    shown = " ".join(lines[1].split())
    chosen = " ".join(f"{name}={value}" for name, value in measured().config.items())
    assert shown.endswith(f"16/32 decode 4 12 50% full {chosen} $KVGEN_WISDOM")
    assert lines[-1].endswith("shipped")
    assert len(run("show", SPEC, "--gpu", "h200").stdout.splitlines()) == 2
    none = run("show", "gla")
    assert none.exit_code == 0 and none.stdout == ""
    assert "no records of gla: kvgen tune gla --gpu" in none.stderr and str(own) in none.stderr
    other = run("show", SPEC, "--gpu", "A100").stderr
    assert f"no records of {SPEC} for a GPU with 'A100' in its name" in other


def test_show_says_how_the_state_is_kept() -> None:
    split = analyse(resolve(SPEC), {"storage.state": "split", "sizes.HV": "16"})
    other = analyse(resolve(SPEC), {"storage.layout": "vk", "sizes.K": "64"})
    own = {"state": "float16", "layout": "vk"}
    Store.default().add([
        measured(),
        record(key_of(split, "decode", H100, 4), spec=SPEC),
        record(key_of(other, "decode", H100, 4), spec=SPEC),
        record(replace(key_of(other, "decode", H100, 4), form="f" * 12), spec=SPEC),
        record(spec="mine", storage=own),
    ])  # fmt: skip
    text = run("show").stdout
    for expected in (
        "  float32, K 128, V 128 (",
        "  split, K 128, V 128 (",
        "  float32, layout vk, K 64, V 128 (",
        "  ?, K 64, V 128 (ffffffffffff)",
        "  float16, layout vk, K 16, V 16 (0123456789ab)",
    ):
        assert text.count(expected) == 1, text
    rows = json.loads(run("show", SPEC, "--json").stdout)
    kept = [row["storage"] and row["storage"]["state"] for row in rows]
    assert sorted(kept, key=str) == [None, "float32", "float32", "split"]


def test_show_json() -> None:
    Store.default().add([measured()])
    (row,) = json.loads(run("show", "--json").stdout)
    assert row["spec"] == SPEC and row["us"] == [11.0, 12.0, 13.0]
    assert row["folder"]["name"] == "$KVGEN_WISDOM"


def test_a_spec_is_meant_by_its_name(own: Path) -> None:
    Store.default().add([measured()])
    text = resolve(SPEC).read_text()
    (own.parent / "copy.yaml").write_text(text)
    assert run("show", "copy.yaml").stdout == run("show", SPEC).stdout != ""
    assert run("show", "nowhere.yaml").exit_code == 2
    (own.parent / "bad.yaml").write_text("nothing")
    assert "no spec" in run("show", "bad.yaml").stderr


# why ---------------------------------------------------------------------------------------------


def test_why() -> None:
    Store.default().add([measured(), measured("recurrent", 4, env={"triton": "3.5.0"})])
    result = run("why", SPEC)
    assert result.exit_code == 0, result.output
    text = result.stdout
    for expected in (
        "exact: full effort, 2026-11-23",
        "aged: tuned with triton 3.5.0, here is 3.6.1 (kvgen tune gated_deltanet --gpu)",
        "seed: tuned for batch 4, not 1",
        f"estimate: nothing tuned on {H100}",
    ):
        assert expected in text
    assert text.count(" decode ") == 5
    # batches with one answer share a row
    assert [
        line.split("fold")[1].split("estimate")[0].strip()
        for line in text.splitlines()
        if "fold" in line
    ] == ["1, 4, 16, 64, 256"]


def answers(*args: str) -> dict[str, str]:
    """Kernel -> the answer, of rows for one batch."""
    rows = json.loads(run("why", *args, "--json").stdout)
    return {row["kernel"]: row["reason"] for row in rows}


def test_why_a_batch_that_shares_a_key() -> None:
    """A record stands for all batches up to a power of two, and was tuned for one of them."""
    Store.default().add([measured(batch=64), measured("fold", 64, at={"batch": 48})])
    for asked, decode, fold in (
        ("64", "exact: full effort", "seed: tuned for batch 48, not 64"),
        ("48", "seed: tuned for batch 64, not 48", "exact: full effort"),
        ("33", "seed: tuned for batch 64, not 33", "seed: tuned for batch 48, not 33"),
        ("16", "seed: tuned for batch 64, not 16", "seed: tuned for batch 48, not 16"),
    ):
        found = answers(SPEC, "--batch", asked)
        assert found["decode"].startswith(decode) and found["fold"].startswith(fold)
    shown = run("why", SPEC, "--batch", "48").stdout
    assert " decode     48     seed: tuned for batch 64, not 48, full effort" in shown
    assert not any("exact" in line for line in shown.splitlines() if " 64 " in line)


READERS = """
kvgen: 1
name: readers
sizes: {H: 2, HV: 2, K: 16, V: 16}
inputs: {q: [H, K], p: [H, K], r: [H, K], s: [H, K], t: [H, K], k: [H, K], v: [HV, V]}
state: {S: [HV, K, V]}
step: |
  S = S + outer(k, v)
  o = q @ S + tanh(p @ S) + tanh(r @ S) + tanh(s @ S) + tanh(t @ S)
"""


@pytest.mark.parametrize(("chains", "tokens"), [(False, 4), (True, 8)])
def test_what_is_tuned_is_what_is_asked_for(chains: bool, tokens: int) -> None:
    """Where a recurrence has no kernel for chains, `verify` is tuned with as many tokens."""
    Path("readers.yaml").write_text(READERS)
    spec = SPEC if chains else "readers.yaml"
    analysis = analyse(resolve(spec))
    names = {subject.name for subject in subjects_of(analysis.form)}
    assert ("chain" in names) == chains
    records = [
        record(plan.key(analysis, goal, H100), spec=analysis.spec.name, config={"PAGES": 1})
        for goal in plan.goals(analysis, plan.Options((64,), "full", 100.0))
    ]
    Store.default().add(records)
    found = answers(spec, "--batch", "64")
    assert set(found) == {each.key.kernel for each in records} == names
    assert all(reason.startswith("exact") for reason in found.values()), found
    (verify,) = (each for each in records if each.key.kernel == "verify")
    assert tokens == verify.key.shape.T
    assert baking.known(analysis)[H100]["verify"][64].record == verify


def test_why_another_gpu_and_another_form() -> None:
    Store.default().add([measured(batch=64)])
    rows = json.loads(run("why", SPEC, "--gpu", "B200", "--batch", "48", "--json").stdout)
    (decode,) = [row for row in rows if row["kernel"] == "decode"]
    assert decode["tier"] == "estimate" and decode["record"] is None and decode["batch"] == 48
    assert [near["differs"] for near in decode["near"]] == [[f"on {H100}", "batch 64, not 48"]]
    split = run(
        "why", SPEC, "--gpu", "h100", "--set", "storage.state=split", "--batch", "64"
    ).stdout
    assert "nearest" in split and "another form (" in split
    many = json.loads(run("why", SPEC, "--json").stdout)
    assert {row["gpu"] for row in many} == {H100}


def test_why_where_nothing_is_known() -> None:
    result = run("why", SPEC)
    assert result.exit_code == 0 and result.stdout == ""
    assert f"no GPU is known: kvgen tune {SPEC} --gpu" in result.stderr
    assert "estimate" in run("why", SPEC, "--gpu", "H100").stdout


# exchange ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["export", "show", "forget"])
def test_what_cannot_be_a_spec_s_name(command: str) -> None:
    for name in ("mine records.json", "./x", "", "k-1"):
        found = run(command, name)
        assert found.exit_code == 2 and f"'{name}' is neither the file of a spec" in found.stderr
        assert ("kvgen wisdom export > " in found.stderr) == (command == "export")
    assert "export > 'mine records.json'" in run("export", "mine records.json").stderr


@pytest.mark.parametrize("command", ["export", "show", "forget"])
def test_a_name_that_nothing_has(command: str) -> None:
    Store.default().add([record(spec="mine")])
    for name, help in (
        ("mamb2", "did you mean 'mamba2'?"),
        ("mine2", "did you mean 'mine'?"),
        ("zzz", "one of your own is named by its file"),
    ):
        found = run(command, name)
        assert found.exit_code == 2 and found.stdout == ""
        text = f"'{name}' is neither a shipped spec nor one that has records: {help}"
        assert text in " ".join(found.stderr.split())


def test_a_record_outlives_its_spec(own: Path) -> None:
    Store.default().add([record(spec="gone")])
    assert len(run("show", "gone").stdout.splitlines()) == 2
    # that of another GPU is one, too
    other = run("show", "gone", "--gpu", "A100")
    assert other.exit_code == 0 and "no records of gone for a GPU with 'A100'" in other.stderr
    assert run("export", "gone").stdout == text_of([record(spec="gone")])
    assert run("forget", "gone", "--yes").exit_code == 0
    assert run("show", "gone").exit_code == 2
    # a spec without records is there by its file
    (own.parent / "gone.yaml").write_text(resolve(SPEC).read_text().replace(SPEC, "gone"))
    none = run("show", "gone.yaml")
    assert none.exit_code == 0 and "no records of gone: kvgen tune gone.yaml" in none.stderr


def test_export_and_import(own: Path) -> None:
    mine = [measured(), measured(batch=16), measured(gpu=H200)]
    Store.default().add(mine)
    Folder(own.parent / "shipped", "shipped").add([measured(batch=64)])
    exported = run("export").stdout
    assert exported == text_of(mine)
    Path("mine.json").write_text(exported)
    assert run("import", "mine.json").stdout == f"+0 ~0 =3 in {own}\n"
    assert run("export", "--gpu", "h200", SPEC).stdout == text_of([measured(gpu=H200)])
    assert run("forget", "--all", "--yes").exit_code == 0 and held(own) == []
    Store.default().add([measured(us=99.0)])
    assert run("import", "mine.json").stdout == f"+2 ~1 =0 in {own}\n"
    assert run("export").stdout == exported


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("12.0", '"fast"'), "is broken: record 1: us is 'fast'"),
        (("]}\n", ""), "is broken: line"),
        (('"kvgen_wisdom": 1', '"kvgen_wisdom": 9'), "is of wisdom version 9"),
        (('"spec": "gated_deltanet"', '"spec": "../../evil"'), "spec is '../../evil'"),
    ],
)
def test_import_is_all_or_nothing(change: tuple[str, str], says: str, own: Path) -> None:
    text = text_of([measured(), measured(batch=16)])
    Path("bad.json").write_text(text.replace(*change, 1) if change[1] else text[: -len(change[0])])
    result = run("import", "bad.json")
    assert result.exit_code == 1 and result.stdout == "" and says in result.stderr
    assert not own.exists()


def test_merge(own: Path) -> None:
    Path("a.json").write_text(text_of([measured(us=10.0), measured(batch=16)]))
    Folder(Path("b"), "").add([measured(us=20.0), measured(gpu=H200)])
    for sources in (("a.json", "b"), ("b", "a.json", "b", "a.json")):
        result = run("merge", *sources, "-o", "c.json")
        assert result.stdout == "3 records in c.json\n", result.output
        best = [measured(us=10.0), measured(batch=16), measured(gpu=H200)]
        assert Path("c.json").read_text() == text_of(best)
    assert not own.exists()
    Path("empty").mkdir()
    for wrong, says in (("empty", "holds no wisdom"), ("none.json", "No such file")):
        result = run("merge", "a.json", wrong, "-o", "d.json")
        assert result.exit_code == 1 and says in result.stderr and not Path("d.json").exists()
    Path("future.json").write_text('{"kvgen_wisdom": 2}')
    result = run("merge", "a.json", "-o", "future.json")
    assert result.exit_code == 1 and "stays as it is" in result.stderr
    assert Path("future.json").read_text() == '{"kvgen_wisdom": 2}'


# pipes, devices, and places that are none ---------------------------------------------------------


def test_import_reads_what_comes_through_a_pipe(own: Path) -> None:
    os.mkfifo("pipe")
    data = text_of([measured()])
    writer = threading.Thread(target=lambda: Path("pipe").write_text(data))
    writer.start()
    assert run("import", "pipe").stdout == f"+1 ~0 =0 in {own}\n"
    writer.join()


@pytest.mark.parametrize(
    ("name", "says"), [("/dev/zero", "it is longer than 1 MiB"), ("pipe", "is broken: line 1")]
)
def test_import_ends(name: str, says: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody writes to a pipe, and where no end comes."""
    monkeypatch.setattr(files, "MOST", 1 << 20)
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    os.mkfifo("pipe")
    result = run("import", name)
    assert result.exit_code == 1 and says in result.stderr and not own.exists()


def test_merge_reads_no_device_and_writes_into_one(own: Path) -> None:
    Path("a.json").write_text(text_of([measured()]))
    result = run("merge", "a.json", "-o", "/dev/full")
    assert result.exit_code == 1 and "No space left on device" in result.stderr
    assert run("merge", "a.json", "-o", "/dev/null").exit_code == 0
    (own / "gpu").mkdir(parents=True)
    os.mkfifo(own / "gpu/a.json")
    result = run("merge", str(own), "-o", "c.json")
    assert result.exit_code == 1 and "it is a pipe, not a file" in result.stderr


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KVGEN_WISDOM", "~nouser/x", "KVGEN_WISDOM names '~nouser/x', and nobody knows that home"),
        ("KVGEN_CACHE_DIR", "~nouser", "KVGEN_CACHE_DIR names '~nouser', and nobody"),
    ],
)
def test_a_place_that_is_none(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    if name == "KVGEN_CACHE_DIR":
        with pytest.raises(places.PlaceError, match=says):
            places.cache_folder()
        return
    for args in (("wisdom", "show"), ("wisdom", "why", SPEC), ("compile", SPEC)):
        result = commands.run(*args)
        assert result.exit_code == 2 and result.stderr == f"error: {says}\n"


def test_a_home_that_nobody_knows(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What KVGEN_WISDOM names does without one."""
    monkeypatch.setattr(places, "_home", no_home)
    assert [each.root for each in Store.default().folders] == [own, own.parent / "shipped"]
    monkeypatch.delenv("KVGEN_WISDOM")
    result = run("show")
    assert result.exit_code == 2 and result.stderr == "error: nobody knows\n"
    monkeypatch.undo()
    with pytest.raises(places.PlaceError, match="set HOME or KVGEN_WISDOM"):
        places._home(Path("~/.local/share/kvgen"), "KVGEN_WISDOM")


def no_home(path: Path, variable: str) -> Path:
    raise places.PlaceError("nobody knows")


# forget ------------------------------------------------------------------------------------------


def test_forget(own: Path) -> None:
    mine = [measured(), measured(batch=16), measured(gpu=H200)]
    Store.default().add([*mine, record()])
    refused = run("forget", SPEC, input="n\n")
    assert refused.exit_code == 1 and "forget 3 records in" in refused.stderr
    assert len(held(own)) == 4
    assert run("forget", "--gpu", "H200", "--yes").stdout == "1 records forgotten\n"
    assert run("forget", SPEC, input="y\n").stdout == "2 records forgotten\n"
    assert held(own) == [record()]
    nothing = run("forget", SPEC, "--yes")
    assert nothing.exit_code == 1 and "no such records" in nothing.stderr


@pytest.mark.parametrize(
    "args", [("forget",), ("forget", SPEC, "--all"), ("merge", "-o", "c.json")]
)
def test_wrong_usage(args: tuple[str, ...], own: Path) -> None:
    Store.default().add([measured()])
    assert run(*args).exit_code == 2
    assert len(held(own)) == 1


def test_help_of_the_commands(golden) -> None:
    group = cli.cli.commands["wisdom"]
    assert isinstance(group, click.Group)
    text = "\n".join(run(name, "--help").stdout for name in group.commands)
    assert golden("wisdom/help.txt") == text


def test_warnings_are_notes() -> None:
    with cli.warnings_noted():
        shown = warnings.formatwarning(UserWarning("\x1b[2J"), UserWarning, "file.py", 3)
    assert shown == "warning: \\x1b[2J\n"
    shown = warnings.formatwarning(UserWarning("text"), UserWarning, "file.py", 3)
    assert shown.startswith("file.py:3: UserWarning")


def test_a_broken_file_is_a_note(own: Path) -> None:
    (own / "gpu").mkdir(parents=True)
    (own / "gpu/x.json").write_text("nonsense")
    command = [sys.executable, "-m", "kvgen", "wisdom", "show"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"warning: {own}/gpu/x.json is broken (line 1: Expecting value)" in result.stderr
    assert ".py" not in result.stderr
