"""Prompts in blocks that are prepared side by side, against the recurrence in float64, in the
interpreter; which recurrences have such kernels, and when they run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import alike
import pytest
import torch
from by_columns import OF_CHANNELS, OF_HEADS, SIZES, STORED
from tuned_records import H200, record
from twins import analysed, ids, made, untimed, within_rounding

from kvgen import compiler
from kvgen.analysis import Analysis
from kvgen.checking.samples import Sampler, packed, padded, plain
from kvgen.checking.twin import Made, Tensors, Twin
from kvgen.checking.windows import Extend
from kvgen.codegen.operands import few_bits
from kvgen.kernels.extend import EXTEND
from kvgen.kernels.load import load_of
from kvgen.kernels.registry import kernels_of
from kvgen.kernels.size import SHARED, Size
from kvgen.kernels.sweep import SWEEP
from kvgen.shipped import resolve, shipped
from kvgen.tuning import plan
from kvgen.wisdom.store import Store

pytestmark = pytest.mark.usefixtures("rounded", "own")

SWEPT = [*OF_HEADS, *OF_CHANNELS]
TRIANGLES = [
    "comba", "deltanet", "efla", "gated_deltanet", "gated_deltanet2", "iplr",
    "kimi_delta_attention", "olmo_hybrid",
]  # fmt: skip
DEALT = list(zip(SWEPT, cycle(STORED), strict=False))
DEALT_AGAIN = [(name, storage) for name in SWEPT for storage in STORED]
MODULE = "gated_deltanet"
KERNELS = ["prepare", "sweep"]
# modules that run as if they had times of a sweep, with what they had before
TIMED: list[tuple[dict[str, Any], Any]] = []


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    while TIMED:
        configs, before = TIMED.pop()
        configs["sweep"] = before


def swept(name: str, *storage: str, **sizes: int) -> Made:
    """A module that takes prompts in blocks, as one whose sweep is tuned does."""
    model = untimed(name, *storage, **sizes)
    configs = model.module.CONFIGS["default"]
    TIMED.append((configs, configs["sweep"]))
    configs["sweep"] = {n: SWEEP.asked(each) for n, each in configs["sweep"].items()}
    return model


def long(name: str, *storage: str, sizes: dict[str, int] = SIZES[0], **options: Any) -> Twin:
    """A twin of a module with the kernels."""
    options = {"slots": 6, "layers": 2, "buffer": 8, **options}
    return Twin(swept(name, *storage, **sizes), "cpu", **options)


def serve(pair: Twin, lengths: list[list[int]]) -> None:
    """Prompts on fresh rows and on rows with records, of no token, of one and of odd numbers."""
    pair.admit([1, 4, 2])
    pair.step([1, 4])
    pair.step([1])
    for place, each in enumerate(lengths):
        pair.layout = (plain, packed, padded)[place % 3]
        pair.together(Extend(pair, [4, -1, 1, 2], each, max(each) + place % 2))
        pair.step([2, 4])
        pair.compare()
    within_rounding(pair)


def test_which_recurrences_have_them() -> None:
    forms = {each.name: compiler.analyse(resolve(each.name)).form for each in shipped()}
    # of 256 keys, vectors in three parts leave no room for anything else
    wanted = set(SWEPT) - {"comba", "gla"}
    assert {name for name, form in forms.items() if SWEEP.exists(form)} == wanted
    for name, form in forms.items():
        assert (SWEEP in kernels_of(form)) == (name in wanted)
        features = ("decode", "extend"), ("decode", "verify")
        analysis = compiler.analyse(resolve(name))
        texts = [compiler.emit(analysis, {}, each, untimed=True) for each in features]
        assert ["_sweep_kernel" in text for text in texts] == [name in wanted, False]


@pytest.mark.parametrize(("name", "storage"), DEALT)
def test_prompts(name: str, storage: str) -> None:
    pair = long(name, *storage.split(), sizes=SIZES[len(name) % 2], seed=1)
    serve(pair, [[150, 3, 65, 128]])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("name", "storage"), DEALT_AGAIN)
def test_more_prompts(name: str, storage: str, sizes: dict[str, int]) -> None:
    pair = long(name, *storage.split(), sizes=sizes, seed=2)
    serve(pair, [[66, 9, 0, 64], [1, 2, 130, 192], [63, 65, 200, 31]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("storage", ["state=bfloat16 records=input", "state=split"])
def test_inputs_of_sixteen_bits(storage: str, dtype: torch.dtype) -> None:
    pair = long(MODULE, *storage.split(), dtype=dtype, layers=1, seed=4)
    serve(pair, [[70, 3, 0, 129]])


@pytest.mark.parametrize("tile", [16, 32, 64])
def test_several_tiles_of_a_head(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = long(MODULE, sizes={"K": 16, "V": 64}, seed=6)
    config = {"TILE": tile, "STAGES": 1, "num_warps": 4, "us": 1.0}
    monkeypatch.setitem(pair.module.CONFIGS["default"], "sweep", {1: config})
    serve(pair, [[70, 3, 0, 129]])


def test_as_many_rows_at_a_time_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, launched: Callable[[Twin], list[str]]
) -> None:
    pair = long(MODULE, layers=1)
    monkeypatch.setattr(pair.module, "PREPARED", 1)
    names = launched(pair)
    serve(pair, [[70, 3, 0, 129]])
    assert names.count("sweep") == names.count("prepare") == 4


# what is hard on a solve --------------------------------------------------------------------------


def as_exact(name: str, tokens: int, noise: float, decay: float) -> None:
    model = made(name, K=32, V=16)
    most = alike.most(model, tokens, noise, decay)
    before = alike.run(model, tokens, noise, decay, 0)["S"]
    error = alike.run(swept(name, K=32, V=16), tokens, noise, decay, 0)["S"]
    # of writes of twice an erasure no prompt is as exact
    assert error <= max(most, 2 * before), (error, most, before)


@pytest.mark.parametrize("noise", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention", "olmo_hybrid"])
def test_keys_that_are_alike(name: str, noise: float) -> None:
    as_exact(name, 96, noise, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [96, 256])
@pytest.mark.parametrize("decay", [1.0, 0.99, 0.5])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("name", TRIANGLES)
def test_other_keys_that_are_alike(name: str, noise: float, decay: float, tokens: int) -> None:
    as_exact(name, tokens, noise, decay)


@pytest.mark.parametrize(
    "name",
    [
        "gated_deltanet",
        "olmo_hybrid",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("deltanet", "kimi_delta_attention")
        ),
    ],
)
def test_what_is_rounded_does_not_grow(name: str) -> None:
    """A state in 16 bits, the same key again and again, writes as strong as they get."""
    model = swept(name, "state=bfloat16", K=32, V=16)
    alone = alike.run(model, 192, 0.0, 1.0, 1)
    found = alike.run(model, 192, 0.0, 1.0, 0)
    assert found["S"] <= max(2 * alone["S"], 1e-2), (found, alone)


def test_which_roundings_grow() -> None:
    def few(name: str, state: str) -> bool:
        return few_bits(analysed(name, f"state={state}", K=32, V=16).form)

    found = {name for name in SWEPT if few(name, "bfloat16")}
    # writes of twice an erasure, keys that nothing bounds, a column that is no input
    assert set(OF_HEADS) - found == {"comba", "efla", "iplr", "olmo_hybrid"}
    assert not any(few(MODULE, state) for state in ("float32", "float16", "split"))


GATES = {
    # exactly 0, exactly 1, and sums of logs of thousands within a block
    "gated_deltanet": ("a", (3e38, -3e38, 60.0)),
    "mamba2": ("dt", (-3e38, 60.0, 400.0)),
    "simple_gla": ("g", (-3e38, 3e38, -90.0)),
    "kimi_delta_attention": ("f", (3e38, -3e38, 60.0)),
    "gla": ("g", (-3e38, 3e38, -90.0)),
}


@pytest.mark.parametrize("storage", ["state=float32", "state=bfloat16"])
@pytest.mark.parametrize("name", GATES)
def test_gates_that_are_saturated(name: str, storage: str) -> None:
    driver, values = GATES[name]

    def change(sampler: Sampler, tensors: Tensors, token: int | None) -> Tensors:
        if token is None or driver not in tensors:
            return tensors
        drawn = tensors[driver]
        chance = sampler.uniform(drawn) * 8
        for place, value in enumerate(values):
            drawn = drawn.masked_fill((chance >= place) & (chance < place + 1), value)
        return {**tensors, driver: drawn}

    pair = long(name, storage, layers=1, seed=3, change=change)
    serve(pair, [[150, 3, 65, 128]])


# which kernel runs --------------------------------------------------------------------------------


def test_prompts_of_more_than_a_block(launched: Callable[[Twin], list[str]]) -> None:
    for tokens, wanted in {64: ["extend"], 65: KERNELS, 200: KERNELS}.items():
        pair = long(MODULE, layers=1)
        pair.admit([1, 2])
        names = launched(pair)
        Extend(pair, [2, 1], [tokens, 5]).run(0)
        assert names == wanted


def test_prompts_of_rows_that_must_not_see_each_other(
    launched: Callable[[Twin], list[str]],
) -> None:
    """One row's length must not decide which kernel another one's bits come from."""
    pair = long(MODULE, layers=1)
    sampler = Sampler(pair.form.spec, "cpu", 7)
    given = {name: x[None] for name, x in sampler.inputs(140, torch.float32).items()}
    names = launched(pair)
    cache = pair.module.Cache.empty(3, 1, device="cpu", dtype=torch.float32, invariant=True)
    pair.module.extend(cache, 0, ids(2), **given, **sampler.params(), lengths=ids(140))
    assert [name for name in names if name in (*KERNELS, "extend")] == ["extend"]


STARTS = ([0, 70, 70, 270, 275], [3, 64, 200, 200, 329], [0, 0, 1, 2, 400])


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize("name", ["gated_deltanet", "mamba2"])
def test_prompts_one_behind_the_other(
    name: str, starts: list[int], launched: Callable[[Twin], list[str]]
) -> None:
    """What lies in front of the first, behind the last and in no row is blank; bits are those of
    prompts that are padded."""
    pair = long(name, layers=1, seed=5)
    tokens, module = starts[-1] + 7, pair.module
    sampler = Sampler(pair.form.spec, "cpu", 7)
    given, params = sampler.inputs(tokens, torch.float32), sampler.params()
    slots, places = ids(2, 0, -1, 1), torch.tensor(starts, dtype=torch.int32)
    caches = [module.Cache.empty(3, 1, device="cpu", dtype=torch.float32) for _ in range(2)]
    names = launched(pair)
    out = module.extend(caches[0], 0, slots, **given, **params, starts=places)
    lengths = places.diff()
    most = max(int(lengths.max()), 65)
    rows = {
        key: torch.stack([torch.cat([x, x])[start : start + most] for start in starts[:-1]])
        for key, x in given.items()
    }
    wanted = module.extend(caches[1], 0, slots, **rows, **params, lengths=lengths)
    assert [each for each in names if each in (*KERNELS, "extend")] == KERNELS * 2
    left = torch.ones(tokens, dtype=torch.bool)
    for row, (start, length) in enumerate(zip(starts, lengths.tolist(), strict=False)):
        assert torch.equal(out[start : start + length], wanted[row, :length])
        if slots[row] >= 0:
            left[start : start + length] = False
    assert not out[left].any() and not out.isnan().any()
    for each, x in caches[0].tensors.items():
        assert torch.equal(x, caches[1].tensors[each]) or "work" in each, each


CONFIG = {"TILE": 16, "STAGES": 1, "num_warps": 4}
IN_ORDER = {**CONFIG, "TOKENS": 16}


@pytest.mark.parametrize(
    ("tuned", "wanted"),
    [
        ({}, ["extend"]),
        ({"extend": {8: {**IN_ORDER, "us": 9.0}}}, ["extend"]),
        # only what has been timed on a GPU runs there
        ({"sweep": {8: CONFIG}}, ["extend"]),
        ({"sweep": {8: {**CONFIG, "us": 9.0}}}, KERNELS),
        ({"extend": {8: {**IN_ORDER, "us": 9.0}}, "sweep": {8: {**CONFIG, "us": 8.0}}}, KERNELS),
        ({"extend": {8: {**IN_ORDER, "us": 7.0}}, "sweep": {8: {**CONFIG, "us": 8.0}}}, ["extend"]),
    ],
)
def test_the_one_that_is_faster_runs(
    tuned: dict[str, Any], wanted: list[str], launched: Callable[[Twin], list[str]]
) -> None:
    pair = long(MODULE, layers=1)
    pair.admit([1, 2])
    module: Any = pair.module
    names, before = launched(pair), module.CONFIGS
    pair.cache.gpu = "a GPU"
    module.CONFIGS = before | {"a GPU": tuned} if tuned else before
    try:
        Extend(pair, [2, 1], [70, 5]).run(0)
    finally:
        module.CONFIGS = before
    assert names == wanted


def searched(analysis: Analysis, effort: str) -> list[plan.Goal]:
    return plan.goals(analysis, plan.Options((4, 64), effort, 100.0))


def test_what_is_tuned_is_chosen(
    launched: Callable[[Twin], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the goals of a search to the kernels that a module launches."""
    analysis = analysed(MODULE, K=16, V=16)
    for effort, wanted in (("quick", []), ("full", [1, 8])):
        goals = [each for each in searched(analysis, effort) if each.kernel == "sweep"]
        assert [each.batch for each in goals] == wanted
    # a GPU on which no decode is tuned counts as unknown
    decode = plan.key(analysis, plan.Goal("decode", 4), H200)
    Store.default().add([record(decode, spec=analysis.spec.name)])
    for goal in goals:
        of = plan.key(analysis, goal, H200)
        config = {**CONFIG, "STAGES": goal.batch}
        Store.default().add([record(of, 9.0, spec=analysis.spec.name, config=config)])
    module = compiler.built(analysis)
    assert {n: each["us"] for n, each in module.CONFIGS[H200]["sweep"].items()} == {1: 9.0, 8: 9.0}
    for gpu, names in ((H200, KERNELS), ("another GPU", ["extend"])):
        monkeypatch.setattr(module, "gpu_name", lambda table, device, gpu=gpu: gpu)
        pair = Twin(Made(analysis, module), "cpu", slots=6, layers=1, buffer=8)
        pair.reset([1])
        heard = launched(pair)
        pair.together(Extend(pair, [1], [70]))
        assert [each for each in heard if each in (*KERNELS, "extend")] == names


def test_a_search_runs_what_it_times() -> None:
    default = untimed(MODULE, K=16, V=16).module.CONFIGS["default"]
    assert "us" not in str(default["sweep"])
    assert SWEEP.asked(CONFIG) == {**CONFIG, "us": 0.0} and EXTEND.asked(IN_ORDER) == IN_ORDER


@pytest.mark.parametrize("state", ["float32", "split", "bfloat16", "float16"])
def test_rules_fit_a_gpu(state: str) -> None:
    """For one row as for many, by what blocks in flight are reckoned to take."""
    for each in shipped():
        analysis = compiler.analyse(resolve(each.name), {"storage.state": state})
        if not SWEEP.exists(analysis.form):
            continue
        load, size = load_of(analysis.form, analysis.records), Size(analysis.form, analysis.records)
        for config in SWEEP.untuned(load).values():
            assert SWEEP.need(size, config).shared <= SHARED["sm_90"], (each.name, config)
            assert SWEEP.is_safe(analysis.form, config), (each.name, config)


def test_what_is_prepared() -> None:
    """As much as the host makes room for, whatever is prepared."""
    for name, few in itertools.product(SWEPT, ("bfloat16", "float32")):
        blocks: Any = untimed(name, f"state={few}", K=16, V=16).module.Cache.table.blocks
        assert blocks.tokens == 64 and blocks.numbers % 64 == 0
        matrices = (2 if name == "iplr" else 1) + (name in TRIANGLES)
        assert blocks.halves >= 64 * 64 * matrices
