"""Drafts and prompts on a GPU, at real sizes: `pytest -m gpu`.

Trees of sixteen nodes and prompts of thousands of tokens for every spec, whole model steps captured
in a CUDA graph, wrong values on the device, and what a request costs in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
import torch
from short_contexts import PagedTwin
from twins import LAYERS, OTHERS, SPECS, within_rounding
from wrong_values import WRONG, spoilt

from kvgen import compiler
from kvgen.checking.checker import bounds
from kvgen.checking.twin import Tensors, Twin
from kvgen.checking.windows import Extend, Parents, Path, Server, Verify, accepted, tree
from kvgen.shipped import resolve
from tests.test_gpu import captured, frugal, gpu, made, name_of  # noqa: F401

pytestmark = pytest.mark.gpu

# every state with every kind of record and either layout, dealt over the specs
STORED: list[dict[str, str]] = [
    {"storage.state": "split", "storage.records": "input"},
    {},
    {"storage.state": "bfloat16", "storage.records": "input"},
    {"storage.records": "input", "storage.layout": "vk"},
    {"storage.state": "split", "storage.layout": "vk"},
    {"storage.state": "float16"},
]
EVERY = [*SPECS, *OTHERS, *LAYERS]
DEALT = list(zip(EVERY, cycle(STORED), strict=False))
SPLIT, FLOAT32, BFLOAT16 = STORED[0], STORED[1], STORED[2]


def heads(name: str, groups: int) -> dict[str, str]:
    """As few heads as float64 in plain torch has time for."""
    spec = compiler.analyse(resolve(name)).spec
    return {"sizes.H": str(groups), "sizes.HV": str(groups * spec.ratio)}


def within_folds(pair: Twin) -> None:
    """Hundreds of folds round a state of 16 bits hundreds of times, and among thousands of
    roundings of the recurrence itself some fall on the other side."""
    rounds = pair.form.spec.storage.state.rounds
    more = [3 * pair.found[pair.form.state.name]] if rounds else []
    within_rounding(pair, *more, apart=True)


def serve(pair: Twin, server: Server, steps: int) -> None:
    slots = [1, 4, 2, 6]
    pair.admit(slots[:3])
    pair.reset(slots[3:])
    for step in range(steps):
        server.step(server.draw.sample(slots, server.draw.randint(1, 4)))
        if step % 11 == 5:
            pair.copy([4, 1], [3, 0])
            pair.flush([1, -1, 2])
        if step % 11 == 9:
            server.step([0, 3])
            pair.reset([2])
        if step % 10 == 9:
            pair.compare()
    pair.compare()
    within_folds(pair)


# random steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [SPLIT, BFLOAT16], ids=name_of)
@pytest.mark.parametrize("name", SPECS)
def test_hundreds_of_steps(name: str, overrides: dict[str, str]) -> None:
    """Every number of drafts takes a kernel of its own, so there are few."""
    pair = Twin(made(name, overrides), "cuda", layers=2, window=16, seed=21)
    draw = random.Random(name)
    serve(pair, Server(pair, draw, ("tree", "tree", "decode"), (11, 16)), 100)
    kinds = ("chain", "decode", "recurrent", "prompt")
    serve(pair, Server(pair, draw, kinds, (1, 4), longest=70), 100)


@pytest.mark.parametrize(("name", "overrides"), DEALT, ids=name_of)
def test_every_spec(name: str, overrides: dict[str, str]) -> None:
    pair = Twin(made(name, {**overrides, **heads(name, 2)}), "cuda", window=16, seed=22)
    draw = random.Random(name)
    serve(pair, Server(pair, draw, ("tree", "decode"), (16,)), 60)
    serve(pair, Server(pair, draw, ("chain", "prompt"), (4,), longest=40), 60)


# of comba a window multiplies inputs beside vectors that are computed
@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm", "comba"])
def test_inputs_of_sixteen_bits(name: str) -> None:
    pair = Twin(made(name, SPLIT), "cuda", window=8, dtype=torch.bfloat16, seed=23)
    serve(pair, Server(pair, random.Random(name), windows=(4, 8), longest=90), 60)


# prompts -----------------------------------------------------------------------------------------

LENGTHS = [2048, 1, 0, 1023, 64, 17]


@pytest.mark.parametrize(("name", "overrides"), DEALT, ids=name_of)
def test_long_prompts(name: str, overrides: dict[str, str]) -> None:
    """Ragged, on fresh rows and on rows with records; a chunk and some tokens on top of them."""
    # the same kernels as above, which are compiled once
    pair = Twin(made(name, {**overrides, **heads(name, 1)}), "cuda", layers=1, window=16, seed=24)
    slots = [5, 0, 3, 1, 7, 2]
    pair.reset([5, 0, 3])
    pair.admit([1, 7, 2])
    pair.step([2, 3, -1, 1])
    pair.together(Extend(pair, [*slots, -1], [*LENGTHS, 2048], 2049))
    pair.compare()
    pair.together(Extend(pair, [0, 5, 7], [100, 30, 0]))
    pair.together(Verify(pair, slots, 4, counts=[4, 0, 1, 2, 3, 4]))
    pair.step(slots)
    pair.compare()
    within_folds(pair)


# model steps -------------------------------------------------------------------------------------


class DraftStep:
    """A verify in every layer and an accept, on tensors that stay where they are."""

    def __init__(self, pair: Twin, rows: int, tokens: int, trees: bool) -> None:
        self.pair, self.tokens = pair, tokens
        self.slots = pair.ids([-1] * rows)
        self.force = torch.zeros(rows, dtype=torch.bool, device="cuda")
        blank = torch.full((rows, tokens), -1, dtype=torch.int32, device="cuda")
        self.given = {"parents": blank} if trees else {}
        self.ended = {"path": blank.clone()} if trees else {"counts": pair.ids([0] * rows)}
        self.inputs = [pair.inputs([-1] * rows, tokens) for _ in range(pair.layers)]
        shape = (rows, tokens, pair.cache.heads, pair.form.spec.size("V"))
        kind = {"dtype": pair.dtype, "device": "cuda"}
        self.out = [torch.full(shape, float("nan"), **kind) for _ in range(pair.layers)]

    def run(self) -> None:
        pair = self.pair
        for layer in range(pair.layers):
            given = {**self.inputs[layer], **pair.params[layer], **self.given}
            pair.module.verify(pair.cache, layer, self.slots, **given, out=self.out[layer])
        pair.module.accept(pair.cache, self.slots, **self.ended, force=self.force)

    def fill(self, step: Verify, force: list[bool]) -> list[Tensors]:
        """New values in the same places; the inputs, by layer."""
        self.slots.copy_(step.ids)
        self.force.copy_(torch.tensor(force))
        for name, kept in self.given.items():
            kept.copy_(step.given[name])
        for name, kept in self.ended.items():
            kept.copy_(step.accepted[name])
        drawn = [self.pair.inputs(step.slots, self.tokens) for _ in range(self.pair.layers)]
        for layer, given in enumerate(drawn):
            for key, value in given.items():
                self.inputs[layer][key].copy_(value)
            self.out[layer].fill_(float("nan"))
        return drawn


@pytest.mark.parametrize("trees", [True, False], ids=["trees", "chains"])
@pytest.mark.parametrize("name", SPECS)
def test_a_graph_replays_whatever_is_accepted(name: str, trees: bool) -> None:
    tokens = 4
    pair = Twin(
        made(name, SPLIT), "cuda", slots=9, layers=3, buffer=10, window=tokens,
        dtype=torch.bfloat16, seed=25,
    )  # fmt: skip
    step = DraftStep(pair, rows=4, tokens=tokens, trees=trees)
    # compiles, on padding rows
    step.run()
    graph = captured(step.run)

    draw = random.Random(name)
    live: list[int] = []
    seen: set[tuple[int, ...]] = set()
    for number in range(30):
        if number in (0, 3, 8):
            pair.admit([7, 2] if number == 0 else [number])
            live += [7, 2] if number == 0 else [number]
        rows = draw.sample([*live, *[-1] * 4], 4)
        force = [draw.random() < 0.1 for _ in rows]
        drafts = Verify(pair, rows, tokens, **_drafts(draw, tokens, trees))
        seen |= set(map(tuple, _paths(drafts)))
        drawn = step.fill(drafts, force)
        frugal(graph.replay)
        for layer, inputs in enumerate(drawn):
            drafts.compare(layer, inputs, step.out[layer])
        if number == 12:
            pair.copy([2], [5])
        if number == 17:
            pair.flush([7, 5])
        if number % 5 == 4:
            pair.compare()
    assert len(seen) >= 5
    pair.compare()
    within_folds(pair)


def _drafts(draw: random.Random, tokens: int, trees: bool) -> dict[str, list]:
    parents: list[Parents] = [tree(draw, tokens) for _ in range(4)]
    if not trees:
        return {"counts": [draw.randint(0, tokens) for _ in range(4)]}
    paths: list[Path] = [accepted(draw, each) for each in parents]
    return {"parents": parents, "paths": paths}


def _paths(drafts: Verify) -> list[list[int]]:
    [table] = drafts.accepted.values()
    return table.reshape(len(drafts.slots), -1).tolist()


def test_drafts_and_prompts_wait_for_nothing() -> None:
    pair = Twin(made("mlstm", {}), "cuda", slots=9, layers=2, buffer=8, window=4, seed=26)
    pair.admit([3, 1])
    slots, counts = pair.ids([3, -1, 1]), pair.ids([3, 1, 0])
    path = torch.tensor([[0, 2, -1, -1]] * 3, dtype=torch.int32, device="cuda")
    parents = torch.tensor([[-1, 0, 0, 2]] * 3, dtype=torch.int32, device="cuda")
    inputs = pair.inputs([3, -1, 1], 4)
    out = torch.empty(3, 4, pair.cache.heads, pair.form.spec.size("V"), device="cuda")

    def everything() -> None:
        given = {**inputs, **pair.params[0], "out": out}
        pair.module.verify(pair.cache, 0, slots, **given)
        pair.module.accept(pair.cache, slots, counts=counts)
        pair.module.verify(pair.cache, 0, slots, **given, parents=parents)
        pair.module.accept(pair.cache, slots, path=path)
        pair.module.extend(pair.cache, 0, slots, **given, lengths=counts)
        pair.module.accept(pair.cache, slots, counts=counts)

    # compiles
    everything()
    frugal(everything)


# wrong values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_wrong_values_stay_in_their_row(name: str) -> None:
    modules = made(name, {**SPLIT, **heads(name, 1)})
    for wrong in WRONG:
        spoilt(lambda: Twin(modules, "cuda", slots=6, buffer=9, window=4, seed=27), wrong, 24)


# memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [SPLIT, FLOAT32, BFLOAT16], ids=name_of)
def test_drafts_take_no_states(overrides: dict[str, str]) -> None:
    """Beside a server that, next to the same request, keeps a state for every token of the window:
    how many requests fit into the same memory."""
    module = made("gated_deltanet", overrides).module
    slots, layers, window = 24, 4, 4

    def taken(allocate: Callable[[], object]) -> int:
        before = torch.cuda.memory_allocated()
        kept = allocate()
        found = torch.cuda.memory_allocated() - before
        del kept
        return found

    def cache(window: int) -> Any:
        return module.Cache.empty(slots, layers, device="cuda", window=window)

    # compiles, and shows what a state takes
    first = cache(0)
    states = [first.tensors[name] for name in first.tensors if name in ("S", "S_hi", "S_lo")]
    ours = taken(lambda: cache(window))
    assert ours == taken(lambda: cache(0))
    copies = taken(lambda: [torch.empty_like(x) for x in states for _ in range(window)])
    assert ours + copies >= 4 * ours


# short contexts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gated_deltanet", BFLOAT16),
        ("kimi_delta_attention_bounded", SPLIT),
        ("mlstm", FLOAT32),
        ("mamba2", SPLIT),
    ],
    ids=name_of,
)
def test_short_contexts(name: str, overrides: dict[str, str]) -> None:
    module = made(name, {**overrides, **heads(name, 2)})
    pair = PagedTwin(module, "cuda", context=48, dtype=torch.float32, seed=4)
    pair.serve(20, longest=30)
    output, state = bounds(pair.spec.storage, pair.dtype)
    for kind, error in pair.found.items():
        assert error <= (state if kind == "state" else output), (kind, error)
