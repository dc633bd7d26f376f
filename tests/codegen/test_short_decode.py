"""A decode of rows that hold several pages of records, with a state beneath them and without."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from short_contexts import LIVE, ROWS, PagedTwin, within
from twins import ids, made

from tests.codegen.test_short_windows import DEALT

pytestmark = pytest.mark.usefixtures("rounded")

CONTEXT = 56
# value channels, heads side by side, pages together, pages ahead
CONFIGS = [(8, 1, 1, 1), (8, 2, 2, 1), (8, 4, 1, 3), (4, 2, 4, 2), (4, 4, 2, 1), (2, 1, 2, 1)]
# what a device may hold where a caller has written nonsense
BOOKS = ("cursors", "skipped", "stateful")
WILD = (-(2**31), -100_000, -1, 0, 1, 15, 16, 17, 33, 64, 100_000, 2**31 - 1)


def filled(name: str, *mode: str, **sizes: int) -> PagedTwin:
    """Two rows of more than one page, which lie in no order; trees have left places out, and the
    second row has a state."""
    twin = PagedTwin(
        made(name, *mode, **sizes), "cpu", CONTEXT, torch.float32, seed=9, buffer=CONTEXT
    )
    cache = twin.cache
    cache.release(range(4))
    rows = [slot for slot in range(4) for _ in range(cache.width)]
    random.Random(4).shuffle(rows)
    for slot in rows:
        cache.reserve([slot], 16)
    cache.reserve(range(4), CONTEXT)
    # a fold that computes corrections again needs the state that they were made on
    replays = twin.made.analysis.records.replay
    if replays:
        stacked(twin)
    while cache.cursors[list(LIVE.values())].min() <= (16 if replays else 32):
        if replays:
            twin.verify(tree=False)
        else:
            twin.extend(20)
    while not cache.tensors["skipped"].any():
        twin.verify(tree=True)
    if not replays:
        stacked(twin)
    assert cache.tensors["stateful"].tolist() == [1, 0, 0, 0]
    return twin


def stacked(twin: PagedTwin) -> None:
    """Give the second row a state, beneath its records."""
    slots = ids(*LIVE.values())
    for layer, states in enumerate(twin.states):
        given = twin.sampler.states(1)
        given = given if len(given) > 1 else given[twin.form.state.name]
        twin.cache.load(layer, slots[1:], given)
        got = twin.cache.read(layer, slots)
        got = got if isinstance(got, dict) else {twin.form.state.name: got}
        for i, row in enumerate(LIVE):
            states[row] = {key: x[i : i + 1].double() for key, x in got.items()}


def copied(twin: PagedTwin) -> Any:
    """The twin's cache in memory of its own."""
    tensors = {name: x.clone() for name, x in twin.cache.tensors.items()}
    return twin.module.Cache.wrap(
        tensors, window=twin.cache.window, short_context=CONTEXT, buffer=CONTEXT
    )


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, x in wanted.items():
        torch.testing.assert_close(
            found[name], x, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("name", "mode"), DEALT)
def test_pages_in_no_order(name: str, mode: tuple[str, ...]) -> None:
    twin = filled(name, *mode)
    twin.found.clear()
    for _ in range(2):
        twin.decode()
    twin.compare()
    within(twin)


@pytest.mark.parametrize(
    ("name", "heads"), [("gated_deltanet", 4), ("mamba2", 4), ("kimi_delta_attention", 2)]
)
def test_configurations_agree(name: str, heads: int) -> None:
    sizes = {} if name == "kimi_delta_attention" else {"HV": heads}
    twin = filled(name, **sizes)
    inputs = {key: x[:, 0] for key, x in twin.inputs(1).items()}
    module, runs = twin.module, []
    known = module.CONFIGS["default"]["short"]
    try:
        for config in [None, *CONFIGS]:
            if config:
                knobs = dict(zip(("TILE", "TILES", "PAGES", "STAGES"), config, strict=True))
                module.CONFIGS["default"]["short"] = {1: knobs | {"num_warps": 1}}
            cache = copied(twin)
            out = module.decode(cache, 1, twin.slots, **inputs, **twin.params[1])
            runs.append({**cache.tensors, "out": out})
    finally:
        module.CONFIGS["default"]["short"] = known
    for found in runs[1:]:
        close(found, runs[0])


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention", "mlstm"])
def test_wrong_books_are_read_as_by_a_window(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a window of one token another kernel computes the same, whatever the device holds."""
    twin = filled(name)
    # so that what is wrong reaches the kernels, as on a GPU
    monkeypatch.setattr(twin.module, "strict", lambda _: False)
    draw = random.Random(3)
    for _ in range(6):
        inputs = twin.inputs(1)
        one, other = copied(twin), copied(twin)
        wild = [(key, draw.choice((0, 2)), draw.choice(WILD)) for key in BOOKS]
        none = draw.randrange(one.width)
        for cache in (one, other):
            for key, slot, value in wild:
                cache.tensors[key][slot] = value
            cache.tensors["pages"][2, none] = -1
            if wild[0][2] > 16:
                cache.tensors["state_pages"][0] = -1
        out = twin.module.decode(
            one, 0, twin.slots, **{key: x[:, 0] for key, x in inputs.items()}, **twin.params[0]
        )
        wanted = twin.module.verify(other, 0, twin.slots, **inputs, **twin.params[0])
        close({**one.tensors, "out": out}, {**other.tensors, "out": wanted[:, 0]})
        assert not out[ROWS.index(-1)].any()
