"""The serving loop of `examples/speculative.py`: drafts change no token."""

from __future__ import annotations

from types import ModuleType

import pytest
from oracles import ready


@pytest.fixture
def example() -> ModuleType:
    ready("cpu")
    from examples import speculative

    return speculative


def test_drafts_change_no_token(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["--requests", "4", "--tokens", "6"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, shape in example.SHAPES.items():
        (found,) = (row for row in rows if row and row[0] == name)
        assert found[1] == str(len(shape))
        # some drafts are right, many are wrong
        assert 1 < float(found[2]) < len(shape) - 1
        assert found[-3:] == ["the", "same", "tokens"]


def test_a_wrong_token_is_seen(
    example: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "plain", lambda *_: [[0]] * 2)
    assert example.main(["--requests", "2", "--tokens", "2"]) == 1
    assert "other tokens" in capsys.readouterr().out


@pytest.mark.gpu
def test_drafts_change_no_token_on_a_gpu() -> None:
    ready("cuda")
    from examples import speculative

    assert speculative.main(["--requests", "9", "--tokens", "64"]) == 0
