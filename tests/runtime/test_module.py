"""What a generated module promises: the cache, the protocol, random schedules."""

from __future__ import annotations

import builtins
import inspect
import math
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import SPECS, STATES, analysed, changed, ids, made, ratio, snapshot, twin, within

from kvgen import compiler
from kvgen.checking.errors import worst
from kvgen.checking.samples import packed
from kvgen.checking.twin import Made, Twin, bits
from kvgen.language.names import refusal

pytestmark = pytest.mark.usefixtures("rounded")


# the cache ---------------------------------------------------------------------------------------


def test_an_empty_cache_is_fresh() -> None:
    module = made("gated_deltanet").module
    cache = module.Cache.empty(3, 2, device="cpu", buffer=5)
    assert (cache.slots, cache.layers, cache.heads, cache.buffer) == (3, 2, 2, 5)
    assert cache.dtype == torch.bfloat16 and cache.window == 0
    assert cache.cursors.tolist() == [0, 0, 0] and cache.cursors.dtype == torch.int32
    assert not cache.read(1, ids(2, 0, 1)).any()
    assert set(cache.tensors) == {
        *("S", "k", "log_decay", "d"),
        *("cursors", "skipped", "pending", "work"),
    }
    assert all(x.shape[:2] == (3, 2) for x in cache.tensors.values() if x.dim() > 1)
    assert cache.cursors is cache.tensors["cursors"]


@pytest.mark.parametrize("state", STATES)
def test_bytes_per_slot(state: str) -> None:
    cache = made("kimi_delta_attention", f"state={state}").module.Cache.empty(
        4, 3, device="cpu", buffer=6
    )
    names = [name for name in cache.tensors if name != "work"]
    total = sum(cache.tensors[name].numel() * cache.tensors[name].element_size() for name in names)
    assert cache.bytes_per_slot * 4 == total
    heads, element = 1, {"float32": 4, "split": 4}.get(state, 2)
    assert cache.bytes_per_slot > 3 * heads * 16 * 8 * element


def test_a_buffer_holds_the_window() -> None:
    module = made("gated_deltanet").module
    plain = module.Cache.empty(1, device="cpu")
    assert module.Cache.empty(1, device="cpu", window=plain.buffer + 3).buffer == plain.buffer + 3


def test_rows_fold_when_the_window_no_longer_fits() -> None:
    pair = twin("gated_deltanet", buffer=5, window=3)
    pair.reset([0])
    seen = []
    for _ in range(5):
        pair.step([0])
        seen += pair.cache.cursors[:1].tolist()
    assert seen == [1, 2, 0, 1, 2]
    pair.compare()
    within(pair)


def strided(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The same tensors with an odd number of elements from slot to slot, and the gaps between."""
    found: dict[str, torch.Tensor] = {}
    gaps: list[torch.Tensor] = []
    for name, x in tensors.items():
        found[name] = x
        if x.dim() > 1:
            size = x[0].numel()
            whole = torch.full((x.shape[0], size + 7), 77, dtype=x.dtype)
            found[name] = whole[:, :size].unflatten(1, x.shape[1:]).copy_(x)
            gaps.append(whole[:, size:])
    return found, gaps


@pytest.mark.parametrize(("name", "state"), list(zip(SPECS, STATES, strict=True)))
def test_wrap_adopts_memory_of_any_slot_stride(name: str, state: str) -> None:
    pair = twin(name, f"state={state}", layers=2)
    tensors, gaps = strided(pair.cache.tensors)
    for own in ("cursors", "skipped", "pending", "work"):
        del tensors[own]
    pair.cache = pair.module.Cache.wrap(tensors)
    assert all(pair.cache.tensors[each].data_ptr() == x.data_ptr() for each, x in tensors.items())
    books = ("cursors", "skipped", "pending")
    pair.kept |= {each: pair.cache.tensors[each].clone() for each in books}
    pair.admit([6, 1, 3])
    pair.step([3, 6, 1])
    pair.step([1, -1, 3], kernel="recurrent")
    pair.step([6, 3, -1])
    pair.copy([3], [5])
    pair.step([5, 3, 1], force=[True, False, False])
    pair.compare()
    within(pair)
    assert all((gap == 77).all() for gap in gaps)


# states ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["kv", "vk"])
@pytest.mark.parametrize("state", STATES)
def test_load_and_read(state: str, layout: str) -> None:
    pair = twin("gated_deltanet", f"state={state}", f"layout={layout}", layers=2)
    wide = torch.randn(3, 2, 16, 11)
    given = wide[..., :8]
    kept = given if state == "split" else given.to(getattr(torch, state)).float()
    pair.reset([5, 1])
    pair.cache.load(1, ids(5, -1, 1), given)
    got = pair.cache.read(1, ids(1, 5, -1))
    assert torch.equal(got[:2], kept[[2, 0]])
    assert not got[2].any()
    assert not pair.cache.read(0, ids(1, 5)).any()
    assert pair.cache.cursors.tolist() == [0] * 8
    stored = pair.cache.tensors["S_hi" if state == "split" else "S"]
    assert stored[[0, 2, 3, 4, 6, 7]].isnan().all()


def test_a_split_state_keeps_every_bit() -> None:
    pair = twin("lightning_attention", "state=split")
    special = torch.tensor([0.0, -0.0, 1e-45, -3e-39, 3.4028234e38, -3.4028234e38, 1.0, 1 + 2**-9])
    pattern = torch.randint(-(2**31), 2**31, (2, 1, 16, 8), dtype=torch.int64).to(torch.int32)
    given = pattern.view(torch.float32)
    given = torch.where(given.isfinite(), given, 1.5)
    given[0, 0, 0] = special
    pair.reset([0, 3])
    pair.cache.load(0, ids(3, 0), given)
    assert torch.equal(bits(pair.cache.read(0, ids(3, 0))), bits(given))
    whole = bits(given).to(torch.int64)
    high = (whole + 0x8000) >> 16
    low = whole - (high << 16)
    hi, lo = pair.cache.tensors["S_hi"], pair.cache.tensors["S_lo"]
    assert hi.dtype == torch.bfloat16 and lo.dtype == torch.int16
    assert torch.equal(bits(hi[[3, 0], 0]), high.to(torch.int16))
    assert torch.equal(lo[[3, 0], 0], low.to(torch.int16))


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention"])
def test_a_split_fold_is_the_plain_float32_kernel(name: str) -> None:
    """The same tokens: the split state is bit for bit what the float32 state becomes."""
    pairs = [twin(name, each, seed=3) for each in ("state=split", "state=float32")]
    given = [pairs[0].sampler.states(2)]
    for pair in pairs:
        pair.reset([2, 5])
        pair.load([2, 5], given)
        pair.sampler.generator.manual_seed(9)
    for _ in range(4):
        pairs[0].step([5, 2])
        pairs[1].step([5, 2], kernel="recurrent")
    split, plain = (pair.cache.read(0, ids(2, 5)) for pair in pairs)
    assert pairs[0].cache.cursors[[2, 5]].tolist() == [0, 0]
    assert worst(split, plain) <= 1e-7


def test_read_and_decode_leave_the_cache_as_it_is() -> None:
    pair = twin("gated_deltanet", layers=2)
    pair.admit([4, 2])
    pair.step([4, 2])
    pair.step([2, 4])
    before = snapshot(pair)
    pair.compare()
    assert changed(before, snapshot(pair)) == set()
    inputs = pair.sampler.inputs(2, torch.float32)
    pair.module.decode(pair.cache, 1, ids(4, 2), **inputs, **pair.params[1])
    after = snapshot(pair)
    assert changed(before, after) == {"k", "log_decay", "d"}
    for name in ("k", "log_decay", "d"):
        other = before[name] != after[name]
        other = other.reshape(*other.shape[:4], -1).any(-1).nonzero()
        assert {(slot, layer, place) for slot, layer, _, place in other.tolist()} == {
            (4, 1, 2),
            (2, 1, 2),
        }


def test_cursors_are_the_callers_to_set() -> None:
    pair = twin("gated_deltanet")
    pair.admit([1])
    pair.step([1])
    pair.flush()
    folded = pair.cache.read(0, ids(1))
    pair.step([1])
    pair.step([1])
    pair.cache.cursors[1] = 0
    assert torch.equal(pair.cache.read(0, ids(1)), folded)


@pytest.mark.parametrize(("name", "state"), list(zip(SPECS, reversed(STATES), strict=True)))
def test_a_copy_goes_on_as_its_source(name: str, state: str) -> None:
    pair = twin(name, f"state={state}", layers=2)
    pair.admit([0, 6])
    pair.step([0, 6], force=[True, False])
    pair.step([0, 6])
    pair.copy([6, 0], [3, 1])
    assert pair.cache.cursors.tolist() == [1, 1, 0, 2, 0, 0, 2, 0]
    for x in snapshot(pair).values():
        assert torch.equal(x[6], x[3]) and torch.equal(x[0], x[1])
    pair.step([3, 0, 1])
    pair.compare()
    within(pair)
    before = snapshot(pair)
    pair.cache.copy(ids(-1, 0), ids(2, -1))
    assert changed(before, snapshot(pair)) == set()
    pair.compare()
    within(pair)


# steps -------------------------------------------------------------------------------------------


@pytest.mark.newest
@pytest.mark.parametrize("kernel", ["decode", "recurrent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_out(kernel: str, dtype: torch.dtype) -> None:
    pair = twin("gated_deltanet", dtype=dtype)
    pair.admit([1, 2])
    inputs = packed(pair.sampler.inputs(3, dtype))
    call = getattr(pair.module, kernel)
    state = pair.cache.read(0, ids(1, 2))
    got = call(pair.cache, 0, ids(2, -1, 1), **inputs, **pair.params[0])
    assert got.shape == (3, 2, 8) and got.dtype == dtype
    wide = torch.full((3, 2, 11), math.nan, dtype=dtype)
    pair.cache.load(0, ids(1, 2), state)
    again = call(pair.cache, 0, ids(2, -1, 1), **inputs, **pair.params[0], out=wide[..., :8])
    assert again.data_ptr() == wide.data_ptr()
    assert torch.equal(again, got)
    assert wide[..., 8:].isnan().all()


def test_only_padding_rows() -> None:
    pair = twin("mamba2")
    before = snapshot(pair)
    out = pair.step([-1, -1], force=[True, True])[0]
    pair.cache.reset(ids(-1))
    pair.flush([-1, -1])
    assert not out.any()
    assert changed(before, snapshot(pair)) == set()


def test_no_rows() -> None:
    pair = twin("mamba2")
    before = snapshot(pair)
    inputs = pair.sampler.inputs(0, torch.float32)
    out = pair.module.decode(pair.cache, 0, ids(), **inputs, **pair.params[0])
    assert out.shape == (0, 2, 8)
    pair.module.advance(pair.cache, ids())
    pair.module.flush(pair.cache, ids())
    pair.cache.copy(ids(), ids())
    assert pair.cache.read(0, ids()).shape == (0, 2, 16, 8)
    assert changed(before, snapshot(pair)) == set()


def test_advance_moves_the_rows_of_the_step_only() -> None:
    pair = twin("lightning_attention", buffer=3)
    pair.admit([0, 1, 2])
    pair.step([2, -1, 0])
    assert pair.cache.cursors.tolist()[:3] == [1, 0, 1]
    pair.step([1, 0, 2], force=[False, True, False])
    assert pair.cache.cursors.tolist()[:3] == [0, 1, 2]
    pair.step([2, 0], force=[False, False])
    assert pair.cache.cursors.tolist()[:3] == [1, 1, 0]
    pair.compare()
    within(pair)


def test_flush_folds_what_is_there() -> None:
    pair = twin("kimi_delta_attention", layers=2)
    pair.admit([0, 1, 7])
    pair.step([7, 1])
    pair.step([1, 0])
    pair.flush([7, 0, -1])
    assert pair.cache.cursors.tolist() == [0, 2, 0, 0, 0, 0, 0, 0]
    pair.compare()
    before = snapshot(pair)
    pair.flush([0, 7])
    assert changed(before, snapshot(pair)) == set()
    pair.flush()
    assert not pair.cache.cursors.any()
    pair.compare()
    within(pair)


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
def test_a_flush_leaves_a_plain_step_to_its_advance(name: str) -> None:
    """The plain kernel has folded what the row held: folding it again would count it twice."""
    pairs = [twin(name, seed=5) for _ in range(2)]
    states = []
    for flushed, pair in zip((False, True), pairs, strict=True):
        pair.admit([3, 1])
        pair.step([3, 1])
        advance = pair.module.advance

        def flush_first(*given: object, pair: Twin = pair, advance=advance) -> None:
            pair.module.flush(pair.cache)
            advance(*given)

        with pytest.MonkeyPatch.context() as patch:
            if flushed:
                patch.setattr(pair.module, "advance", flush_first)
            pair.step([1, 3], kernel="recurrent")
        pair.step([3, 1])
        pair.compare()
        within(pair)
        states.append(pair.read(0, [1, 3]))
    assert all(torch.equal(states[0][each], states[1][each]) for each in states[0])


def test_a_tile_must_hold_what_is_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = twin("gated_oja")
    for kernel, batches in pair.module.CONFIGS["default"].items():
        small = {batch: {**config, "TILE": 4} for batch, config in batches.items()}
        monkeypatch.setitem(pair.module.CONFIGS["default"], kernel, small)
    pair.admit([1])
    for kernel in ("decode", "recurrent"):
        with pytest.raises(Exception, match="TILE: expected at least V"):
            pair.step([1], kernel=kernel)


def test_a_dropped_step_leaves_no_trace() -> None:
    pair = twin("gated_deltanet")
    pair.admit([3])
    pair.step([3])
    before = pair.cache.read(0, ids(3))
    for _ in range(2):
        inputs = pair.sampler.inputs(1, torch.float32)
        pair.module.decode(pair.cache, 0, ids(3), **inputs, **pair.params[0])
    assert torch.equal(pair.cache.read(0, ids(3)), before)
    first = pair.module.decode(pair.cache, 0, ids(3), **inputs, **pair.params[0])
    second = pair.module.decode(pair.cache, 0, ids(3), **inputs, **pair.params[0])
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["gated_deltanet", "kimi_delta_attention"])
def test_heads_are_read_from_the_tensors(name: str) -> None:
    """One module serves any number of heads: a shard's outputs are a slice of the whole's."""
    group = ratio(name)
    module, spec = made(name, H=2, HV=2 * group).module, analysed(name).spec
    torch.manual_seed(0)
    whole = {"H": 2, "HV": 2 * group, "K": 16, "V": 8}
    tensors = {
        t.name: torch.randn(*((2,) if t.kind == "input" else ()), *(whole[a] for a in t.axes))
        for t in (*spec.inputs, *spec.params)
    }
    shards = {}
    for t in (*spec.inputs, *spec.params):
        at = next(i for i, axis in enumerate(t.axes) if axis in ("H", "HV")) + (t.kind == "input")
        count = tensors[t.name].shape[at] // 2
        shards[t.name] = tensors[t.name].narrow(at, count, count).contiguous()
    outputs = []
    for passed, heads in ((tensors, None), (shards, group)):
        cache = module.Cache.empty(2, device="cpu", dtype=torch.float32, buffer=2, heads=heads)
        for _ in range(3):
            out = module.decode(cache, 0, ids(1, 0), **passed)
            module.advance(cache, ids(1, 0))
        outputs.append(out)
    assert outputs[1].shape == (2, group, 8)
    assert torch.equal(outputs[0][:, group:], outputs[1])


# the module --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_attributes(name: str) -> None:
    module = made(name).module
    text = compiler.emit(compiler.analyse(module.SPEC["text"]))
    assert text == compiler.emit(analysed(name))
    assert module.SPEC["name"] == name and len(module.SPEC["hash"]) == 16
    assert module.FORM.strip()
    assert {"decode", "recurrent", "fold"} <= set(module.CONFIGS["default"])
    assert all(module.best(batch) in ("decode", "recurrent") for batch in (1, 8, 1000))


@pytest.mark.parametrize("name", [*SPECS, "mlstm"])
def test_a_spec_cannot_take_the_names_of_locals(name: str) -> None:
    """An input called `rows` would be overwritten before it is used."""
    module, spec = made(name).module, analysed(name).spec
    own = {t.name for t in (*spec.inputs, *spec.params, *spec.states)}
    own |= {size for size, _ in spec.sizes} | {each.target for each in spec.steps} | {"o"}
    inputs = {tensor.name for tensor in spec.inputs}
    calls = [f for f in vars(module).values() if inspect.isfunction(f) and takes(f, inputs)]
    wanted = {"decode", "recurrent", "verify", "extend", "reference"}
    assert wanted <= {call.__name__ for call in calls}
    for call in calls:
        names = {local for local in call.__code__.co_varnames if not local.startswith("_")}
        names |= set(call.__code__.co_names) & set(dir(builtins))
        assert not [local for local in names - own if refusal(local) is None]
    pair = twin(name)
    kept = set(pair.cache.tensors) - own - {stored.name for stored in pair.records.stored}
    assert all(refusal(each) for each in kept)


def takes(function: FunctionType, inputs: set[str]) -> bool:
    return inputs <= set(inspect.signature(function).parameters)


def test_a_spec_may_have_the_names_of_a_kernels_own() -> None:
    axes = {"slot": "[]", "head": "[HV]", "group": "[H, K]", "key": "[HV, K]", "value": "[HV, V]"}
    carried = "".join(f"  {name}: {each}\n" for name, each in axes.items())
    text = f"""
kvgen: 1
name: own_names
sizes: {{H: 1, HV: 2, K: 6, V: 5, N: 2, Row: 2, ptr: 2}}
inputs:
  q: [H, K]
  k: [H, K]
  S_cache: [HV, V]
  slot_cache: [HV]
  a: [N, HV]
  b: [Row, HV]
  c: [ptr, HV]
state:
  S: [HV, K, V]
{carried}step: |
  slot = 0.5 * slot + 1
  a_n = tanh(a[0])
  head = 0.5 * head + a_n * a[1] + tanh(b[0] + b[1] + c[0] + c[1])
  group = 0.5 * group + k
  key = 0.5 * key + head * k
  value = 0.5 * value + S_cache
  S = sigmoid(slot_cache) * S + outer(group + key, value)
  o = q @ S + slot * head
"""
    analysis = compiler.analyse(text)
    pair = Twin(Made(analysis, compiler.built(analysis)), "cpu", layers=2, buffer=2, slots=3)
    pair.reset([0, 1, 2])
    for _ in range(5):
        pair.step([2, -1, 0, 1])
    pair.compare()
    within(pair)


@pytest.mark.parametrize("write", ["k + 1, v + 1", "log(k), v", "exp(k), v"])
def test_a_place_without_a_record_gives_nothing(write: str) -> None:
    """What is derived from an input is not 0 where the recorded input is."""
    text = f"""
kvgen: 1
name: derived
sizes: {{H: 1, HV: 2, K: 6, V: 5}}
inputs: {{q: [H, K], k: [H, K], v: [HV, V]}}
state:
  S: [HV, K, V]
step: |
  S = 0.9 * S + outer({write})
  o = q @ S
storage: {{records: input}}
sample: {{k: positive}}
"""
    analysis = compiler.analyse(text)
    pair = Twin(Made(analysis, compiler.built(analysis)), "cpu", buffer=3)
    pair.admit([0, 1])
    for slots in ([0], [0, 1], [1], [1, 0]):
        pair.step(slots)
    pair.compare()
    within(pair)


def test_reference_begins_with_the_initial_state_and_keeps_the_dtype() -> None:
    pair = twin("gated_deltanet")
    params = {name: x.double() for name, x in pair.params[0].items()}
    inputs = pair.sampler.inputs(2, torch.float64)
    out, states = pair.module.reference(None, **inputs, **params)
    assert out.dtype == states["S"].dtype == torch.float64
    zeros = {"S": torch.zeros(2, 2, 16, 8, dtype=torch.float64)}
    assert torch.equal(pair.module.reference(zeros, **inputs, **params)[0], out)
    # as `read` gives it, where nothing is carried
    assert torch.equal(pair.module.reference(zeros["S"], **inputs, **params)[0], out)
    for missing in ({}, {"T": zeros["S"]}):
        with pytest.raises(ValueError, match="S: NoneType None, expected"):
            pair.module.reference(missing, **inputs, **params)


@pytest.mark.parametrize("batch", [0, -1, 1.5, "1", True, None])
def test_best_takes_a_batch(batch: Any) -> None:
    with pytest.raises(ValueError, match=r"batch: .*, expected an integer >= 1"):
        made("mamba2").module.best(batch)


def test_reference_takes_no_other_axes() -> None:
    """What broadcasts would be another recurrence: a row's parameters, one head for all."""
    pair = twin("gated_deltanet", **{"buffer": 2})
    reference = pair.module.reference
    exact = {**pair.sampler.inputs(2, torch.float64), **pair.params[0]}
    for name, x in exact.items():
        for other in (x[:1].expand(2, *x.shape) if x.dim() == 1 else x[:, :1, None], x[None]):
            if name == next(iter(exact)):
                continue
            message = rf"{name}: \[.*, expected {re.escape(str(list(x.shape)))}"
            with pytest.raises(ValueError, match=message):
                reference(None, **{**exact, name: other})
    with pytest.raises(ValueError, match=r"S: \[1, 2, 16, 8\] .*, expected \[2, 2, 16, 8\]"):
        reference({"S": torch.zeros(1, 2, 16, 8)}, **exact)
    # a rank of more or fewer heads
    wide = {n: x.repeat_interleave(3, x.dim() - 2 + (x.dim() < 3)) for n, x in exact.items()}
    assert reference(None, **wide)[0].shape == (2, 6, 8)


def test_a_module_needs_no_kvgen(tmp_path: Path) -> None:
    path = compiler.write(analysed("mamba2"), tmp_path)
    code = (
        f"import sys; sys.path[:] = [p for p in sys.path if p] + [{str(path.parent)!r}]\n"
        "sys.modules['kvgen'] = None\n"
        "import mamba2; mamba2.Cache.empty(1, device='cpu'); mamba2.decode"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


# random schedules --------------------------------------------------------------------------------

SLOTS = 5
rows = st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=3, unique=True)
steps = st.tuples(
    st.just("step"),
    rows,
    st.sampled_from(["decode", "decode", "recurrent"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 7),
)
events = st.one_of(
    steps,
    steps,
    steps,
    st.tuples(st.just("flush"), st.one_of(st.none(), rows)),
    st.tuples(st.just("admit"), rows),
    st.tuples(st.just("copy"), st.permutations(range(SLOTS))),
)


def play(pair: Twin, schedule: list[tuple]) -> None:
    for event in schedule:
        match event:
            case ("step", slots, kernel, dropped, padding, mask):
                slots = [*slots[:1], -1, *slots[1:]] if padding else slots
                force = [bool(mask & 1 << row % 3) for row in range(len(slots))]
                # the plain kernel writes the state in place: its steps cannot be dropped
                buffered = kernel == "decode"
                pair.step(
                    slots,
                    kernel=kernel,
                    force=force if mask % 3 else None,
                    dropped=dropped and buffered,
                    twice=[0] if padding and buffered else (),
                )
            case ("flush", slots):
                pair.flush(slots)
            case ("admit", slots):
                pair.admit(slots)
            case ("copy", order):
                pair.copy(order[:2], order[2:4])
    pair.compare()


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("gated_deltanet", "state=split records=input"),
        ("gated_deltanet", "layout=vk"),
        ("kimi_delta_attention", "records=input"),
        ("mamba2", "state=split"),
        ("lightning_attention", "state=float32"),
    ],
)
def test_random_schedules(name: str, storage: str) -> None:
    @settings(
        max_examples=10,
        derandomize=True,
        database=None,
    )
    @given(st.lists(events, min_size=4, max_size=9), st.integers(1, 4), st.integers(0, 99))
    def run(schedule: list[tuple], buffer: int, seed: int) -> None:
        pair = twin(name, *storage.split(), slots=SLOTS, buffer=buffer, seed=seed)
        pair.admit(range(SLOTS))
        play(pair, schedule)
        within(pair)

    run()
