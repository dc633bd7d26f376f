"""Text that repeats itself makes keys alike: windows must stay as exact as single tokens are."""

from __future__ import annotations

import alike
import pytest
from tensor_cores import on_tensor_cores
from twins import analysed, made

from kvgen.checking.check import check

TRIANGLES = alike.triangles()
# a write that erases all that its key reads, decays of every key channel, a write of twice that
QUICK = ["gated_deltanet", "kimi_delta_attention", "olmo_hybrid"]
# another key reads than writes, before the decay; keys that are not normalised; raised keys
DRAWN = ["rwkv7", "comba", "preconditioned_gated_deltanet", "efla"]
CASES = ("one key again and again", "keys that are alike")


def as_exact(name: str, tokens: int, noise: float, decay: float) -> None:
    model = made(name, K=32)
    most = alike.most(model, tokens, noise, decay)
    for window in (0, 8, 16):
        error = alike.run(model, tokens, noise, decay, window)["S"]
        assert error <= most, (window, error)


def test_eleven_recurrences_solve_a_triangle() -> None:
    assert len(TRIANGLES) == 11


@pytest.mark.parametrize("name", QUICK)
def test_windows_are_as_exact_as_single_tokens(name: str) -> None:
    as_exact(name, 48, noise=0.0, decay=1.0)


def test_so_are_those_that_tensor_cores_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("olmo_hybrid", K=96, V=16)

    def error(window: int) -> float:
        # no decay, and writes of twice an erasure: what a product is off by adds up. How much one
        # draw is off happens to be so, and is another on another processor
        found = [alike.run(model, 64, 0.0, 1.0, window, seed=seed)["S"] for seed in range(5)]
        return sum(found) / len(found)

    alone = error(1)
    # products of its own in place of a chunk's, which the interpreter has exact
    cache = model.module.Cache
    monkeypatch.setattr(cache, "table", cache.table._replace(chunk=0))
    on_tensor_cores(monkeypatch)
    assert error(16) <= 1.3 * alone


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [48, 96, 256])
@pytest.mark.parametrize("decay", [1.0, 0.99, 0.5])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", TRIANGLES)
def test_so_are_those_of_other_recurrences(
    name: str, noise: float, decay: float, tokens: int
) -> None:
    as_exact(name, tokens, noise, decay)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in DRAWN else pytest.mark.slow)
        for name in TRIANGLES
        if name not in QUICK
    ],
)
def test_check_draws_keys_that_are_alike(name: str) -> None:
    report = check(analysed(name), "cpu", only=CASES)
    bad = [row for row in report.rows if not row.ok]
    assert {row.case for row in report.rows} >= set(CASES)
    assert not bad, bad


def powers(text: str) -> str:
    """A module whose triangle is inverted by powers, which cancel where keys are alike."""
    start = text.index("    # a turn of 16 tokens")
    stop = text.index("    return inverse\n", start)
    return f"""{text[:start]}    power = lower
    inverse = tl.where(token[:, None] == token[None, :], 1.0, lower)
    for square in tl.static_range((TOKENS > 2) + (TOKENS > 4) + (TOKENS > 8)):
        power = _dot(power, power)
        inverse += _dot(inverse, power)
{text[stop:]}"""


def test_a_solve_that_cancels_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvgen import compiler

    broken = powers(compiler.emit(analysed("gated_deltanet")))
    monkeypatch.setattr(compiler, "emit", lambda *_: broken)
    report = check(analysed("gated_deltanet"), "cpu", only=CASES)
    assert any(row.case == CASES[0] and row.error > 10 * row.bound for row in report.rows)
