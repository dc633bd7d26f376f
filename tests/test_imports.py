"""Modules import in one direction, and nothing heavy before it is needed."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT

PACKAGE = ROOT / "kvgen"
HEAVY = ("torch", "triton", "optuna", "numpy", "ruamel")
# entry points: they may name any module, and no module names them
EDGES = ("__init__", "__main__")


def imported(path: Path) -> set[str]:
    """The modules of kvgen that a module imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(level=0):
                names |= {node.module or ""}
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            case ast.ImportFrom():
                pytest.fail(f"{path.name}: relative import")
    return {name for name in names if name.split(".")[0] == "kvgen"}


def modules() -> dict[str, set[str]]:
    """Every module by its dotted name, with those it imports."""
    found: dict[str, Path] = {}
    for path in PACKAGE.rglob("*.py"):
        if path.stem not in EDGES:
            found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return {name: imported(path) & set(found) - {name} for name, path in found.items()}


def folders() -> dict[str, set[str]]:
    """The same by folder; a module of kvgen's own folder stands for itself."""
    grouped: dict[str, set[str]] = {}
    for name, others in modules().items():
        grouped.setdefault(folder(name), set()).update(map(folder, others))
    return {name: others - {name} for name, others in grouped.items()}


def folder(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("graph", [modules, folders])
def test_arrows_go_in_one_direction(graph: Callable[[], dict[str, set[str]]]) -> None:
    assert len(graph()) > 10
    try:
        list(graphlib.TopologicalSorter(graph()).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_command_line_is_not_imported() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "kvgen.cli" not in imported(path), path.name


@pytest.mark.parametrize(
    "code",
    [
        "import kvgen; kvgen.__version__; dir(kvgen); kvgen.SpecError",
        "import cli",
        "import cli; cli.cli(['list'], standalone_mode=False)",
        "import cli; cli.cli(['--help'], standalone_mode=False)",
        "import cli; cli.cli(['compile', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    code += f"; import sys; sys.exit(repr([m for m in {HEAVY} if m in sys.modules] or ''))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr.strip() == "''"


def test_attributes_of_the_package() -> None:
    import kvgen

    assert issubclass(kvgen.SpecError, Exception)
    assert {"compile", "load", "SpecError", "__version__"} <= set(dir(kvgen))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = kvgen.nonsense  # type: ignore[attr-defined]
