"""Every noun of kvgen has a home: nothing outside it compares with, matches, keys by or tests for
the names of what lives there."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pytest
from jinja2 import nodes as jn
from places import ROOT

from kvgen.formats.registry import RECORDS, STATES
from kvgen.functions.registry import FUNCTIONS
from kvgen.kernels.registry import KERNELS

# calls that look something up by their first argument
LOOKUPS = ("get", "pop", "setdefault", "fromkeys", "count", "index", "remove", "startswith")


def nothing(node: ast.AST) -> set[str]:
    return set()


@dataclass(frozen=True)
class Home:
    """Where the entries of one kind live, and their names. except_for: what may name them too.
    else_meant: the names that mean something else at a node of a tree."""

    noun: str
    names: Callable[[], Iterable[str]]
    folder: Path
    except_for: tuple[Path, ...] = (ROOT / "cli.py",)
    else_meant: Callable[[ast.AST], set[str]] = nothing


def format_names() -> set[str]:
    """What specs call formats, and what planes are called behind the state's name."""
    suffixes = {plane.suffix for each in STATES.values() for plane in each.planes}
    return {*STATES, *RECORDS, *suffixes} - {""}


def kinds(node: ast.AST) -> set[str]:
    """An input is a kind of tensor and of leaf, too: so it is in comparisons with such a kind, and
    beside the other kinds."""
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
    compared = any(isinstance(x, ast.Attribute) and x.attr in ("op", "kind") for x in sides)
    beside = {each.value for each in decisive(node)} & {"param", "state", "carried"}
    return {"input"} if compared or beside else set()


HOMES = [
    Home("function", lambda: FUNCTIONS, ROOT / "kvgen" / "functions"),
    Home("format", format_names, ROOT / "kvgen" / "formats", else_meant=kinds),
    Home(
        "kernel",
        lambda: (kernel.name for kernel in KERNELS),
        ROOT / "kvgen" / "kernels",
        # what templates call the kernels' scopes are names of its own; a module's functions, its
        # features and what its host launches are called as kernels are, in modules without kvgen
        (
            ROOT / "cli.py",
            *(
                ROOT / "kvgen" / "codegen" / f"{name}.py"
                for name in ("context", "features", "signatures")
            ),
            ROOT / "kvgen" / "rendering" / "render.py",
            *(ROOT / "kvgen" / "runtime").glob("*.py"),
        ),
    ),
]


def strings(node: ast.AST | None) -> Iterator[ast.Constant]:
    """The strings that an expression is, or that a display or a sum of displays is made of."""
    match node:
        case ast.Constant(value=str()):
            yield node
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            for part in parts:
                yield from strings(part)
        case ast.JoinedStr(values=parts):
            for part in parts:
                yield from strings(part)
        case ast.BinOp(left=left, right=right):
            yield from strings(left)
            yield from strings(right)
        case ast.Starred(value=value) | ast.Call(args=[value]):
            yield from strings(value)


def decisive(node: ast.AST) -> Iterator[ast.Constant]:
    """The strings by which a node of a module's tree decides or looks something up."""
    match node:
        case ast.Compare():
            for side in (node.left, *node.comparators):
                yield from strings(side)
        case ast.MatchValue(value=value):
            yield from strings(value)
        case ast.Dict(keys=keys):
            for key in keys:
                yield from strings(key)
        case ast.Set():
            yield from strings(node)
        case ast.Subscript(slice=key):
            yield from strings(key)
        case ast.Call(func=ast.Attribute(attr=name), args=[first, *_]) if name in LOOKUPS:
            yield from strings(first)
        case ast.Assign(value=value) | ast.AnnAssign(value=value):
            # a collection with a name is there to be searched
            if not isinstance(value, ast.Constant):
                yield from strings(value)


def found_in(
    text: str, names: set[str], else_meant: Callable[[ast.AST], set[str]] = nothing
) -> list[str]:
    """The lines of a module's text that decide by one of the names."""
    found: dict[ast.Constant, None] = {}
    for node in ast.walk(ast.parse(text)):
        asked = names - else_meant(node)
        found.update((each, None) for each in decisive(node) if each.value in asked)
    return [f"{each.lineno}: {each.value!r}" for each in found]


def found_in_template(text: str, names: set[str]) -> list[str]:
    """The same of a template: comparisons, membership, subscripts and what loops go over."""
    env = jinja2.Environment(line_statement_prefix="#:")
    parents = env.parse(text).find_all((jn.Compare, jn.Getitem, jn.Test, jn.For))
    found = [
        each
        for parent in parents
        for child in ([parent.iter] if isinstance(parent, jn.For) else [parent])
        for each in ([child] if isinstance(child, jn.Const) else child.find_all(jn.Const))
    ]
    return sorted({f"{each.lineno}: {each.value!r}" for each in found if each.value in names})


def elsewhere(home: Home, folder: str, pattern: str) -> list[Path]:
    files = [*(ROOT / folder).rglob(pattern), *([ROOT / "cli.py"] if pattern == "*.py" else [])]
    outside = [path for path in files if home.folder not in path.parents]
    return sorted(set(outside) - set(home.except_for))


@pytest.mark.parametrize("home", HOMES, ids=lambda home: home.noun)
def test_nothing_elsewhere_decides_by_a_name(home: Home) -> None:
    names = set(home.names())
    modules, templates = elsewhere(home, "kvgen", "*.py"), elsewhere(home, "templates", "*.jinja")
    assert names and len(modules) > 10 and len(templates) > 10
    found: list[str] = []
    for path in (*modules, *templates):
        text = path.read_text(encoding="utf-8")
        is_module = path in modules
        lines = (
            found_in(text, names, home.else_meant) if is_module else found_in_template(text, names)
        )
        found += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "if node.op == 'exp': pass",
        "if node.op in ('log', 'exp'): pass",
        "if name not in {'exp'} | other: pass",
        "match node.op:\n    case 'log' | 'exp': pass",
        "match node:\n    case Node(op='exp'): pass",
        "match node.op, node.args:\n    case 'exp', (of,): pass",
        "TABLE = {'exp': 1}",
        "SLOW = ('div', 'exp')",
        "SLOW: frozenset[str] = frozenset(['div', 'exp'])",
        "TABLE['exp']",
        "TABLE.get('exp')",
    ],
)
def test_what_decides_is_found(text: str) -> None:
    assert [line.partition(" ")[2] for line in found_in(text, {"exp"})] == ["'exp'"]


@pytest.mark.parametrize("text", ["write('exp')", "help = 'exp'", "f'exp({x})'", "x = exp(y)"])
def test_what_only_says_a_name_is_not(text: str) -> None:
    assert found_in(text, {"exp"}) == []


@pytest.mark.parametrize(
    "text",
    [
        '#: if "exp" in helpers\n#: endif',
        "{{ 1 if op == 'exp' }}",
        "{{ table['exp'] }}",
        '#: for name in ("log", "exp")\n#: endfor',
    ],
)
def test_what_decides_in_a_template_is_found(text: str) -> None:
    assert found_in_template(text, {"exp"}) == ["1: 'exp'"]
    assert found_in_template("{{ say('exp') }}", {"exp"}) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("storage.records == 'input'", "input"),
        ("match records:\n    case 'input': pass", "input"),
        ("BYTES = {'float32': 4, 'split': 4}", "float32"),
        ("planes = [state, f'{state}_lo']", "_lo"),
    ],
)
def test_a_format_is_found(text: str, name: str) -> None:
    assert f"{name!r}" in [line.partition(" ")[2] for line in found_in(text, format_names(), kinds)]


@pytest.mark.parametrize(
    "text", ["node.op == 'input'", "leaf in ('input', 'param')", "LEAVES = ('input', 'carried')"]
)
def test_a_kind_of_tensor_is_no_format(text: str) -> None:
    assert found_in(text, format_names(), kinds) == []
