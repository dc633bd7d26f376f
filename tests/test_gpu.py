"""On a GPU, at real sizes: `pytest -m gpu`, or with `-n 8`, for most of the time goes to compiling.

The checks, drift over thousands of tokens, whole model steps captured in a CUDA graph, and what an
interpreter cannot show: that nothing waits for the device, nothing is allocated, and offsets and
grids are large enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from twins import LAYERS, OTHERS, SPECS, within

from benchmarks.drift import LAST, MODES, TOKENS, drift
from kvgen import compiler
from kvgen.checking.check import check
from kvgen.checking.errors import worst
from kvgen.checking.interpreter import require
from kvgen.checking.twin import Made, Tensors, Twin
from kvgen.shipped import resolve

pytestmark = pytest.mark.gpu

STORED = [
    {"storage.state": "split", "storage.records": "input"},
    {"storage.state": "bfloat16", "storage.records": "input"},
    {"storage.state": "float16"},
    {"storage.records": "input", "storage.layout": "vk"},
]

# sums that never decay, or less and less: they grow less exact in any float32
UNDECAYED = ("iplr", "lightnet", "linear_attention", "normalised_linear_attention")
STORAGE_CASES = ("decode, rows out of phase", "bfloat16 inputs", "recurrent, after decodes")


@pytest.fixture(autouse=True)
def gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    require("cuda")


def name_of(value: object) -> str | None:
    """How pytest calls a set of overrides."""
    return "-".join(value.values()) or "float32" if isinstance(value, dict) else None


def made(name: str, overrides: dict[str, str]) -> Made:
    analysis = compiler.analyse(resolve(name), overrides)
    return Made(analysis, compiler.built(analysis))


# the checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_check(name: str) -> None:
    report = check(compiler.analyse(resolve(name)), "cuda")
    assert report.ok, [row for row in report.rows if not row.ok]


@pytest.mark.parametrize("overrides", STORED, ids=name_of)
@pytest.mark.parametrize("name", SPECS)
def test_check_of_storage_modes(name: str, overrides: dict[str, str]) -> None:
    report = check(compiler.analyse(resolve(name), overrides), "cuda", only=STORAGE_CASES)
    assert report.ok, [row for row in report.rows if not row.ok]


@pytest.mark.parametrize("overrides", [{}, STORED[0], {"storage.state": "bfloat16"}], ids=name_of)
@pytest.mark.parametrize("name", [*OTHERS, *LAYERS])
def test_check_of_the_family(name: str, overrides: dict[str, str]) -> None:
    report = check(compiler.analyse(resolve(name), overrides), "cuda", only=STORAGE_CASES)
    assert report.ok, [row for row in report.rows if not row.ok]


# drift -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SPECS, *OTHERS])
def test_drift(name: str) -> None:
    found = {(each.mode, each.tokens): each for each in drift(name, "cuda")}
    assert set(found) == {(mode, length) for mode in MODES for length in TOKENS}
    assert min(TOKENS) >= LAST
    for length in TOKENS:
        plain = found["recurrent", length].state
        assert plain <= 2e-5
        assert found["float32", length].state <= 2 * plain
        assert found["split", length].state <= 3e-5
        assert found["float32", length].output <= 4e-3
        assert found["split", length].output <= 6e-3
    first, middle, last = (found["split", length].state for length in TOKENS)
    level = max(first, middle)
    if name in UNDECAYED:
        level = max(level, found["recurrent", TOKENS[-1]].state)
    assert last <= 2 * level


# model steps -------------------------------------------------------------------------------------


@contextmanager
def no_waiting() -> Iterator[None]:
    """Whatever waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def allocations() -> int:
    """How many blocks of device memory have been asked for so far."""
    return torch.cuda.memory_stats()["allocation.all.allocated"]


def frugal(run: Callable[[], object]) -> None:
    """Run what neither waits for the device nor asks it for memory."""
    before = allocations()
    with no_waiting():
        run()
    assert allocations() == before


def captured(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        frugal(run)
    return graph


class ModelStep:
    """Decodes of every layer and an `advance` on tensors that stay where they are."""

    def __init__(self, pair: Twin, rows: int) -> None:
        self.pair = pair
        self.slots = pair.ids([-1] * rows)
        self.force = torch.zeros(rows, dtype=torch.bool, device="cuda")
        self.inputs = [pair.sampler.inputs(rows, pair.dtype) for _ in range(pair.layers)]
        shape = (rows, pair.cache.heads, pair.form.spec.size("V"))
        kind = {"dtype": pair.dtype, "device": "cuda"}
        self.out = [torch.full(shape, float("nan"), **kind) for _ in range(pair.layers)]

    def run(self) -> None:
        pair = self.pair
        for layer in range(pair.layers):
            given = {**self.inputs[layer], **pair.params[layer]}
            pair.module.decode(pair.cache, layer, self.slots, **given, out=self.out[layer])
        pair.module.advance(pair.cache, self.slots, self.force)

    def fill(self, slots: list[int], force: list[bool]) -> list[Tensors]:
        """New values in the same places; the inputs, by layer."""
        self.slots.copy_(self.pair.ids(slots))
        self.force.copy_(torch.tensor(force))
        drawn = [self.pair.inputs(slots) for _ in range(self.pair.layers)]
        for layer, given in enumerate(drawn):
            for key, value in given.items():
                self.inputs[layer][key].copy_(value)
            self.out[layer].fill_(float("nan"))
        return drawn

    def compare(self, slots: list[int], drawn: list[Tensors]) -> None:
        live = [row for row, slot in enumerate(slots) if slot >= 0]
        used = [slots[row] for row in live]
        for layer, given in enumerate(drawn):
            wanted = self.pair.exact(layer, used, {key: x[live] for key, x in given.items()})
            self.pair.note("output", worst(self.out[layer][live], wanted))
            absent = self.out[layer][[row for row in range(len(slots)) if row not in live]]
            self.pair.note("padding", absent.abs().sum().item())


@pytest.mark.parametrize(
    "overrides", [{}, {"storage.state": "split", "storage.records": "input"}], ids=name_of
)
@pytest.mark.parametrize("name", SPECS)
def test_a_graph_replays_while_slots_and_cursors_change(
    name: str, overrides: dict[str, str]
) -> None:
    pair = Twin(
        made(name, overrides), "cuda", slots=9, layers=3, buffer=4, dtype=torch.bfloat16, seed=5
    )
    step = ModelStep(pair, rows=4)
    # compiles, on padding rows
    step.run()
    # without a graph, and in the making of one
    frugal(step.run)
    graph = captured(step.run)

    never, first, third = [False] * 4, [True, False, False, False], [False, False, True, False]
    schedule = [
        ([7, 2, -1, -1], never, [7, 2]),
        ([2, 7, 0, -1], never, [0]),
        ([0, -1, 2, 7], third, []),
        ([2, 7, 0, 5], never, [5]),
        ([5, 2, 7, 0], never, []),
        ([0, 5, -1, 2], first, []),
        ([5, 0, 2, 7], never, [2]),
        ([2, 5, 7, 0], never, []),
        ([-1, -1, -1, -1], never, []),
        ([7, 0, 5, 2], never, [7]),
        ([0, 7, 2, 5], never, []),
        ([7, 2, 5, 0], never, []),
    ]
    for token, (slots, force, admitted) in enumerate(schedule):
        if admitted:
            pair.admit(admitted)
        drawn = step.fill(slots, force)
        frugal(graph.replay)
        step.compare(slots, drawn)
        if token == 4:
            pair.copy([5], [8])
        if token == 7:
            pair.flush([0, 8])
        if token % 3 == 2:
            pair.compare()
    pair.compare()
    within(pair)


def test_advance_flush_and_reset_wait_for_nothing() -> None:
    pair = Twin(made("gated_deltanet", {}), "cuda", slots=9, layers=2, buffer=4)
    slots, others = pair.ids([3, 1, -1]), pair.ids([4, 5, 6])
    pair.admit([3, 1])

    def everything() -> None:
        pair.module.advance(pair.cache, slots)
        pair.module.flush(pair.cache, slots)
        pair.module.flush(pair.cache)
        pair.cache.copy(slots, others)
        pair.cache.reset(slots)

    # compiles
    everything()
    frugal(everything)


def test_values_are_checked_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Twin(made("gated_deltanet", {}), "cuda", slots=4, layers=1)
    monkeypatch.setenv("KVGEN_CHECK", "1")
    with pytest.raises(ValueError, match="slots: slot 4"):
        pair.module.advance(pair.cache, pair.ids([4]))
    monkeypatch.delenv("KVGEN_CHECK")
    pair.admit([1, 2])
    pair.step([1, 2])
    # without the check, a slot that does not exist is a padding row
    inputs = pair.sampler.inputs(3, torch.float32)
    out = pair.module.decode(pair.cache, 0, pair.ids([1, 4, 2]), **inputs, **pair.params[0])
    assert not out[1].any()
    pair.module.advance(pair.cache, pair.ids([10**6, 4]))
    pair.compare()
    within(pair)


# large grids and offsets -------------------------------------------------------------------------


def test_many_rows_times_heads() -> None:
    """More programs than the second axis of a grid may have."""
    sizes = {"sizes.H": "64", "sizes.HV": "64", "sizes.K": "16", "sizes.V": "16"}
    pair = Twin(made("lightning_attention", sizes), "cuda", slots=1100, layers=1, buffer=2)
    slots = torch.randperm(1100, generator=torch.Generator().manual_seed(0)).tolist()
    pair.admit(slots)
    for kernel in ("decode", "decode", "recurrent"):
        pair.step(slots, kernel=kernel)
    pair.compare()
    within(pair)


@pytest.mark.parametrize("state", ["bfloat16", "split"])
def test_offsets_beyond_32_bits(state: str) -> None:
    """Two slots more than 2^31 elements apart, as in a server's large pool."""
    free, _ = torch.cuda.mem_get_info()
    planes = ["S"] if state == "bfloat16" else ["S_hi", "S_lo"]
    if free < 6e9 * len(planes):
        pytest.skip("needs more device memory")
    pair = Twin(
        made("lightning_attention", {"storage.state": state, "sizes.H": "2", "sizes.HV": "2"}),
        "cuda", slots=2, layers=2, buffer=2,
    )  # fmt: skip
    tensors = dict(pair.cache.tensors)
    stride = 2**31 + 64
    for name in planes:
        x = tensors[name]
        pool = torch.empty(stride + x[0].numel(), dtype=x.dtype, device="cuda")
        tensors[name] = pool.as_strided(x.shape, (stride, *x.stride()[1:])).copy_(x)
    pair.cache = pair.module.Cache.wrap(tensors)
    pair.admit([1, 0])
    for kernel in ("decode", "decode", "decode", "recurrent", "decode"):
        pair.step([1, 0], kernel=kernel)
    pair.compare()
    pair.copy([0], [1])
    pair.step([1, 0])
    pair.compare()
    within(pair)
