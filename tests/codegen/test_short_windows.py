"""Decode, drafts and prompts of requests that have no state yet, and across the line to one."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch
from short_contexts import PagedTwin, within
from twins import OTHERS, SPECS, made

pytestmark = pytest.mark.usefixtures("rounded")

MODES = [
    (),
    ("state=split", "records=input"),
    ("state=bfloat16", "records=input"),
    ("layout=vk",),
    ("state=float16",),
]
DEALT = list(zip([*SPECS, *OTHERS], cycle(MODES), strict=False))


@pytest.mark.parametrize(("name", "mode"), DEALT)
def test_short_and_long_contexts(name: str, mode: tuple[str, ...]) -> None:
    pair = PagedTwin(made(name, *mode), "cpu", context=20, dtype=torch.float32, seed=3)
    pair.serve(9, longest=12)
    within(pair)
    assert pair.found.keys() >= {"state"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "mode"), DEALT)
def test_many_steps(name: str, mode: tuple[str, ...], seed: int) -> None:
    pair = PagedTwin(made(name, *mode), "cpu", context=40, dtype=torch.float32, seed=seed)
    pair.serve(40, longest=40)
    within(pair)


@pytest.mark.newest
def test_no_state_is_read_before_there_is_one() -> None:
    pair = PagedTwin(made("gated_deltanet"), "cpu", context=20, dtype=torch.float32, seed=5)
    pair.cache.tensors["S"].fill_(torch.nan)
    for _ in range(5):
        pair.decode()
        pair.verify(tree=True)
    pair.compare()
    within(pair)
    assert not pair.cache.tensors["stateful"].any()


@pytest.mark.newest
@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_a_path_keeps_a_prompt_whole(name: str) -> None:
    """Rows of one step end together: a prompt's records beside a tree's."""
    pair = PagedTwin(made(name), "cpu", context=20, dtype=torch.float32, seed=6)
    pair.ends = "path"
    for _ in range(3):
        pair.extend(6)
        pair.decode()
    pair.compare()
    within(pair)
