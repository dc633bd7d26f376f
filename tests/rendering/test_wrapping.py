"""No line of a module is longer than a reader's screen, and broken lines are the same program."""

from __future__ import annotations

import ast
from itertools import cycle

import pytest

from kvgen import compiler
from kvgen.rendering import render
from kvgen.rendering.wrapping import WIDTH
from kvgen.shipped import resolve, shipped

STATES = ("float32", "split")


def texts(name: str, state: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A module as it is, and with its lines as long as they come."""
    analysis = compiler.analyse(resolve(name), {"storage.state": state})
    short = compiler.emit(analysis, {})
    with monkeypatch.context() as patch:
        patch.setattr(render, "wrapped", lambda line: [line])
        return short, compiler.emit(analysis, {})


@pytest.mark.parametrize(
    ("name", "state"), list(zip([spec.name for spec in shipped()], cycle(STATES), strict=False))
)
def test_lines_fit_and_say_the_same(name: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = texts(name, state, monkeypatch)
    over = [line for line in short.splitlines() if len(line) > WIDTH]
    assert not over, over[:3]
    assert any(len(line) > WIDTH for line in long.splitlines())
    assert ast.dump(ast.parse(short)) == ast.dump(ast.parse(long))
