"""Text that repeats itself makes keys alike: windows must stay as exact as single tokens are."""

from __future__ import annotations

import pytest
import torch
from twins import analysed, made

from kvgen.algebra.graph import reachable
from kvgen.algebra.solving import solve
from kvgen.checking import extremes
from kvgen.checking.cases import Repeating
from kvgen.checking.check import check
from kvgen.checking.checker import EXACT
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Tensors, Twin, worst
from kvgen.checking.windows import Extend, Verify
from kvgen.shipped import shipped

TRIANGLES = [
    spec.name
    for spec in shipped()
    if (form := analysed(spec.name).form).windows and solve(form).method == "triangle"
]
# a write that erases all that its key reads, of sizes and decays of all kinds
QUICK = ["gated_deltanet", "kimi_delta_attention", "olmo_hybrid"]
CASES = ("one key again and again", "keys that are alike")


def gates_at_rest(sampler: Sampler, tensors: Tensors) -> Tensors:
    """Parameters of gates at 0, so that one value of an input gives all heads the same decay."""
    kinds = sampler.kinds
    return {
        name: x * 0 if kinds.get(name) in ("log_uniform", "gate") else x
        for name, x in tensors.items()
    }


class Stream(Repeating):
    def __call__(self, sampler: Sampler, tensors: Tensors, token: int | None) -> Tensors:
        if token is None:
            return super().__call__(sampler, gates_at_rest(sampler, tensors), None)
        return super().__call__(sampler, tensors, token)


def held(name: str, decay: float) -> list[extremes.Extreme]:
    """The inputs' values for decays close to this one and for the strongest writes."""
    form = analysed(name).form
    sampler = Sampler(form.spec, "cpu", seed=3)
    drawn = sampler.inputs(64, torch.float32)
    drawn |= gates_at_rest(sampler, sampler.params())
    found = []
    logs = [each.log for each in form.decays]
    names = [str(node.value) for node in reachable(logs) if node.op == "input"]
    wanted = torch.tensor(decay).log()
    for driver in names[:1]:

        def off(value: float, driver: str = driver) -> float:
            given = {**drawn, driver: torch.full_like(drawn[driver], value)}
            values = extremes.evaluate(form, logs, given)
            return max((values[log] - wanted).abs().max().item() for log in logs)

        value = min((*range(-30, 31), *(x / 4 for x in range(-12, 13))), key=off)
        found.append(extremes.Extreme("decay", driver, True, float(value)))
        drawn[driver] = torch.full_like(drawn[driver], value)
    strongest = extremes.strongest(form, drawn)
    return found if strongest is None else [*found, strongest]


def state_error(name: str, tokens: int, noise: float, decay: float, *windows: int) -> float:
    """Of the state after so many tokens: of a prompt (0), of windows of some tokens, one by one."""
    change = Stream(noise, held(name, decay))
    twin = Twin(made(name, K=32), "cpu", buffer=16, layers=1, window=16, change=change, seed=11)
    twin.reset([3])
    for window in windows:
        for _ in range(tokens // max(window, 1) if window else 1):
            if window == 0:
                twin.together(Extend(twin, [3], [tokens], tokens))
            elif window == 1:
                twin.step([3])
            else:
                twin.together(Verify(twin, [3], window, counts=[window]))
    states = twin.read(0, [3])
    return max(worst(got, twin.states[0][each][[3]]) for each, got in states.items())


def as_exact(name: str, tokens: int, noise: float, decay: float) -> None:
    alone = state_error(name, tokens, noise, decay, 1)
    for window in (0, 8, 16):
        error = state_error(name, tokens, noise, decay, window)
        # where nothing decays, the last bit of a key's norm adds up, which may happen to be right
        most = 10 * max(alone, 1e-6)
        assert error <= (min(most, EXACT) if alone <= EXACT else most), (window, error, alone)


def test_eleven_recurrences_solve_a_triangle() -> None:
    assert len(TRIANGLES) == 11


@pytest.mark.parametrize("name", QUICK)
def test_windows_are_as_exact_as_single_tokens(name: str) -> None:
    as_exact(name, 48, noise=0.0, decay=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [48, 96, 256])
@pytest.mark.parametrize("decay", [1.0, 0.99, 0.5])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", TRIANGLES)
def test_so_are_those_of_other_recurrences(
    name: str, noise: float, decay: float, tokens: int
) -> None:
    as_exact(name, tokens, noise, decay)


@pytest.mark.parametrize("name", [name for name in TRIANGLES if name not in QUICK])
def test_check_draws_keys_that_are_alike(name: str) -> None:
    report = check(analysed(name), "cpu", only=CASES)
    bad = [row for row in report.rows if not row.ok]
    assert {row.case for row in report.rows} >= set(CASES)
    assert not bad, bad


def powers(text: str) -> str:
    """A module whose triangle is inverted by powers, which cancel where keys are alike."""
    start = text.index("    apart = token[:, None] ^ token[None, :]")
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
