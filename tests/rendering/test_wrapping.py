"""No line of a module is longer than a reader's screen, and broken lines are the same program."""

from __future__ import annotations

import ast
from itertools import cycle

import pytest

from kvgen import compiler
from kvgen.rendering import render
from kvgen.rendering.wrapping import WIDTH, wrapped
from kvgen.shipped import resolve, shipped

STATES = ("float32", "split")


def texts(name: str, state: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A module as it is, and with its lines as long as they come."""
    whole: list[str] = []

    def noted(line: str) -> list[str]:
        whole.append(line)
        return wrapped(line)

    monkeypatch.setattr(render, "wrapped", noted)
    short = compiler.emit(compiler.analyse(resolve(name), {"storage.state": state}), {})
    return short, "\n".join(whole)


def program(text: str) -> str:
    """What a module says, but for its form, which is put in behind the lines."""
    said = ast.parse(text)
    form = ast.dump(ast.Name("FORM", ast.Store()))
    (at,) = (n for n, each in enumerate(said.body)
             if isinstance(each, ast.Assign) and ast.dump(each.targets[0]) == form)  # fmt: skip
    del said.body[at]
    return ast.dump(said)


@pytest.mark.parametrize(
    ("name", "state"), list(zip([spec.name for spec in shipped()], cycle(STATES), strict=False))
)
def test_lines_fit_and_say_the_same(name: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = texts(name, state, monkeypatch)
    over = [line for line in short.splitlines() if len(line) > WIDTH]
    assert not over, over[:3]
    assert any(len(line) > WIDTH for line in long.splitlines())
    assert program(short) == program(long)
