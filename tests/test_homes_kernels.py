"""Kernels are known by name in their home alone: elsewhere no literal of a name is compared with,
matched, looked up or tested for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvgen.kernels.registry import KERNELS

ROOT = Path(__file__).parent.parent
NAMES = {kernel.name for kernel in KERNELS}
HOME = ROOT / "kvgen" / "kernels"
# the names there are those of templates' variables
TEMPLATES = ROOT / "kvgen" / "codegen" / "render.py"
FILES = [
    path
    for path in [*sorted((ROOT / "kvgen").rglob("*.py")), ROOT / "cli.py"]
    if HOME not in path.parents and path != TEMPLATES
]


def literals(node: ast.AST | None) -> Iterator[str]:
    """Those that a value may be: alone, in a collection, on either side of a choice."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            for part in parts:
                yield from literals(part)
        case ast.IfExp(body=one, orelse=other):
            yield from (*literals(one), *literals(other))
        case ast.Starred(value=value) | ast.BinOp(left=value):
            yield from literals(value)


def asked(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines, and literals that decide something there."""
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        match node:
            case ast.Compare(left=left, comparators=others):
                parts = [left, *others]
            case ast.MatchValue(value=value) | ast.Subscript(slice=value):
                parts = [value]
            case ast.Dict(keys=keys):
                parts = [*keys]
            case ast.Call(func=ast.Attribute(attr="get" | "pop" | "startswith"), args=[first, *_]):
                parts = [first]
        yield from ((part.lineno, text) for part in parts if part for text in literals(part))  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_kernel_is_known_by_name(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [f"line {line}: {text!r}" for line, text in asked(tree) if text in NAMES]
    assert not found


def test_what_counts_as_asking() -> None:
    text = """
if kernel == "decode" or kernel in ("fold", "verify"):
    table["chain"], {"short": 1}, table.get("extend")
match kernel:
    case "recurrent": pass
call("decode")
"""
    assert {name for _, name in asked(ast.parse(text))} == NAMES
