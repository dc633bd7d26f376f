"""Specs from strangers: none may hang the reader, exhaust memory, run code or escape a comment."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peak import peak
from places import ROOT

from kvgen.diagnostics import render
from kvgen.language import spec

GDN = (ROOT / "kvgen" / "specs" / "gated_deltanet.yaml").read_text(encoding="utf-8")
HEAD = GDN[: GDN.index("step: |")]


def step(*lines: str) -> str:
    return HEAD + "step: |\n" + "".join(f"  {line}\n" for line in lines)


def sized(value: str) -> str:
    return GDN.replace("K: 128", f"K: {value}")


BOMB = "a: &a [x, x, x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}, *{before}, *{before}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
NESTED = "".join(f"{'    ' * depth}for i{depth} in range(2147483647):\n  " for depth in range(40))

TEXTS = {
    "brackets": "[" * 60000 + "\n",
    "braces": "{" * 60000 + "\n",
    "brackets-by-line": "[\n" * 30000,
    "deep-maps": "\n".join("  " * depth + "a:" for depth in range(240)),
    "dashes": "- " * 30000 + "\n",
    "bomb": BOMB + GDN,
    "merge-bomb": "x: &x {<<: *x}\n" + GDN,
    "keys": "\n".join(f"k{i}: 1" for i in range(7000)),
    "one-long-key": GDN + "k" * 1900 + ": 1\n",
    "many-long-keys": GDN + "".join(f"{'k' * 1900}{i}: 1\n" for i in range(30)),
    "names": GDN.replace("  q: [", "".join(f"  n{i}: [HV]\n" for i in range(4000)) + "  q: ["),
    "not-text": "\0\n",
    "control": GDN.replace("title: ", "title: \x1b[2J"),
    "bidi": GDN.replace("title: ", "title: \N{RIGHT-TO-LEFT OVERRIDE}"),
    "surrogate": GDN.replace("title: ", "title: \ud800"),
    "tags": GDN.replace("kvgen: 1", "kvgen: !!python/object/apply:os.system ['echo']"),
    "directive": "%YAML 1.1\n---\n" + GDN,
    "odd-directive": "%YAML x.y\n---\n" + GDN,
    "documents": GDN + "---\n" + GDN,
    "huge-file": "#" * 70000 + "\n" + GDN,
    "huge-int": sized("9" * 1900),
    "int-of-all": sized("9" * 60000),
    "hex": sized("0x" + "f" * 1900),
    "float": sized("1e999999999"),
    "minus": sized("-1"),
    "infinite-size": sized(".inf"),
    "nan-range": GDN.replace("  b: [HV]", "  b: {axes: [HV], range: [.nan, 1]}"),
    "huge-range": GDN.replace("  b: [HV]", "  b: {axes: [HV], range: [0, 1e400]}"),
    "many-axes": GDN.replace("  b: [HV]", f"  b: [{', '.join(['HV'] * 400)}]"),
    "name-is-a-path": GDN.replace("name: gated_deltanet", "name: ../../etc/passwd"),
    "name-is-code": GDN.replace("name: gated_deltanet", 'name: \'x"""; import os\''),
    "step-is-a-map": HEAD + "step: {a: 1}\n",
    "step-in-quotes": HEAD + 'step: "o = q\\n"\n',
    "terms": step("x = " + " + ".join(["q"] * 480), "o = q @ S"),
    "1e5-terms": step(*["x = " + " + ".join(["q"] * 100)] * 40),
    "1e5-terms-on-rows": step("x = (q", *["+ q"] * 3000, ")"),
    "parentheses": step("o = " + "(" * 900 + "q" + ")" * 900),
    "parentheses-on-rows": step("o = (", *["("] * 3000),
    "signs": step("o = " + "-" * 1900 + "q"),
    "spaced-signs": step("o = " + "- " * 900 + "q"),
    "nots": step("o = " + "not " * 450 + "q"),
    "tildes": step("o = (" + "~(" * 30 + "q" + "))" * 15),
    "lambdas": step("o = " + "lambda: " * 240 + "q"),
    "powers": step("o = " + "q**" * 600 + "q"),
    "if-else": step("o = " + "q if q else " * 150 + "q"),
    "calls": step("o = q" + "()" * 900),
    "attributes": step("o = q" + ".T" * 900),
    "subscripts": step("o = q" + "[0]" * 600),
    "comparisons": step("o = " + "q<" * 900 + "q"),
    "power-tower": step("o = 9**9**9 * q @ S"),
    "power-of-power": step("o = " + "(" * 20 + "1.0000001" + "**64)" * 20 + " * q @ S"),
    "root-tower": step("o = " + "(" * 20 + "K" + "**0.5)" * 20 + " * q @ S"),
    "products": step("o = " + "1.23456789012345 * " * 90 + "q @ S"),
    "huge-exponent": step("o = q**1000000000 @ S"),
    "huge-float": step("o = 1e400 * q @ S"),
    "tiny-float": step("o = 1e-999999999 * q @ S"),
    "zero-float": step("o = 0e999999999 * q @ S", "x = 0e-999999999"),
    "long-int": step("o = " + "9" * 1900 + " * q"),
    "long-zeros": step("o = 0." + "0" * 1800 + "1 * q"),
    "range": step("for i in range(10**9):", "  o = q @ S"),
    "big-range": step("for i in range(1000000000):", "  o = q @ S"),
    "empty-turns": step("for i in range(1000000000):", "  S[0] = 1", "o = q @ S"),
    "nested-ranges": step(*NESTED.splitlines(), "    " * 40 + "  o = q @ S"),
    "ranges-that-multiply": step(
        *["  " * depth + f"for i{depth} in range(65536):" for depth in range(8)],
        "  " * 8 + "o = q @ S",
    ),
    "parts-that-multiply": step("for i in range(250):", "  x = " + " + ".join(["q"] * 120)),
    "squares": step("b = sigmoid(b)", *["b = b*b + b"] * 200, "o = b * q @ S"),
    "statements": step(*["x = q"] * 2000, "o = q @ S"),
    "broken-lines": step(*["x = ("] * 2000),
    "wrong-lines": step(*["x = y +"] * 1500),
    "unknown-names": step(*[f"x{i} = y{i}" for i in range(250)]),
    "foreign-letters": step(*["x = " + "ß " * 900] * 8),
    "indents": step(*[" " * (170 - i) + "x = q" for i in range(170)]),
    "deeper-indents": step(*[" " * i + "x = q" for i in range(170)]),
    "import": step("o = __import__('os').system('echo')"),
    "classes": step("o = ().__class__.__base__.__subclasses__()"),
    "f-string": step('o = f"{q}"'),
    "walrus": step("o = (x := q)"),
    "backslash": step("o = q \\", "  @ S"),
    "semicolons": step("o = q;" * 300),
    "comments": step(*["#" * 1000] * 15, "o = q @ S"),
    "only-comments": step("# nothing"),
    "docstring": step("o = q @ S  # \"\"\" '''"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_hostile_text_is_answered_soon(name: str) -> None:
    start = time.process_time()
    found, diagnostics = spec.read(TEXTS[name])
    report = render(diagnostics, "bad.yaml", TEXTS[name])
    assert time.process_time() - start < 5
    assert all(each.isprintable() for each in report.replace("\n", ""))
    assert len(report) < 40000
    if name not in ("squares", "docstring"):
        assert diagnostics, found


def test_many_options_at_once() -> None:
    _, found = spec.read(GDN, {f"{'x' * 60}{i}.y": "[" * 500 for i in range(200)})
    assert len(found) == 200
    for text in ("a\nb: 1", "&a x", "{a: 1, a: 2}", "\x1b", "1e400", "!!int 3", "[" * 3000):
        assert spec.read(GDN, {"buffer": text})[1], text


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml", "x" * 5000, "a\0b", "\ud800", ""):
        found, diagnostics = spec.read(path)
        assert found is None and [each.code for each in diagnostics] == ["unreadable"]
        render(diagnostics, str(path), "")


def test_memory_stays_small() -> None:
    """All hostile texts in one fresh process, which takes little more than Python does."""
    code = (
        "from tests.language.test_hostile import TEXTS, spec\n"
        "for text in TEXTS.values(): spec.read(text)"
    )
    assert peak(code) < 200


def test_nothing_evaluates_text() -> None:
    for path in (ROOT / "kvgen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                assert called not in ("eval", "sympify", "parse_expr"), path.name


def test_names_and_texts_stay_on_one_line_of_ascii_or_print() -> None:
    found, _ = spec.read(GDN.replace("title: Gated", 'title: "\\u2028\\n\\"\\"\\" Gated'))
    assert found is None
    found, _ = spec.read(GDN)
    assert found is not None
    assert all(each.source.isprintable() and each.source.isascii() for each in found.steps)


SNIPPETS = st.sampled_from(
    [*"kqSo=+-*/@()[],.:;#9K'^|\n", "**", "exp(", "l2norm(", "for i in range(2):", "1e9", "\n  "]
)


@given(st.lists(SNIPPETS, max_size=30))
@settings(max_examples=150)
def test_any_step_is_answered(words: list[str]) -> None:
    text = step(*" ".join(words).split("\n"))
    _, diagnostics = spec.read(text)
    for each in diagnostics:
        assert each.span
        source = text.split("\n")[each.span.line - 1]
        assert each.span.column < each.span.end <= len(source) + 2
    render(diagnostics, "bad.yaml", text)


@given(st.text(max_size=200), st.integers(0, len(GDN)))
@settings(max_examples=100)
def test_any_text_is_answered(inserted: str, at: int) -> None:
    for text in (inserted + "\n", GDN[:at] + inserted + GDN[at:]):
        found, diagnostics = spec.read(text)
        render(diagnostics, "bad.yaml", text)
        assert found is not None or diagnostics


@given(st.integers(0, len(GDN)), st.integers(0, 30))
@settings(max_examples=100)
def test_any_hole_is_answered(at: int, length: int) -> None:
    text = GDN[:at] + GDN[at + length :]
    found, diagnostics = spec.read(text + "\n")
    assert found is not None or diagnostics
    if found is not None and not diagnostics:
        again, more = spec.read(found.text)
        assert not more and again is not None and again.text == found.text
