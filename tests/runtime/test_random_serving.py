"""An engine that does at random all that a server may, in memory of every kind: equal to the
recurrence in float64, in whatever order a launch's programs run."""

from __future__ import annotations

import pytest
from engine import Engine

from kvgen.checking.interpreter import ordered

NAMES = ("gated_deltanet", "mlstm", "lightnet", "preconditioned_gated_deltanet", "rwkv7")
STORAGES = ((), ("state=split",), ("state=bfloat16", "layout=vk"))
CASES = [
    (name, STORAGES[(at + turn) % len(STORAGES)], kind, at)
    for at, name in enumerate(NAMES)
    for turn, kind in enumerate(("whole", "apart", "short"))
]


@pytest.mark.parametrize(("name", "storage", "kind", "seed"), CASES)
def test_random_serving(name: str, storage: tuple[str, ...], kind: str, seed: int) -> None:
    with ordered(seed=seed):
        Engine(name, *storage, kind=kind, seed=seed).run(3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "apart", "short"])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", NAMES)
def test_long_random_serving(name: str, storage: tuple[str, ...], kind: str) -> None:
    for seed in range(100, 110):
        with ordered(seed=seed):
            Engine(name, *storage, kind=kind, seed=seed).run(12)
