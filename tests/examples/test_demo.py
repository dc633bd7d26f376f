"""What `make demo` shows: the buffer fills and folds, bytes are saved, errors are small."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
from oracles import ready

STEP = re.compile(r" *(\d+)  \|([#.]+)\|  read(, folded)? +(\d+) +(\d+) +(-?\d+)%  (\S+)  (\S+)")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    ready("cpu")
    from examples import demo

    # the same lines sooner
    monkeypatch.setattr(demo, "SIZES", {"H": 1, "HV": 2, "K": 32, "V": 32})
    return demo


@pytest.mark.newest
def test_the_buffer_fills_and_folds(demo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main() == 0
    text = capsys.readouterr().out
    steps = [found.groups() for line in text.splitlines() if (found := STEP.fullmatch(line))]
    assert [int(step[0]) for step in steps] == list(range(1, 26))
    bars = [step[1] for step in steps]
    assert bars[:8] == ["#" * n + "." * (8 - n) for n in range(1, 9)]
    assert bars == [*bars[:8] * 3, bars[0]]
    assert [at for at, step in enumerate(steps, 1) if step[2]] == [8, 16, 24]
    for token, _, folded, ours, plain, saved, *errors in steps:
        assert (int(ours) > int(plain)) is bool(folded), token
        assert abs(int(saved) - 100 * (1 - int(ours) / int(plain))) < 5
        assert all(0 < float(error) < demo.BOUND for error in errors)
    assert "25 tokens, 3 folds: " in text
    assert max(map(len, text.splitlines())) < 100
    assert text.splitlines()[-1] == "OK: the module computes the recurrence"


def test_bytes_are_those_that_compile_names(demo: ModuleType) -> None:
    """Over a whole buffer, as `kvgen compile` counts a token's."""
    counts = demo.counted({})
    steps = [counts.decode_over(held) for held in range(demo.L)]
    whole = sum(steps) + counts.fold(demo.L)
    assert whole == demo.L * counts.decode(demo.L)


def test_a_module_that_is_off_is_seen(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = demo.Step(1, 1, 1, 2, (0.0, float("inf")))
    monkeypatch.setattr(demo, "decoded", lambda: iter([step]))
    assert demo.main() == 1
    assert "FAILED: the module is off" in capsys.readouterr().out
