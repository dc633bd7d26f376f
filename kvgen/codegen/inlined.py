"""`kvgen.runtime` as text of a module: each file as it stands, but for its head and its imports."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import kvgen.runtime

FOLDER = Path(kvgen.runtime.__file__).parent
# what a caller calls, then the cache, then what that is made of
CALLS = ("steps",)
CACHE = ("cache", "layers", "ops")
PARTS = ("numbers", "table", "device", "arguments", "calls", "launches", "memory")
SEVERAL = ("windows",)
SHORT = ("paged",)


def inlined(names: tuple[str, ...]) -> str:
    """These files one behind the other, under a line each that says what it is about."""
    return "\n".join(_body(name) for name in names)


def imports(names: tuple[str, ...]) -> str:
    """What these files import of the standard library, torch and triton."""
    plain: set[str] = set()
    chosen: dict[str, set[str]] = {}
    for name in names:
        for node in ast.parse(_source(name)).body:
            if isinstance(node, ast.Import):
                plain |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not _ours(node):
                chosen.setdefault(str(node.module), set()).update(a.name for a in node.names)
    plain -= {"torch", "triton", "triton.language"}
    lines = [f"import {name}" for name in sorted(plain)]
    lines += [f"from {name} import {', '.join(sorted(chosen[name]))}" for name in sorted(chosen)]
    return "\n".join(lines)


def _ours(node: ast.ImportFrom) -> bool:
    return node.module == "__future__" or str(node.module).startswith("kvgen.")


@cache
def _source(name: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8")


@cache
def _body(name: str) -> str:
    source = _source(name)
    body = ast.parse(source).body
    (head, *_), lines = body, source.splitlines()
    assert isinstance(head, ast.Expr) and isinstance(head.value, ast.Constant)
    last = max(
        node.end_lineno or 0 for node in body if isinstance(node, (ast.Import, ast.ImportFrom))
    )
    title = str(head.value.value).strip().splitlines()
    comment = "\n".join(
        f"# {'-- ' if not i else ''}{line}".rstrip() for i, line in enumerate(title)
    )
    return f"\n\n{comment}\n\n" + "\n".join(lines[last:]).strip("\n") + "\n"
