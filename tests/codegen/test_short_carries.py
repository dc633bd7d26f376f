"""Carried states of short rows: no program of a launch writes what another one reads."""

from __future__ import annotations

import random

import pytest
from short_schedules import part, schedule
from twins import analysed, made, ratio, within_rounding

from kvgen import compiler
from kvgen.checking.check import check
from kvgen.checking.interpreter import ORDERS, ordered
from kvgen.checking.paged import PagedTwin
from kvgen.checking.twin import Made
from kvgen.checking.windows import Extend, Verify
from kvgen.shipped import resolve, shipped

pytestmark = pytest.mark.usefixtures("rounded")

CARRYING = [spec.name for spec in shipped() if compiler.analyse(resolve(spec.name)).form.carries]


def several(name: str, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Two key heads, and two tiles of each value head."""
    found = made(name, H=2, HV=2 * ratio(name), V=16)
    return part(found, 8, monkeypatch)


def prompts(made: Made, window: int, lengths: list[int], orders: tuple[str, ...]) -> None:
    """A prompt on fresh rows, tokens and drafts on top of it, and as long a prompt once more."""
    rows = list(range(len(lengths)))
    pair = PagedTwin(
        made, "cpu", context=2 * max(lengths), slots=len(rows) + 1, layers=1,
        buffer=max(8, window), window=window, seed=window,
    )  # fmt: skip
    draw = random.Random(window)
    with ordered(orders, window):
        pair.reset(rows)
        pair.together(Extend(pair, rows, lengths))
        pair.compare()
        pair.step(rows)
        if window:
            counts = [draw.randint(0, window) for _ in rows]
            pair.together(Verify(pair, rows, window, counts=counts))
        pair.together(Extend(pair, rows, lengths[::-1]))
        pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize(
    ("name", "window", "orders"),
    [
        ("mlstm", 0, ORDERS),
        ("lightnet", 1, ("forward",)),
        ("preconditioned_gated_deltanet", 2, ("shuffled",)),
    ],
)
def test_prompts_as_long_as_the_ring(
    name: str, window: int, orders: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = max(1, window) + 1
    prompts(several(name, monkeypatch), window, [ring, 2 * ring], orders)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("window", [0, 1, 4, 16])
@pytest.mark.parametrize("name", CARRYING)
def test_prompts_of_every_length(
    name: str, window: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = list(range(1, 2 * (window + 2) + 1))
    prompts(several(name, monkeypatch), window, lengths, (order,))


def test_check_notices_a_ring_that_is_written_where_others_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A prompt's carried states right at the place of its last token."""
    analysis = analysed("mlstm")
    text = compiler.emit(analysis)
    for right, wrong in (
        ("tl.where(stays, RING, (", "tl.where(stays, (count + length) % RING, ("),
        ("brought = live & prompt & (kept > 0)", "brought = live & (kept < 0)"),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    monkeypatch.setattr(compiler, "emit", lambda *_: text)
    report = check(analysis, "cpu", only=["short contexts"])
    assert {row.quantity for row in report.rows if not row.ok} & {"output", "S"}


def test_a_random_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    found = several("mlstm", monkeypatch)
    with ordered(seed=4):
        schedule(found, "cpu", 4, steps=3, window=2, context=12, slots=5, layers=1, buffer=6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", CARRYING)
def test_random_schedules(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = several(name, monkeypatch)
    with ordered(seed=seed):
        schedule(found, "cpu", seed, steps=8, window=3, context=16, slots=6, layers=1, buffer=6)
