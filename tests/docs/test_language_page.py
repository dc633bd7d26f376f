"""docs/language.md: its specs compile and compute what they say, its errors are kvgen's, and
it names all that the language has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT

from kvgen import compiler
from kvgen.checking.check import check
from kvgen.diagnostics import SpecError
from kvgen.formats.registry import RECORDS, STATES
from kvgen.functions.registry import FUNCTIONS
from kvgen.language import constants, declarations, lines, names, source, spec, statements, step
from kvgen.language.overrides import SHAPE
from kvgen.language.spec import SAMPLES

PAGE = ROOT / "docs" / "language.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the pages are in the repository only")


def text() -> str:
    return PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""


SPECS = re.findall(r"^```yaml\n(.*?)^```$", text(), re.M | re.S)
SMALL = {"H": 1, "HV": 2, "K": 12, "V": 10}


@pytest.mark.parametrize("given", SPECS[:-1], ids=lambda given: given.splitlines()[1])
def test_a_spec_computes_what_it_says(given: str) -> None:
    sizes = {f"sizes.{axis}": str(size) for axis, size in SMALL.items()}
    analysis = compiler.analyse(given, sizes)
    assert not analysis.warnings
    report = check(analysis, "cpu", only=("dropped steps, repeated layers",))
    assert report.ok, [row for row in report.rows if not row.ok]


def test_a_refusal_is_as_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SPECS[-1])
    with pytest.raises(SpecError) as refused:
        compiler.analyse(Path("mine.yaml"))
    shown = re.search(r"^```\n(error\[.*?)\n```$", text(), re.M | re.S)
    assert shown and shown[1] == str(refused.value)


@pytest.mark.parametrize("word", [*FUNCTIONS, *SHAPE, *STATES, *RECORDS, *SAMPLES])
def test_every_word_of_the_language_is_there(word: str) -> None:
    assert re.search(rf"`[^`\n]*\b{word}\b[^`\n]*`", text())


@pytest.mark.parametrize(
    "limit",
    [
        declarations.MAX_SIZE,
        declarations.MAX_NAMES,
        names.MAX_NAME,
        source.MAX_BYTES // 1024,
        spec.MAX_BUFFER,
        constants.MAX_EXPONENT,
        lines.MAX_STEP // 1024,
        lines.MAX_STATEMENT,
        statements.MAX_PARTS,
        statements.MAX_LOOPS,
        step.MAX_STATEMENTS,
        step.MAX_ALL_PARTS,
    ],
)
def test_limits_are_those_of_the_compiler(limit: int) -> None:
    assert re.search(rf"\b{limit:,}\b", text())


def carried(axes: str) -> bool:
    """Whether a state may have these axes beside the matrix."""
    given = SPECS[-1].replace("softpuls", "softplus").replace("outer(v, k)", "outer(k, v)")
    given = given.replace("K, V]}", f"K, V], n: {axes}}}").replace("  o =", "  n = 0 * n\n  o =")
    try:
        compiler.analyse(given)
    except SpecError:
        return False
    return True


@pytest.mark.parametrize(
    "axes", ["[]", "[H]", "[HV]", "[K]", "[V]", "[H, K]", "[HV, K]", "[H, V]", "[HV, V]"]
)
def test_carried_states_are_those_of_the_compiler(axes: str) -> None:
    allowed = re.search(r"Carried states\*\* are all others: (.*?)\. They", text(), re.S)
    assert allowed and (f"`{axes}`" in allowed[1]) == carried(axes)
