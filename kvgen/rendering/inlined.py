"""`kvgen.runtime` as text of a module: what it reaches of each file, as it stands.

A feature brings a file of its own; a module's other text and these files say which definitions
they need, those which others, and a method is there where something that is calls one of its name,
or where nothing in all of the runtime does: that is what callers are offered.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import kvgen.runtime
from kvgen.codegen.features import DECODE, EXTEND, SHORT, VERIFY

FOLDER = Path(kvgen.runtime.__file__).parent
OWN = {DECODE: "steps", VERIFY: "drafts", EXTEND: "prompts", SHORT: "paged"}
# what a caller calls, then what the cache is made of, then the cache, and the one of short contexts
CALLS = ("steps", "drafts", "prompts", "windows")
PARTS = ("numbers", "table", "device", "arguments", "calls", "launches", "blocks", "memory")
CACHE = ("storage", "kernels", "contents", "cache", "past", "finish", "ops")
PAGED = ("paged_storage", "pages", "paged_kernels", "paged")
FILES = (*CALLS, *PARTS, *CACHE, *PAGED)

OUTSIDE = ("torch", "triton", "triton.language")
KERNELS_NEED = ("import torch", "import triton", "import triton.language as tl")


@dataclass(frozen=True)
class Part:
    """A statement of a file or of a class in it, with its lines and the comment above.

    name: what it defines, if anything. names, attributes: what it speaks of, its members aside.
    members: of a class, the statements in it.
    """

    name: str | None
    lines: tuple[str, ...]
    names: frozenset[str]
    attributes: frozenset[str]
    members: tuple[Part, ...] = ()
    is_method: bool = False

    def stays(self, attributes: set[str]) -> bool:
        """Whether a class that is there has this member, where so much is spoken of."""
        return not self.is_method or self.name in attributes


@dataclass(frozen=True)
class File:
    """A file of the runtime. imports: name → the line that brings it from outside."""

    title: str
    imports: dict[str, tuple[str, str | None]]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Host:
    """The host's side of a module, as text."""

    imports: str
    calls: str
    cache: str


def host(features: Iterable[str], text: str) -> Host:
    """What a module with these features needs of the runtime. text: the rest of it."""
    own = tuple(OWN[feature] for feature in features)
    spoken, _ = _spoken(ast.parse(text))
    return _host(own, frozenset(spoken & _defined()))


@cache
def _host(own: tuple[str, ...], spoken: frozenset[str]) -> Host:
    names, attributes = _reached(own, spoken)

    def text(files: Iterable[str]) -> str:
        texts = (_text(each, each in own, names, attributes) for each in files)
        return "\n".join(filter(None, texts))

    return Host(_imports(names), text(CALLS), text((*PARTS, *CACHE, *PAGED)))


def _text(file: str, is_own: bool, names: set[str], attributes: set[str]) -> str:
    """What is reached of a file, under its title; nothing where that is nothing."""
    found = _file(file)
    lines: list[str] = []
    for part in found.parts:
        if is_own or part.name in names:
            lines += part.lines
            for member in part.members:
                lines += member.lines if member.stays(attributes) else ()
    return "\n".join(["", "", found.title, "", *lines, ""]) if lines else ""


def _imports(names: set[str]) -> str:
    """What is reached of the standard library; torch and triton, which kernels need too."""
    plain: set[str] = set()
    chosen: dict[str, set[str]] = {}
    for file in FILES:
        for name, (module, attribute) in _file(file).imports.items():
            if name in names and attribute is None:
                plain.add(module)
            elif name in names:
                chosen.setdefault(module, set()).add(name)
    own = [f"import {name}" for name in sorted(plain - set(OUTSIDE))]
    lines = {name: f"from {name} import {', '.join(sorted(chosen[name]))}" for name in chosen}
    own += [lines[name] for name in sorted(lines) if name not in OUTSIDE]
    beside = [lines[name] for name in OUTSIDE if name in lines]
    return "\n".join([*own, "", *KERNELS_NEED, *beside])


def _reached(own: tuple[str, ...], spoken: frozenset[str]) -> tuple[set[str], set[str]]:
    """The names and the attributes that the module speaks of, sooner or later."""
    parts = [(part, file in own) for file in FILES for part in _file(file).parts]
    names, attributes = set(spoken), _offered()
    while True:
        before = len(names) + len(attributes)
        for part, is_own in parts:
            if is_own or part.name in names:
                for each in (part, *(x for x in part.members if x.stays(attributes))):
                    names |= each.names
                    attributes |= each.attributes
        if len(names) + len(attributes) == before:
            return names, attributes


@cache
def _defined() -> frozenset[str]:
    return frozenset(part.name for file in FILES for part in _file(file).parts if part.name)


def _offered() -> set[str]:
    """The methods that nothing in the runtime calls but methods of that name."""
    parts = [part for file in FILES for part in _file(file).parts]
    members = [each for part in parts for each in part.members]
    called = frozenset().union(*(part.attributes for part in parts))
    called |= frozenset().union(*(each.attributes - {each.name} for each in members))
    return {str(each.name) for each in members if each.is_method} - called


@cache
def _file(name: str) -> File:
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    head, *body = ast.parse(source).body
    assert isinstance(head, ast.Expr) and isinstance(head.value, ast.Constant)
    comment = str(head.value.value).strip().splitlines()
    comment = [f"# {'-- ' if not i else ''}{line}".rstrip() for i, line in enumerate(comment)]
    imports = {name: each for node in body for name, each in _brought(node)}
    inner = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    last = max(node.end_lineno or 0 for node in body if node not in inner)
    parts = tuple(_parts(inner, source.splitlines(), last))
    return File("\n".join(comment), imports, parts)


def _brought(node: ast.stmt) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """What an import brings of what is not kvgen's."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname or alias.name), (alias.name, None)
    elif isinstance(node, ast.ImportFrom):
        ours = node.module == "__future__" or str(node.module).startswith("kvgen.")
        for alias in () if ours else node.names:
            yield alias.name, (str(node.module), alias.name)


def _parts(body: list[ast.stmt], lines: list[str], last: int) -> Iterator[Part]:
    """Statements with all lines from the one before on; a class's own end where its body begins."""
    for node in body:
        end, kept, members = node.end_lineno or last, [node], ()
        if isinstance(node, ast.ClassDef):
            end, kept = _start(node.body[0]) - 1, [*node.decorator_list, *node.bases]
            members = tuple(_parts(node.body, lines, end))
        names, attributes = _spoken(*kept)
        method = isinstance(node, ast.FunctionDef) and not node.name.startswith("__")
        yield Part(_name(node), tuple(lines[last:end]), names, attributes, members, method)
        last = node.end_lineno or end


def _start(node: ast.stmt) -> int:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
    return min(each.lineno for each in (node, *decorators))


def _name(node: ast.stmt) -> str | None:
    """What a statement defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return None


def _spoken(*nodes: ast.AST) -> tuple[frozenset[str], frozenset[str]]:
    """The names and the attributes in some trees."""
    each = [part for node in nodes for part in ast.walk(node)]
    names = frozenset(part.id for part in each if isinstance(part, ast.Name))
    return names, frozenset(part.attr for part in each if isinstance(part, ast.Attribute))
