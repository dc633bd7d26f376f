"""Every wrong argument is a ValueError that names it and says what came and what was expected,
before anything is launched."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest
import torch
from twins import SPECS, ids, made

from kvgen import compiler
from kvgen.runtime.arguments import describe

ROWS = 2
SLOTS = 4
DTYPES = "expected float32, bfloat16 or float16"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    yield unlaunched(monkeypatch, "gated_deltanet")


@pytest.fixture
def cache(module) -> Any:
    return module.made


def unlaunched(
    monkeypatch: pytest.MonkeyPatch, name: str, *storage: str, buffer: int = 4, **cache: int
) -> Any:
    """The module with a cache, `made`; from here on no kernel may be launched."""
    module = made(name, *storage).module
    options = {"dtype": torch.float32, "buffer": buffer, **cache}
    fresh = module.Cache.empty(SLOTS, 2, device="cpu", **options)
    monkeypatch.setattr(module, "made", fresh, raising=False)

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("launched")

    monkeypatch.setattr(module, "launch", refuse)
    return module


def refused(call: Callable[[], object], *parts: str) -> None:
    """The call is refused, naming the argument first, then what came, then what was expected."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    pattern = ".*".join(re.escape(part) for part in parts)
    assert re.match(pattern, text, re.DOTALL), text
    assert "expected" in text


def arguments(name: str) -> dict[str, torch.Tensor]:
    spec = made(name).analysis.spec
    return {
        t.name: torch.zeros([*([ROWS] if t.kind == "input" else []), *map(spec.size, t.axes)])
        for t in (*spec.inputs, *spec.params)
    }


def narrow(x: torch.Tensor) -> torch.Tensor:
    """The same shape, with room between the elements of the last axis."""
    return torch.zeros(*x.shape[:-1], x.shape[-1], 2)[..., 0]


# inputs and parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["decode", "recurrent"])
@pytest.mark.parametrize("name", SPECS)
def test_inputs_and_parameters(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = unlaunched(monkeypatch, name)
    right = arguments(name)
    call = getattr(module, kernel)

    def given(wrong: str, value: object) -> Callable[[], object]:
        return lambda: call(module.made, 0, ids(0, 1), **{**right, wrong: value})

    for each, x in right.items():
        shape = str(list(x.shape))
        longer = torch.zeros(*x.shape[:-1], x.shape[-1] + 1)
        refused(given(each, longer), f"{each}: {list(longer.shape)}", f"expected {shape}")
        refused(given(each, x[None]), f"{each}: [1, ", f"expected {shape}")
        refused(given(each, x.double()), f"{each}: {shape} torch.float64", DTYPES)
        refused(given(each, x.int()), f"{each}: {shape} torch.int32", DTYPES)
        meta = torch.empty(x.shape, device="meta")
        refused(given(each, meta), f"{each}: {shape} torch.float32 on meta", "on cpu")
        refused(given(each, None), f"{each}: NoneType None", f"expected {shape}")
        refused(given(each, [1.0]), f"{each}: list [1.0]", f"expected {shape}")
        if x.shape[-1] > 1:
            refused(given(each, narrow(x)), f"{each}: strides (", "contiguous last axis")
        # what the imaginary part of a conjugate is
        negative = torch.complex(x, x).conj().imag
        assert negative.is_neg()
        negated = torch.as_strided(negative, x.shape, x.stride())
        refused(given(each, negated), f"{each}: a view that negates", "resolve_neg")
        missing = {key: value for key, value in right.items() if key != each}
        with pytest.raises(TypeError, match=f"missing .*'{each}'"):
            call(module.made, 0, ids(0, 1), **missing)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        call(module.made, 0, ids(0, 1), **right, nonsense=1)
    with pytest.raises(TypeError, match="positional"):
        call(module.made, 0, ids(0, 1), *right.values())


def test_recorded_inputs_have_the_cache_s_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    module = unlaunched(monkeypatch, "gated_deltanet", "state=split", "records=input")
    right = arguments("gated_deltanet")
    for name in ("k", "v"):
        wrong = {**right, name: right[name].bfloat16()}
        refused(
            lambda wrong=wrong: module.decode(module.made, 0, ids(0, 1), **wrong),
            f"{name}: torch.bfloat16",
            "torch.float32",
        )


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        (torch.empty(ROWS, 2, 9), ["out: [2, 2, 9]", "expected [2, 2, 8] torch.float32 on cpu"]),
        (torch.empty(ROWS, 16), ["out: [2, 16]", "expected [2, 2, 8]"]),
        (torch.empty(ROWS, 2, 8).half(), ["out: [2, 2, 8] torch.float16", "torch.float32"]),
        (torch.empty(ROWS, 2, 8, device="meta"), ["out: ", "on meta", "on cpu"]),
        (narrow(torch.empty(ROWS, 2, 8)), ["out: strides (32, 16, 2)", "contiguous last axis"]),
        (torch.empty(1, 2, 8).expand(ROWS, 2, 8), ["out: strides (0, 8, 1)", "share no address"]),
        (torch.empty(ROWS, 1, 8).expand(ROWS, 2, 8), ["out: strides (8, 0, 1)", "no address"]),
        (torch.empty(40).as_strided((ROWS, 2, 8), (4, 16, 1)), ["out: strides (4, 16, 1)"]),
        ("o", ["out: str 'o'", "expected [2, 2, 8]"]),
    ],
)
@pytest.mark.parametrize("kernel", ["decode", "recurrent"])
def test_out(kernel: str, out: Any, parts: list[str], module, cache) -> None:
    right = arguments("gated_deltanet")
    call = getattr(module, kernel)
    refused(lambda: call(cache, 0, ids(0, 1), **right, out=out), *parts)


def laid(right: dict[str, Any], name: str, before: int) -> tuple[dict[str, Any], torch.Tensor]:
    """The arguments with one of them as a slice of a row of 64 numbers, and that row's tensor."""
    front = right[name].shape[: right[name].dim() - 2]
    size = right[name][0].numel() if front else right[name].numel()
    wide = torch.zeros(*front, 64)
    part = wide[..., before : before + size].unflatten(-1, right[name].shape[len(front) :])
    part.copy_(right[name])
    return {**right, name: part}, wide


@pytest.mark.parametrize("kernel", ["decode", "recurrent"])
def test_out_shares_no_memory_with_what_is_read(kernel: str, module, cache) -> None:
    right = arguments("gated_deltanet")
    call = getattr(module, kernel)
    for name in right:
        given, wide = laid(right, name, 4)
        flat = wide.flatten()[: ROWS * 16]
        refused(
            lambda given=given, flat=flat: call(
                cache, 0, ids(0, 1), **given, out=flat.view(ROWS, 2, 8)
            ),
            f"out: shares memory with {name}",
            "memory of its own",
        )
    for name, tensor in cache.named().items():
        if tensor.dtype == torch.float32 and tensor.numel() >= ROWS * 16:
            own = tensor.flatten()[-ROWS * 16 :].view(ROWS, 2, 8)
            refused(
                lambda own=own: call(cache, 0, ids(0, 1), **right, out=own),
                f"out: shares memory with the cache's {name}",
            )


@pytest.mark.parametrize("kernel", ["decode", "recurrent"])
def test_out_may_lie_beside_an_input(kernel: str) -> None:
    module = made("gated_deltanet").module
    right, calls = arguments("gated_deltanet"), []
    given, wide = laid(right, "v", 16)
    for each, out in ((right, None), (given, wide[:, 32:48].unflatten(-1, (2, 8)))):
        cache = module.Cache.empty(4, 1, device="cpu", dtype=torch.float32, buffer=2)
        calls.append(getattr(module, kernel)(cache, 0, ids(0, 1), **each, out=out))
    assert torch.equal(*calls)
    assert torch.equal(given["v"], right["v"])


# slots, layers, masks ----------------------------------------------------------------------------

WRONG_SLOTS = [
    (torch.tensor([0, 1], dtype=torch.int16), "[2] torch.int16 on cpu"),
    (torch.tensor([0.0, 1.0]), "[2] torch.float32 on cpu"),
    (torch.tensor([[0, 1]], dtype=torch.int32), "[1, 2] torch.int32 on cpu"),
    (torch.tensor(1, dtype=torch.int32), "[] torch.int32 on cpu"),
    (torch.empty(2, dtype=torch.int32, device="meta"), "[2] torch.int32 on meta"),
    (ids(0, SLOTS), f"slot {SLOTS}"),
    (ids(1, 1), "[1, 1]"),
    ([0, 1], "list [0, 1]"),
    (None, "NoneType None"),
]


@pytest.mark.parametrize(("slots", "came"), WRONG_SLOTS)
def test_slots(slots: Any, came: str, module, cache) -> None:
    right = arguments("gated_deltanet")
    calls: dict[str, Callable[[], object]] = {
        "slots": lambda: module.decode(cache, 0, slots, **right),
        "slots ": lambda: module.recurrent(cache, 0, slots, **right),
        "slots  ": lambda: module.advance(cache, slots),
        "slots        ": lambda: module.accept(cache, slots, counts=ids(0, 0)),
        "slots   ": lambda: cache.reset(slots),
        "slots    ": lambda: cache.read(0, slots),
        "slots     ": lambda: cache.load(0, slots, torch.zeros(2, 2, 16, 8)),
        "dst": lambda: cache.copy(ids(2, 3), slots),
    }
    if slots is not None:
        calls["slots      "] = lambda: module.flush(cache, slots)
    if came != "[1, 1]":
        # one slot may be copied to many
        calls["src"] = lambda: cache.copy(slots, ids(2, 3))
    for name, call in calls.items():
        refused(call, f"{name.strip()}: ", came)


def test_other_numbers_of_rows(module, cache) -> None:
    right = arguments("gated_deltanet")
    refused(lambda: module.decode(cache, 0, ids(0, 1, 2), **right), "q: [2, 1, 16]", "[3, 1, 16]")
    refused(lambda: cache.copy(ids(0, 1), ids(2)), "dst: 1 slots", "2")
    refused(lambda: cache.copy(ids(0, 1), ids(2, 1)), "dst: slot 1 is in src")


@pytest.mark.parametrize("layer", [-1, 2, True, "0", 1.0, None, torch.tensor(0)])
def test_layer(layer: Any, module, cache) -> None:
    right = arguments("gated_deltanet")
    for call in (
        lambda: module.decode(cache, layer, ids(0, 1), **right),
        lambda: module.recurrent(cache, layer, ids(0, 1), **right),
        lambda: cache.read(layer, ids(0)),
        lambda: cache.load(layer, ids(0), torch.zeros(1, 2, 16, 8)),
    ):
        refused(call, f"layer: {layer!r}", "expected an integer from 0 to 1")


@pytest.mark.parametrize(
    ("force", "came"),
    [
        (torch.zeros(3, dtype=torch.bool), "[3] torch.bool"),
        (torch.zeros(2, 1, dtype=torch.bool), "[2, 1] torch.bool"),
        (torch.zeros(2, dtype=torch.uint8), "[2] torch.uint8"),
        (torch.zeros(2, dtype=torch.bool, device="meta"), "[2] torch.bool on meta"),
        ([True, False], "list [True, False]"),
        (True, "bool True"),
    ],
)
def test_force(force: Any, came: str, module, cache) -> None:
    refused(
        lambda: module.advance(cache, ids(0, 1), force),
        f"force: {came}",
        "expected [2] torch.bool on cpu",
    )


# the end of a step -------------------------------------------------------------------------------


def table(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32)


WRONG_ENDS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["counts, path: neither", "expected one of them"]),
    ({"counts": ids(1, 1), "path": table([0], [0])}, ["counts, path: both"]),
    ({"counts": ids(1, 1), "late": "no"}, ["late: 'no'", "True or False"]),
    ({"counts": ids(1)}, ["counts: [1] torch.int32", "expected [2] torch.int32 on cpu"]),
    ({"counts": ids(1, 1)[:, None]}, ["counts: [2, 1] torch.int32", "expected [2]"]),
    ({"counts": ids(1, 1).long()}, ["counts: [2] torch.int64", "expected [2] torch.int32"]),
    ({"counts": ids(1, 1).to("meta")}, ["counts: [2] torch.int32 on meta", "on cpu"]),
    ({"counts": [1, 1]}, ["counts: list [1, 1]", "expected [2] torch.int32"]),
    ({"counts": ids(-1, 0)}, ["counts: -1 for slot 0", "expected 0 to 3"]),
    ({"counts": ids(0, 4)}, ["counts: 4 for slot 1", "expected 0 to 3"]),
    ({"path": table([0], [0], [0])}, ["path: [3, 1] torch.int32", "expected [2, 1] torch.int32"]),
    ({"path": ids(0, 0)}, ["path: [2] torch.int32", "expected [2, 3]"]),
    ({"path": table([0], [0]).long()}, ["path: [2, 1] torch.int64", "torch.int32 on cpu"]),
    ({"path": torch.zeros(2, 3, dtype=torch.int32, device="meta")}, ["path: ", "on meta"]),
    ({"path": torch.zeros(2, 4, dtype=torch.int32)}, ["path: [2, 4]", "expected 1 to 3 nodes"]),
    ({"path": torch.zeros(2, 0, dtype=torch.int32)}, ["path: [2, 0]", "expected 1 to 3 nodes"]),
    ({"path": [[0], [0]]}, ["path: list [[0], [0]]", "expected [2, 3]"]),
    ({"path": table([0, 1], [2, -1])}, ["path: [2, -1] for slot 1", "numbers below 2, then -1"]),
    ({"path": table([1, 0], [0, 1])}, ["path: [1, 0] for slot 0", "increasing"]),
    ({"path": table([1, 1, -1], [0, 1, 2])}, ["path: [1, 1, -1] for slot 0", "increasing"]),
    ({"counts": ids(1, 1), "force": ids(1, 1)}, ["force: [2] torch.int32", "torch.bool"]),
    ({"path": table([0], [0]), "force": True}, ["force: bool True", "[2] torch.bool"]),
]


@pytest.mark.parametrize(("given", "parts"), WRONG_ENDS)
def test_accept(given: dict[str, Any], parts: list[str], module, cache) -> None:
    wide = module.Cache.wrap(cache.tensors, window=3)
    refused(lambda: module.accept(wide, ids(0, 1), **given), *parts)


def test_accept_without_a_window_is_of_one_token(module, cache) -> None:
    refused(lambda: module.accept(cache, ids(0, 1), counts=ids(2, 0)), "counts: 2", "0 to 1")
    refused(lambda: module.accept(cache, ids(0, 1), path=table([0, 1], [0, 1])), "path: [2, 2]")


def test_values_of_padding_rows_are_not_looked_at() -> None:
    module = made("gated_deltanet").module
    cache = module.Cache.empty(SLOTS, device="cpu", buffer=8, window=3)
    for ended in ({"counts": ids(99, 1)}, {"path": table([5, 3], [0, -1])}):
        module.decode(cache, 0, ids(-1, 0), **arguments("gated_deltanet"))
        module.accept(cache, ids(-1, 0), **ended)
    assert cache.cursors.tolist() == [2, 0, 0, 0]


def test_what_is_in_the_state_cannot_be_refused() -> None:
    module = made("gated_deltanet").module
    cache = module.Cache.empty(SLOTS, device="cpu", dtype=torch.float32, buffer=4, window=3)
    module.recurrent(cache, 0, ids(2, 1), **arguments("gated_deltanet"))
    for given, came in ((ids(1, 0), "counts: 0"), (table([0], [-1]), "path: [-1]")):
        name = came.partition(":")[0]
        refused(lambda g=given, n=name: module.accept(cache, ids(2, 1), **{n: g}), came, "slot 1")
    more = lambda: module.accept(cache, ids(2, 1), counts=ids(99, 1))  # noqa: E731
    refused(more, "counts: 99 for slot 2", "expected 1", "`recurrent`")
    module.accept(cache, ids(2, 1), counts=ids(1, 1))
    assert not cache.tensors["pending"].any()


# what came ----------------------------------------------------------------------------------------

NAMES = [f"name_{number}" for number in range(20)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "list [1, 2]"),
        (list(range(100)), "list of 100"),
        ((torch.zeros(2, 3),) * 3, "tuple of 3"),
        (torch.zeros(4, 40).numpy(), "ndarray of 4"),
        ({"S": torch.zeros(4, 40), "k": torch.zeros(4, 40)}, "dict of S, k"),
        (MappingProxyType({"S": torch.zeros(4, 40)}), "mappingproxy of S"),
        (dict.fromkeys(NAMES), f"dict of {', '.join(NAMES[:9])}, …"),
        ("-" * 200, "str of 200"),
        (RuntimeError("word " * 40), f"RuntimeError RuntimeError('{'word ' * 9}word …"),
    ],
)
def test_what_came_is_said_whole_or_counted(value: Any, said: str) -> None:
    assert describe(value) == said


# states ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "came"),
    [
        (torch.zeros(2, 2, 16, 9), "S is [2, 2, 16, 9]"),
        (torch.zeros(1, 2, 16, 8), "S is [1, 2, 16, 8]"),
        (torch.zeros(2, 2, 16, 8).double(), "S is [2, 2, 16, 8] torch.float64"),
        (torch.zeros(2, 2, 16, 8).bfloat16(), "S is [2, 2, 16, 8] torch.bfloat16"),
        (torch.zeros(2, 2, 16, 8, device="meta"), "S is [2, 2, 16, 8] torch.float32 on meta"),
        ({"S": None}, "S is NoneType None"),
        ({"T": torch.zeros(2, 2, 16, 8)}, "no state is called 'T'"),
        ({}, "S missing, expected S"),
        (3, "S is int 3"),
    ],
)
def test_states(state: Any, came: str, cache) -> None:
    refused(lambda: cache.load(0, ids(0, 1), state), f"state: {came}")


@pytest.mark.parametrize("short_context", [0, 16])
@pytest.mark.parametrize("left_out", [("n", "m"), ("m",), ("S",)])
def test_states_without_others(
    left_out: tuple[str, ...], short_context: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row would keep what it held of them."""
    cache = unlaunched(monkeypatch, "mlstm", short_context=short_context).made
    whole = {
        each.name: torch.zeros(2, *cache.table.extents(each.axes, cache.heads))
        for each in cache.table.states
    }
    given = {name: x for name, x in whole.items() if name not in left_out}
    came = f"state: {', '.join(left_out)} missing, expected S, n, m"
    refused(lambda: cache.load(0, ids(0, 1), given), came)
    if len(given) == 1:
        refused(lambda: cache.load(0, ids(0, 1), whole["S"]), came)


# the cache ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"slots": 0}, ["slots: 0"]),
        ({"slots": 2.0}, ["slots: 2.0"]),
        ({"slots": True}, ["slots: True"]),
        ({"first_slot": -1}, ["first_slot: -1"]),
        ({"first_slot": 2}, ["first_slot: 2", "less than 2 slots"]),
        ({"layers": 0}, ["layers: 0"]),
        ({"layers": None}, ["layers: None"]),
        ({"buffer": 0}, ["buffer: 0"]),
        ({"buffer": 1000}, ["buffer: 1000"]),
        ({"buffer": "8"}, ["buffer: '8'"]),
        ({"window": -1}, ["window: -1"]),
        ({"window": 3, "buffer": 2}, ["window: 3", "buffer = 2"]),
        ({"window": None}, ["window: None"]),
        ({"window": 17, "buffer": 32}, ["window: 17", "expected 0 to 16"]),
        ({"heads": 3}, ["heads: 3", "multiple of 2"]),
        ({"heads": 0}, ["heads: 0"]),
        ({"heads": 2.0}, ["heads: 2.0"]),
        ({"dtype": torch.float64}, ["dtype: torch.float64", "torch.bfloat16"]),
        ({"dtype": "bf16"}, ["dtype: bf16", "torch.bfloat16"]),
        ({"invariant": "no"}, ["invariant: 'no'", "True or False"]),
        ({"fold": "parts "}, ["fold: 'parts '", "'parts' or 'row'"]),
        ({"device": "gpu"}, ["device: 'gpu'"]),
        ({"device": None}, ["device: None"]),
    ],
)
def test_empty(given: dict[str, Any], parts: list[str], module) -> None:
    given = {"slots": 2, "device": "cpu", **given}
    refused(lambda: module.Cache.empty(**given), *parts)
    refused(lambda: module.Cache.layout(**given), *parts)


def test_wrap(module, cache) -> None:
    right = dict(cache.tensors)
    wide = torch.zeros(SLOTS, 2, 2, 16, 9)[..., :8]
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"S": right["S"].double()}, "S: ", "torch.float64"),
        ({"S": right["S"][0]}, "S: ", "[2, 2, 16, 8]"),
        ({"S": None}, "S: ", "NoneType"),
        ({"S": wide}, "S: ", "strides"),
        ({"k": right["k"][:, :, 0]}, "k: ", "[4, 2, 4, 16]"),
        ({"k": right["k"][:2]}, "k: ", "[2, 2, 1, 4, 16]"),
        ({"d": right["d"][..., :4]}, "d: ", "[4, 2, 2, 4, 4]"),
        ({"d": torch.empty(right["d"].shape, device="meta")}, "d: ", "on meta"),
        ({"cursors": right["cursors"].long()}, "cursors: ", "torch.int64"),
        ({"skipped": right["skipped"].int()}, "skipped: ", "torch.int32", "torch.int64"),
        ({"cursors": torch.zeros(SLOTS, 2, dtype=torch.int32)[:, 0]}, "cursors: ", "strides"),
    ]
    for change, *parts in wrong:
        refused(lambda change=change: module.Cache.wrap({**right, **change}), *parts)
    for name in ("S", "k", "d", "log_decay"):
        fewer = {key: value for key, value in right.items() if key != name}
        refused(lambda fewer=fewer: module.Cache.wrap(fewer), "tensors: ", name)
    refused(lambda: module.Cache.wrap(right, buffer=9), "buffer: 9", "None or 4")
    assert module.Cache.wrap(right, buffer=4).buffer == 4
    refused(lambda: module.Cache.wrap(right, window=9), "window: 9", "buffer = 4")
    refused(lambda: module.Cache.wrap(right, window=None), "window: None", "integer")
    refused(lambda: module.Cache.wrap({**right, "T": right["S"]}), "tensors: T", "S, log_decay")


@pytest.mark.parametrize("wrong", [None, "cache", 3])
def test_what_is_no_cache(wrong: Any, module) -> None:
    given = arguments("gated_deltanet")
    refused(lambda: module.decode(wrong, 0, ids(0, 1), **given), "cache: ", repr(wrong))
    refused(lambda: module.advance(wrong, ids(0, 1)), "cache: ", repr(wrong))
    refused(lambda: module.flush(wrong), "cache: ", repr(wrong))
    refused(lambda: module.Cache.wrap(wrong), "tensors: ", repr(wrong))


def test_the_cache_of_another_module(module) -> None:
    other = made("mamba2").module.Cache.empty(SLOTS, device="cpu", buffer=4)
    refused(lambda: module.advance(other, ids(0, 1)), "cache: Cache")


def test_wrap_refuses_heads_that_are_no_groups(module, cache) -> None:
    heads = {"S": 2, "log_decay": 2, "d": 2}
    odd = {
        name: tensor.narrow(heads[name], 0, 1).clone() if name in heads else tensor
        for name, tensor in cache.tensors.items()
    }
    refused(lambda: module.Cache.wrap(odd), "heads: 1", "multiple of 2")


def test_wrap_refuses_no_slots(module, cache) -> None:
    none = {name: tensor[:0] for name, tensor in cache.tensors.items() if name != "work"}
    refused(lambda: module.Cache.wrap(none), "slots: 0", "integer >= 1")


def test_wrap_refuses_a_buffer_in_which_factored_keys_overflow() -> None:
    module = made("kimi_delta_attention_bounded").module
    cache = module.Cache.empty(1, device="cpu")
    wide = {
        name: torch.zeros(*x.shape[:3], 40, *x.shape[4:]) if x.dim() > 3 and name != "S" else x
        for name, x in cache.tensors.items()
    }
    refused(lambda: module.Cache.wrap(wide), "buffer: 40", "at most 16")
    refused(lambda: module.Cache.empty(1, device="cpu", window=17), "window: 17", "16")


@pytest.mark.parametrize("wrong", [None, torch.int8])
def test_wrap_checks_the_dtype_of_recorded_inputs(wrong: torch.dtype | None) -> None:
    module = made("mamba2", "state=split", "records=input").module
    tensors = dict(module.Cache.empty(2, device="cpu").tensors)
    for name in ("B", "x"):
        tensors[name] = None if wrong is None else tensors[name].to(wrong)
    parts = ("B: NoneType", "") if wrong is None else ("dtype: torch.int8", "torch.float16")
    refused(lambda: module.Cache.wrap(tensors), *parts)


def test_values_are_checked_on_a_gpu_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of values would wait for the device."""
    module = made("gated_deltanet").module
    elsewhere = torch.empty(2, dtype=torch.int32, device="meta")
    monkeypatch.delenv("KVGEN_CHECK", raising=False)
    assert not module.strict(elsewhere)
    monkeypatch.setenv("KVGEN_CHECK", "1")
    assert module.strict(elsewhere)
    assert module.strict(ids(1))


def test_decode_and_read_wait_for_the_advance_of_a_plain_step() -> None:
    module = made("gated_deltanet").module
    cache = module.Cache.empty(SLOTS, 2, device="cpu", dtype=torch.float32, buffer=4)
    right = arguments("gated_deltanet")
    module.recurrent(cache, 0, ids(2, -1), **right)
    for early in (
        lambda: module.decode(cache, 1, ids(0, 2), **right),
        lambda: cache.read(0, ids(2)),
    ):
        refused(early, "slots: slot 2 comes from `recurrent`", "`advance` first")
    module.decode(cache, 1, ids(0, 1), **right)
    module.recurrent(cache, 1, ids(2, -1), **right)
    module.advance(cache, ids(2, -1))
    module.decode(cache, 0, ids(0, 2), **right)


def test_a_number_that_is_negated_in_its_memory_is_refused() -> None:
    """An input without axes has strides that nobody asks for, but values."""
    text = "name: one\nsizes: {H: 1, HV: 1, K: 4, V: 4}\ninputs: {q: [H, K], v: [HV, V], s: []}\n"
    text = f"kvgen: 1\n{text}state: {{S: [HV, K, V]}}\n"
    text += "step: |\n  S = sigmoid(s) * S + outer(q, v)\n  o = q @ S\n"
    module = compiler.built(compiler.analyse(text))
    cache = module.Cache.empty(2, device="cpu", dtype=torch.float32)
    slots = torch.tensor([0, 1])
    cache.reset(slots)
    row = torch.ones(2)
    given = {"q": torch.ones(2, 1, 4), "v": torch.ones(2, 1, 4)}
    negated = torch.complex(row, row).conj().imag
    with pytest.raises(ValueError, match="s: a view that negates its memory"):
        module.decode(cache, 0, slots, s=negated, **given)
    module.decode(cache, 0, slots, s=negated.resolve_neg(), **given)
