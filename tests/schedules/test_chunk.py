"""Windows whose tokens are the columns of one product, against the recurrence in float64, in the
interpreter; which recurrences have such a kernel, and when it runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import alike
import pytest
import torch
from by_columns import OF_CHANNELS, OF_HEADS, SIZES, STORED
from tuned_records import H200, record
from twins import analysed, ids, untimed, within_rounding

from kvgen import compiler
from kvgen.algebra.chunk import chunks, chunks_trees
from kvgen.checking.errors import worst
from kvgen.checking.samples import packed, padded, plain
from kvgen.checking.twin import Made, Twin, bits
from kvgen.checking.windows import Server, Verify, accepted, tree
from kvgen.kernels.chunk import CHUNK
from kvgen.kernels.registry import kernels_of
from kvgen.kernels.verify import VERIFY
from kvgen.shipped import resolve, shipped
from kvgen.tuning import plan
from kvgen.wisdom.store import Store

pytestmark = pytest.mark.usefixtures("rounded", "own")

# those whose keys are recorded before their decay
FACTORED = ["kimi_delta_attention_bounded", "rwkv7"]
CHUNKED = sorted([*OF_HEADS, *OF_CHANNELS, *FACTORED])
DEALT = list(zip(CHUNKED, cycle(STORED), strict=False))
DEALT_AGAIN = [(name, storage) for name in CHUNKED for storage in STORED]
MODULE = "gated_deltanet"
GPU = "GPU with times"


def wide(name: str, *storage: str, sizes: dict[str, int] = SIZES[0], **options: Any) -> Twin:
    """A twin of a module with the kernel."""
    places = 16 if name in FACTORED else 20
    options = {"slots": 6, "layers": 2, "buffer": places, "window": 16, **options}
    return by_columns(Twin(untimed(name, *storage, **sizes), "cpu", **options))


def by_columns(pair: Twin) -> Twin:
    """Where channels decay the kernel runs only on GPUs that have times of it."""
    if pair.cache.table.chunk_timed:
        configs: Any = pair.module.CONFIGS
        known = configs["default"]["chunk"].items()
        configs[GPU] = {"chunk": {batch: {**config, "us": 1.0} for batch, config in known}}
        pair.cache.gpu = GPU
    return pair


def test_which_recurrences_have_it() -> None:
    forms = {each.name: compiler.analyse(resolve(each.name)).form for each in shipped()}
    assert sorted(name for name, form in forms.items() if chunks(form)) == CHUNKED
    for name, form in forms.items():
        assert (CHUNK in kernels_of(form)) == (name in CHUNKED)
        features = ("decode", "verify"), ("decode",)
        analysis = compiler.analyse(resolve(name))
        texts = [compiler.emit(analysis, {}, each, untimed=True) for each in features]
        assert ["_chunk_kernel" in text for text in texts] == [name in CHUNKED, False]


def serve(pair: Twin, server: Server, steps: int) -> None:
    """Rows come one after the other, are flushed, copied in mid-buffer and recycled."""
    pair.admit([1, 4])
    for step in range(steps):
        if step == 2:
            pair.reset([2])
        pair.layout = (plain, packed, padded)[step % 3]
        server.step([1, 4] if step < 2 else [1, 4, 2])
        if step % 9 == 4:
            pair.copy([4, 1], [3, 0])
            pair.flush([1, -1, 2])
        if step % 3 == 2:
            pair.compare()
    pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize(("name", "storage"), DEALT)
def test_random_steps(name: str, storage: str) -> None:
    pair = wide(name, *storage.split(), sizes=SIZES[len(name) % 2], seed=1)
    serve(pair, Server(pair, random.Random(name), windows=range(5, 17)), steps=6)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("name", "storage"), DEALT_AGAIN)
def test_more_random_steps(name: str, storage: str, sizes: dict[str, int]) -> None:
    pair = wide(name, *storage.split(), sizes=sizes, seed=2)
    serve(pair, Server(pair, random.Random(name), windows=range(1, 17), longest=37), steps=60)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "storage", ["state=bfloat16 records=input", "state=split", "state=float16"]
)
def test_inputs_of_sixteen_bits(storage: str, dtype: torch.dtype) -> None:
    pair = wide(MODULE, *storage.split(), dtype=dtype, seed=4)
    serve(pair, Server(pair, random.Random(4), windows=(5, 8, 11, 16)), steps=8)


@pytest.mark.parametrize("tokens", [5, 8, 9, 16])
def test_several_tiles_of_a_head(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = wide(MODULE, sizes={"K": 16, "V": 64}, seed=6)
    default = pair.module.CONFIGS["default"]
    for tile, tiles in ((16, 1), (16, 2), (16, 4), (64, 1)):
        config = {
            "TILE": tile,
            "TILES": tiles,
            "STAGES": 1,
            "EARLY": tiles == 1,
            "PDL": 0,
            "num_warps": 1,
        }
        monkeypatch.setitem(default, "chunk", {1: config})
        pair.admit([1, 4])
        draw = random.Random(tokens)
        trees = [tree(draw, tokens) for _ in range(3)]
        paths = [accepted(draw, each) for each in trees]
        pair.together(Verify(pair, [1, -1, 4], tokens, parents=trees, paths=paths))
        pair.together(Verify(pair, [1, 4], tokens, counts=[tokens, tokens - 1]))
        pair.compare()
    within_rounding(pair)


@pytest.mark.parametrize(("name", "storage"), DEALT)
def test_it_leaves_what_the_other_kernel_leaves(name: str, storage: str) -> None:
    """Outputs and records, and nothing beyond them."""
    pairs = [wide(name, *storage.split(), layers=1, seed=8) for _ in range(2)]
    found = []
    for pair, kernel in zip(pairs, ("chunk", "verify"), strict=True):
        pair.admit([1, 4])
        pair.step([1, 4])
        before = {name: bits(x).clone() for name, x in pair.cache.tensors.items()}
        with running(pair, kernel):
            inputs = pair.inputs([4, -1, 1], 7)
            found.append(pair.run("verify", 0, ids(4, -1, 1), inputs))
        # of rows that are no part of the call nothing changes
        for each, x in pair.cache.tensors.items():
            others = [slot for slot in range(6) if slot not in (1, 4)]
            if x.shape[0] == 6:
                assert torch.equal(bits(x)[others], before[each][others]), each
    new, old = found
    assert not new[1].any() and worst(new, old) < 1e-5
    for each, x in pairs[0].cache.tensors.items():
        if x.is_floating_point():
            got, wanted = x[[1, 4]], pairs[1].cache.tensors[each][[1, 4]]
            # what has never been written to is no number
            assert torch.equal(got.isnan(), wanted.isnan()), each
            most = 1e-5 if x.element_size() > 2 else 1e-2
            assert worst(got.nan_to_num(), wanted.nan_to_num()) < most, each


class running:
    """With one of the two kernels that verify windows."""

    def __init__(self, pair: Twin, kernel: str) -> None:
        self.pair, self.kernel = pair, kernel

    def __enter__(self) -> None:
        module: Any = self.pair.module
        self.configs = module.CONFIGS
        left_out = "verify" if self.kernel == "chunk" else "chunk"
        # which trees need where channels decay
        stays = left_out == "verify" and not self.pair.cache.table.chunk_trees
        configs = self.configs["default"].items()
        kept = {n: each for n, each in configs if n != left_out or stays}
        times = {GPU: self.configs[GPU]} if self.kernel == "chunk" and GPU in self.configs else {}
        module.CONFIGS = {"default": kept} | times

    def __exit__(self, *_: object) -> None:
        module: Any = self.pair.module
        module.CONFIGS = self.configs


@pytest.mark.parametrize("name", ["gated_deltanet", "olmo_hybrid", "comba", "efla"])
@pytest.mark.parametrize("noise", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_keys_that_are_alike(name: str, noise: float) -> None:
    model = untimed(name, K=32, V=16)
    most = alike.most(model, 48, noise, 1.0)
    for window in (8, 16):
        error = alike.run(model, 48, noise, 1.0, window)["S"]
        assert error <= most, (window, error)


# inputs as vectors of one tensor, nothing over V that tokens bring, and keys that are an input
# times the same number at all places
INPUTS = {
    "vectors_of_one_tensor": """
sizes: {H: 1, HV: 2, K: 16, V: 16, N: 3}
inputs:
  x: [N, H, K]
  v: [HV, V]
  b: [N, HV]
params:
  scale: [N]
state:
  S: [HV, K, V]
step: |
  k = l2norm(x[1])
  S = sigmoid(b[0]) * S
  S = S + outer(k, sigmoid(b[2]) * (scale[1] * v - k @ S))
  o = (l2norm(x[0]) + x[2]) @ S""",
    "values_of_no_token": """
sizes: {H: 1, HV: 2, K: 16, V: 16}
inputs:
  q: [H, K]
  k: [H, K]
  a: [HV]
params:
  z: [HV, V]
state:
  S: [HV, K, V]
step: |
  S = sigmoid(a) * S + outer(k, a * z)
  o = q @ S""",
    "keys_times_a_constant": """
sizes: {H: 1, HV: 2, K: 16, V: 16}
inputs:
  q: [H, K]
  k: [H, K]
  v: [HV, V]
  a: [HV]
state:
  S: [HV, K, V]
storage: {records: input}
step: |
  S = sigmoid(a) * S - outer(-k, v) * exp(a)
  o = q @ S""",
    "decays_of_heads_and_channels": """
sizes: {H: 1, HV: 2, K: 16, V: 16}
inputs:
  q: [H, K]
  k: [H, K]
  v: [HV, V]
  a: [HV]
  f: [H, K]
state:
  S: [HV, K, V]
step: |
  S = sigmoid(a) * S
  S = exp(logsigmoid(f)) * S
  S = S + outer(l2norm(k), sigmoid(a) * (v - l2norm(k) @ S))
  o = q @ S""",
    "channels_that_decay_as_they_do": """
sizes: {H: 1, HV: 2, K: 16, V: 16}
inputs:
  q: [H, K]
  k: [H, K]
  v: [HV, V]
params:
  f: {axes: [H, K], range: [0, inf]}
  w: [H, K]
state:
  S: [HV, K, V]
step: |
  S = exp(-f) * S + outer(k / (1 + w @ w), v)
  o = (w * q + w) @ S""",
    "keys_of_no_token": """
sizes: {H: 1, HV: 2, K: 16, V: 16}
inputs:
  q: [H, K]
  v: [HV, V]
  f: [H, K]
  a: [HV]
params:
  w: [H, K]
state:
  S: [HV, K, V]
step: |
  S = exp(logsigmoid(f)) * S + outer(w, v) + outer(w * f, sigmoid(a) * v)
  o = q @ S""",
    "keys_times_a_parameter": """
sizes: {H: 1, HV: 2, K: 16, V: 16}
inputs:
  q: [H, K]
  k: [H, K]
  v: [HV, V]
params:
  w: [HV]
state:
  S: [HV, K, V]
storage: {records: input}
step: |
  S = 0.5 * S + outer(w * k, v * v)
  o = q @ S""",
}


@pytest.mark.parametrize("kernel", ["chunk", "verify"])
@pytest.mark.parametrize("name", INPUTS)
def test_other_inputs(name: str, kernel: str) -> None:
    analysis = compiler.analyse(f"kvgen: 1\nname: {name}{INPUTS[name]}\n")
    assert chunks(analysis.form)
    model = Made(analysis, compiler.built(analysis, {}, untimed=True))
    pair = by_columns(Twin(model, "cpu", slots=6, layers=2, buffer=20, window=16, seed=5))
    with running(pair, kernel):
        serve(pair, Server(pair, random.Random(name), windows=range(2, 17, 2)), steps=6)


# which of the two runs ----------------------------------------------------------------------------


def test_windows_that_are_no_short_chains(launched: Callable[[Twin], list[str]]) -> None:
    pair = wide(MODULE, layers=1)
    pair.admit([1, 2])
    names = launched(pair)
    for tokens, kernel in {4: "chain", 5: "chunk", 16: "chunk"}.items():
        Verify(pair, [2, 1], tokens, counts=[0, 0]).run(0)
        assert names.pop() == kernel
    Verify(pair, [2, 1], 3, parents=[[-1, 0, 0]] * 2, counts=[0, 0]).run(0)
    assert names.pop() == "chunk"


@pytest.mark.parametrize("name", [*OF_CHANNELS, *FACTORED])
def test_trees_of_decaying_channels(name: str, launched: Callable[[Twin], list[str]]) -> None:
    """Scales are parts of one sum, as the paths of a tree have none; keys before their decay have
    no scales."""
    pair = wide(name, layers=1)
    assert chunks_trees(analysed(name, K=16, V=16).form) == (name in FACTORED)
    pair.admit([1, 2])
    names = launched(pair)
    Verify(pair, [2, 1], 6, counts=[0, 0]).run(0)
    assert names.pop() == "chunk"
    Verify(pair, [2, 1], 6, parents=[[-1, 0, 0, 1, 1, 4]] * 2, counts=[0, 0]).run(0)
    assert names.pop() == ("chunk" if name in FACTORED else "verify")


CONFIG = {"TILE": 16, "TILES": 1, "STAGES": 1, "num_warps": 1}
BY_COLUMNS = {**CONFIG, "EARLY": 1, "PDL": 1}


@pytest.mark.parametrize(
    ("tuned", "wanted"),
    [
        ({}, "chunk"),
        # a GPU's records from before there was the other kernel
        ({"verify": {64: {**CONFIG, "us": 9.0}}}, "verify"),
        ({"chunk": {64: {**BY_COLUMNS, "us": 9.0}}}, "chunk"),
        ({"verify": {8: {**CONFIG, "us": 9.0}}, "chunk": {8: {**BY_COLUMNS, "us": 8.0}}}, "chunk"),
        ({"verify": {8: {**CONFIG, "us": 7.0}}, "chunk": {8: {**BY_COLUMNS, "us": 8.0}}}, "verify"),
    ],
)
def test_the_one_that_is_tuned_runs(
    tuned: dict[str, Any], wanted: str, launched: Callable[[Twin], list[str]]
) -> None:
    pair = wide(MODULE, layers=1)
    pair.admit([1, 2])
    names = launched(pair)
    with on_a_gpu(pair, tuned):
        Verify(pair, [2, 1], 8, counts=[0, 0]).run(0)
    assert names == [wanted]


# of channels that decay

TIMES = [
    # estimates, and a GPU whose records are from before there was the other kernel
    ({}, "verify"),
    ({"verify": {64: {**CONFIG, "us": 9.0}}}, "verify"),
    # a GPU's own configuration, without a time of this buffer
    ({"chunk": {64: BY_COLUMNS}}, "verify"),
    ({"chunk": {64: {**BY_COLUMNS, "us": 9.0}}}, "chunk"),
    ({"verify": {8: CONFIG}, "chunk": {8: {**BY_COLUMNS, "us": 9.0}}}, "chunk"),
    ({"verify": {8: {**CONFIG, "us": 9.0}}, "chunk": {8: {**BY_COLUMNS, "us": 8.0}}}, "chunk"),
    ({"verify": {8: {**CONFIG, "us": 7.0}}, "chunk": {8: {**BY_COLUMNS, "us": 8.0}}}, "verify"),
]


@pytest.mark.parametrize("name", ["kimi_delta_attention", "rwkv7"])
@pytest.mark.parametrize(("tuned", "wanted"), TIMES)
def test_where_channels_decay_only_times_choose_it(
    name: str, tuned: dict[str, Any], wanted: str, launched: Callable[[Twin], list[str]]
) -> None:
    pair = wide(name, layers=1)
    pair.admit([1, 2])
    names = launched(pair)
    with on_a_gpu(pair, tuned):
        Verify(pair, [2, 1], 8, counts=[0, 0]).run(0)
    assert names == [wanted]


@contextmanager
def on_a_gpu(pair: Twin, tuned: dict[str, Any]) -> Iterator[None]:
    """With what is known of a GPU, which is nothing where nothing is tuned."""
    module: Any = pair.module
    known = module.CONFIGS
    pair.cache.gpu = "a GPU"
    module.CONFIGS = known | {"a GPU": tuned} if tuned else known
    try:
        yield
    finally:
        module.CONFIGS = known


@pytest.mark.parametrize(("name", "baked"), [("kimi_delta_attention", True), (MODULE, False)])
@pytest.mark.parametrize("cut", [{}, {"cut": 1}])
def test_times_of_windows_are_baked_where_they_choose(
    name: str, baked: bool, cut: dict[str, int]
) -> None:
    """A search for windows that was cut short has timed the kernel alone, as any does."""
    analysis = analysed(name, K=16, V=16)
    options = plan.Options((4,), "full", 100.0)
    goals = {goal.kernel: goal for goal in plan.goals(analysis, options)}
    for kernel, us in {"decode": 3.0, "verify": 9.0, "chunk": 8.0}.items():
        of = plan.key(analysis, goals[kernel], H200)
        config = {} if kernel == "decode" else {"config": BY_COLUMNS if us < 9 else CONFIG}
        at = {"at": {"batch": 4, **cut}} if kernel != "decode" else {}
        Store.default().add([record(of, us, spec=analysis.spec.name, **config, **at)])
    configs = compiler.built(analysis).CONFIGS[H200]
    found = [configs[kernel][4].get("us") for kernel in ("verify", "chunk")]
    assert found == ([9.0, 8.0] if baked else [None, None])


def test_a_search_runs_what_it_times() -> None:
    assert CHUNK.asked(BY_COLUMNS) == {**BY_COLUMNS, "us": 0.0}
    assert VERIFY.asked(CONFIG) == CONFIG


def test_what_is_asked_for_alone_runs_alone() -> None:
    analysis = analysed(MODULE, K=16, V=16)
    default = compiler.built(analysis, {}).CONFIGS["default"]
    assert {"verify", "chunk"} <= set(default)
    assert set(default) - set(VERIFY.alone(default)) == {"chunk"}
    assert CHUNK.alone(default) == default
