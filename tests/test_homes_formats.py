"""A format's name is known to its own file alone: everything else asks the object.

`input` is also a kind of tensor and of leaf: it is no format's name beside `.op` or `.kind`, and
where the other kinds stand beside it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvgen.formats.catalogue import RECORDS, STATES

ROOT = Path(__file__).parent.parent
HOME = ROOT / "kvgen" / "formats"
NAMES = {*STATES, *RECORDS}
# what planes are called, after the state
SUFFIXES = {plane.suffix for each in STATES.values() for plane in each.planes} - {""}
FILES = [path for path in (ROOT / "kvgen").rglob("*.py") if HOME not in path.parents]
FILES += [ROOT / "cli.py"]
# what is measured and shown there is named in tables
PAGES = [x for name in ("benchmarks", "docs", "examples") for x in (ROOT / name).glob("*.py")]
TABLES = (ast.Dict, ast.Tuple, ast.List, ast.Set)
TEMPLATES = sorted((ROOT / "templates").rglob("*.jinja"))
KINDS = {"param", "state", "carried"}
# methods that look a text up, or compare it
LOOKUPS = {"get", "pop", "setdefault", "index", "count", "startswith", "endswith"}


def texts(nodes: list[ast.expr | None]) -> set[str]:
    return {x.value for x in nodes if isinstance(x, ast.Constant) and isinstance(x.value, str)}


def judged(node: ast.AST) -> set[str]:
    """The texts that a piece of code compares, matches, looks up or has as keys or members."""
    match node:
        case ast.Compare(left=left, comparators=others):
            found = texts([left, *others])
            if any(
                isinstance(x, ast.Attribute) and x.attr in ("op", "kind") for x in (left, *others)
            ):
                found.discard("input")
        case ast.Constant(value=str(text)) if text in SUFFIXES:
            return {text}
        case ast.MatchValue(value=value):
            found = texts([value])
        case ast.Dict(keys=keys):
            found = texts(keys)
        case ast.Subscript(slice=at):
            found = texts([at])
        case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
            found = texts([*elements])
        case ast.Call(func=ast.Attribute(attr=name), args=args) if name in LOOKUPS:
            found = texts([*args])
        case _:
            return set()
    return found - {"input"} if found & KINDS else found


def named(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if path in PAGES and isinstance(node, TABLES):
            continue
        for name in sorted(judged(node) & (NAMES | SUFFIXES)):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}: {name}"


def named_in_template(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    for code in re.findall(r"\{\{.*?\}\}|\{%.*?%\}|^\s*#:.*$", text, re.DOTALL | re.MULTILINE):
        for name in re.findall(r"""(["'])(\w+)\1""", code):
            if name[1] in NAMES:
                yield f"{path.name}: {code.strip()}"


def test_nothing_else_knows_a_format_by_its_name() -> None:
    assert [*(each for path in (*FILES, *PAGES) for each in named(path))] == []
    assert [*(each for path in TEMPLATES for each in named_in_template(path))] == []


@pytest.mark.parametrize(
    "text",
    [
        'x.state == "split"',
        '"float16" in names',
        'x in ("bfloat16", "float16")',
        'BYTES = {"float32": 4}',
        'BYTES["split"]',
        'BYTES.get("split")',
        "match x:\n    case 'input':\n        pass",
        'records == "input"',
        'f"{state}_hi"',
    ],
)
def test_such_a_name_is_found(text: str) -> None:
    assert any(judged(node) & (NAMES | SUFFIXES) for node in ast.walk(ast.parse(text)))


@pytest.mark.parametrize("text", ['node.op == "input"', 'leaf in ("input", "param")', 'f("split")'])
def test_other_meanings_are_not(text: str) -> None:
    assert not any(judged(node) & (NAMES | SUFFIXES) for node in ast.walk(ast.parse(text)))
