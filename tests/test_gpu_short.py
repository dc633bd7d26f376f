"""Short rows on a GPU, whose programs keep to no order: `pytest -m gpu`."""

from __future__ import annotations

import pytest
from short_schedules import part, schedule
from twins import made, ratio

from tests.test_gpu import gpu  # noqa: F401

pytestmark = pytest.mark.gpu

# those with carried states, and some without
DEALT = [
    ("mlstm",),
    ("mlstm", "state=split", "records=input"),
    ("lightnet",),
    ("preconditioned_gated_deltanet",),
    ("normalised_linear_attention",),
    ("gated_deltanet",),
    ("kimi_delta_attention", "layout=vk"),
    ("mamba2", "state=bfloat16", "records=input"),
]


@pytest.mark.parametrize("name", DEALT, ids="-".join)
def test_random_schedules(name: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"H": 2, "HV": 2 * ratio(name[0]), "K": 64, "V": 128}
    module = part(made(*name, **sizes), 32, monkeypatch)
    for seed in range(25):
        schedule(module, "cuda", seed, steps=6, window=4, context=40, slots=6, buffer=8, layers=1)
