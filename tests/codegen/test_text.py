"""Nothing that makes kernels' lines finds anything out by reading lines: it neither parses text nor
looks into it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

FOLDERS = ("codegen", "kernels", "schedules", "printers")
PARSERS = {"ast", "re", "tokenize"}
# how text is made, and what lists, or objects of our own, have as well
ELSE = {"join", "format", "count", "index", "find"}
READING = {name for name in vars(str) if name[0] != "_"} - ELSE
# names, text of a spec, and what a caller asks for, none of which is text of a kernel
OTHERS = {
    "codegen/context.py": {"encode"},
    "codegen/features.py": {"split", "strip"},
    "codegen/literals.py": {"endswith", "replace", "splitlines"},
    "codegen/names.py": {"endswith", "lower", "split"},
    "codegen/reference.py": {"endswith"},
    "codegen/said.py": {"replace"},
    "kernels/size.py": {"removeprefix"},
    "schedules/written.py": {"split"},
}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module


def read_in(text: str) -> set[str]:
    """The parsers that a module imports, and the methods by which it looks into strings."""
    tree = ast.parse(text)
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    return (PARSERS & set(imports(tree))) | (READING & called)


def test_what_makes_lines_reads_none() -> None:
    found: dict[str, set[str]] = {}
    for folder in FOLDERS:
        paths = list((ROOT / "kvgen" / folder).rglob("*.py"))
        assert paths
        found |= {name_of(path): read_in(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: each for name, each in found.items() if each} == OTHERS


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT / "kvgen"))


@pytest.mark.parametrize(
    "text",
    ["import re", "from ast import parse", "line.startswith('x')", "f(x).removesuffix('.to')"],
)
def test_reading_is_found(text: str) -> None:
    assert read_in(text)
    assert not read_in("', '.join(lines) + '{}'.format(x) + str(x) + replace(x, y=1)")
