"""Axes of length 1, which are axes all the same: channels, heads, a spec's own, rows and tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import cycle

import pytest
from twins import LAYERS, OTHERS, SPECS, made, within_rounding

from kvgen.checking.paged import PagedTwin
from kvgen.checking.twin import Twin
from kvgen.checking.windows import Extend, Server, Verify

pytestmark = pytest.mark.usefixtures("rounded")

BFLOAT16 = ("state=bfloat16", "records=input", "layout=vk")
SPLIT = ("state=split", "records=input")
# sizes that are not 1 are those of small modules
CASES = [
    ("gated_deltanet", (), {"K": 1}),
    ("gated_deltanet", SPLIT, {"V": 1}),
    ("kimi_delta_attention", BFLOAT16, {"K": 1, "V": 1}),
    ("gated_deltaproduct", ("layout=vk",), {"N": 1, "V": 1}),
    ("mlstm", (), {"K": 1, "V": 1, "HV": 1}),
]
SIZES = [{"K": 1}, {"V": 1}, {"K": 1, "V": 1}]
EVERY = [
    (name, mode, sizes)
    for name, mode in zip([*SPECS, *OTHERS, *LAYERS], cycle([(), SPLIT, BFLOAT16]), strict=False)
    for sizes in SIZES
]


def serve(pair: Twin, window: int) -> None:
    """Every call, with single tokens among them."""
    server = Server(pair, random.Random(1), ("decode", "chain", "tree"), (1, window), wasted=0.0)
    pair.reset([1])
    pair.together(Verify(pair, [1], 1, counts=[1]))
    pair.reset([0])
    pair.together(Extend(pair, [0, 1], [1, window + 1]))
    pair.step([1, 0])
    server.step([0, 1])
    pair.compare()
    pair.together(Extend(pair, [1], [1]))
    pair.step([0])
    pair.compare()
    within_rounding(pair)


def stateful(name: str, mode: tuple[str, ...], sizes: dict[str, int]) -> None:
    pair = Twin(made(name, *mode, **sizes), "cpu", slots=2, layers=1, buffer=3, window=2, seed=1)
    pair.admit([0])
    pair.step([0], kernel="recurrent")
    serve(pair, 2)


def short(name: str, mode: tuple[str, ...], sizes: dict[str, int]) -> None:
    pair = PagedTwin(
        made(name, *mode, **sizes), "cpu", context=6, slots=2, layers=1, buffer=3, window=2, seed=1
    )
    serve(pair, 2)


@pytest.mark.parametrize(("name", "mode", "sizes"), CASES[1:4])
def test_rows_with_a_state(name: str, mode: tuple[str, ...], sizes: dict[str, int]) -> None:
    stateful(name, mode, sizes)


@pytest.mark.parametrize(("name", "mode", "sizes"), CASES)
def test_short_rows(name: str, mode: tuple[str, ...], sizes: dict[str, int]) -> None:
    short(name, mode, sizes)


@pytest.mark.parametrize("kind", [Twin, partial(PagedTwin, context=1)], ids=["state", "short"])
def test_one_place_one_draft_and_a_context_of_one(kind: Callable[..., Twin]) -> None:
    """A row is short until its first token."""
    serve(kind(made("mlstm"), "cpu", slots=2, layers=1, buffer=1, window=1), 1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode", "sizes"), EVERY)
def test_every_recurrence(name: str, mode: tuple[str, ...], sizes: dict[str, int]) -> None:
    stateful(name, mode, sizes)
    short(name, mode, sizes)
