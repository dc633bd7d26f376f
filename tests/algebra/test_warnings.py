"""Warnings: what a spec holds for nothing, in the style of errors, and who hears of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from places import TESTS

import kvgen
from cli import cli
from kvgen import compiler
from kvgen.shipped import shipped

WARNED = TESTS / "warned"
FILES = sorted(path.stem for path in WARNED.glob("*.yaml"))
UNUSED = (WARNED / "unused-input.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_warned(name: str, golden: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(WARNED)
    analysis = compiler.analyse(Path(f"{name}.yaml"))
    assert any(each.code == name for each in analysis.warnings)
    assert all(each.severity == "warning" for each in analysis.warnings)
    assert golden(f"../warned/{name}.txt") == analysis.report + "\n"


def test_every_code_is_shown() -> None:
    source = Path(kvgen.__file__).parent / "algebra" / "idle.py"
    text = source.read_text(encoding="utf-8")
    shown = "".join(path.read_text(encoding="utf-8") for path in WARNED.glob("*.txt"))
    for code in ("unused-size", "unused-value", "unread-state", "forgotten-state"):
        assert f'"{code}"' in text and f"warning[{code}]" in shown
    for code in ("unused-input", "unused-parameter"):
        assert f"warning[{code}]" in shown


@pytest.mark.parametrize("path", [each.path for each in shipped()], ids=lambda path: path.stem)
def test_no_shipped_spec_warns(path: Path) -> None:
    assert not compiler.analyse(path).warnings


def said(*statements: str) -> list[str]:
    """The codes of the warnings, and the names that they are about."""
    text = (
        UNUSED.partition("step: |")[0] + "step: |\n" + "".join(f"  {line}\n" for line in statements)
    )
    used = "  o = o + (x + b + g + A + bias) * (P + sum(kk[0]))\n"
    lines, found = text.splitlines(), compiler.analyse(text + used).warnings
    spans = [(each.code, each.span) for each in found if each.span]
    return [f"{code} {lines[at.line - 1][at.column - 1 : at.end - 1]}" for code, at in spans]


def test_values_that_are_used() -> None:
    # what only one turn of a loop uses, and what a state alone keeps, has an effect
    assert said("S = S + outer(k, v)", "for i in range(N):", "  y = kk[i]", "o = (q + y) @ S") == []
    assert said("S = S + outer(k, v)", "o = q @ S", "o = o + 1") == []
    assert said("o = q @ S", "S = S + outer(k, v)") == []


def test_states_that_are_forgotten() -> None:
    assert said("S = 0 * S + outer(k, v)", "o = q @ S") == ["forgotten-state S"]
    assert said("S = 0 * sigmoid(b) * S + outer(k, v)", "o = q @ S") == ["forgotten-state S"]
    # what is written may hold what was read
    assert said("S = outer(k, k @ S) + outer(k, v)", "o = q @ S") == []
    assert said("S = outer(k, k) @ S + outer(k, v)", "o = q @ S") == []


def test_values_that_are_not() -> None:
    assert said("S = S + outer(k, v)", "o = q @ S", "S = S * 1") == ["unused-value S"]
    for same in ("I @ S", "-(-S)", "S * 2 / 2", "0.5 * 2 * S"):
        found = said("S = S + outer(k, v)", f"S = {same}", "o = q @ S")
        assert found == ["unused-value S"], same
    for same in ("-(-k)", "k ** 1", "I @ k"):
        assert said(f"k = {same}", "S = S + outer(k, v)", "o = q @ S") == ["unused-value k"], same
    assert said("S = S + outer(k, v)", "for i in range(N):", "  q = q * (1 + i)", "o = q @ S") == []
    assert said("k = q", "S = S + outer(k, v)", "o = q @ S") == ["unused-input k"]
    assert said("S = S + outer(k, v)", "y = q", "y = k", "o = q @ S") == ["unused-value y"] * 2


def test_many_of_one_kind_are_one_warning() -> None:
    dead = [f"x{number} = b + {number}" for number in range(40)]
    found = said("S = S + outer(k, v)", *dead[:3], "o = q @ S")
    assert found == [f"unused-value x{number}" for number in range(3)]
    text = UNUSED.partition("step: |")[0] + "step: |\n"
    lines = [*dead[:20], "S = S + outer(k, v)", *dead[20:], "y = x39", "o = q @ S"]
    warnings = compiler.analyse(text + "".join(f"  {line}\n" for line in lines)).warnings
    many, inside = (each for each in warnings if each.code == "unused-value")
    begin = text.count("\n") + 1
    assert many.span and many.span.line == begin
    assert many.message == (
        "'x0' is assigned here and never used; so it is with 39 more statements, of lines "
        f"{begin + 1} to {begin + 19}, {begin + 21} to {begin + 39}, {begin + 41}"
    )
    assert inside.message == "'x39' is used only in what is itself never used"


def test_the_command_line_warns_and_writes(tmp_path: Path) -> None:
    path = WARNED / "unread-state.yaml"
    run = CliRunner().invoke(cli, ["compile", str(path), "-o", str(tmp_path / "out.py")])
    assert run.exit_code == 0 and (tmp_path / "out.py").is_file()
    assert run.stderr.startswith("warning[unused-input]: ") and "5 warnings" in run.stderr
    assert "warning" not in run.stdout
    run = CliRunner().invoke(cli, ["explain", str(path)])
    assert run.exit_code == 0 and run.stderr.startswith("warning[unused-input]: ")
    for command in (["compile", "-o", str(tmp_path / "out.py")], ["explain"]):
        run = CliRunner().invoke(cli, [*command, str(path), "--json"])
        found = json.loads(run.stdout)["warnings"]
        assert [each["code"] for each in found] == [
            "unused-input",
            *["unread-state"] * 3,
            "slow-window",
        ]
        assert found[1]["severity"] == "warning" and found[1]["line"] == 5


def test_python_warns_its_caller() -> None:
    with pytest.warns(kvgen.SpecWarning, match="never read") as caught:
        kvgen.compile(WARNED / "unread-state.yaml")
    assert caught[0].filename == __file__


def test_python_takes_shipped_names_texts_and_overrides() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sizes = {"sizes.HV": 32, "sizes.K": 16}
        module = kvgen.compile("gated_deltanet", **sizes)
        assert module.SPEC["name"] == "gated_deltanet" and "K: 16" in module.SPEC["text"]
        assert kvgen.load("gated_deltanet", **sizes) is not None
        text = (WARNED.parent.parent / "kvgen" / "specs" / "gla.yaml").read_text(encoding="utf-8")
        assert kvgen.compile(text, name="other").SPEC["name"] == "other"
        assert kvgen.load("gla", name="other").SPEC["name"] == "other"
    for call in (kvgen.compile, kvgen.load):
        with pytest.raises(LookupError, match="did you mean 'gated_deltanet'"):
            call("gated_deltanet_")
