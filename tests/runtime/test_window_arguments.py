"""Every wrong argument of `verify` and `extend` is a ValueError that names it and says what came
and what was expected, before anything is launched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from twins import SPECS, ids, made

from tests.runtime import test_arguments
from tests.runtime.test_arguments import DTYPES, SLOTS, narrow, refused

ROWS, TOKENS, WINDOW = 2, 3, 4
KERNELS = ("verify", "extend")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    return unlaunched(monkeypatch, "gated_deltanet")


@pytest.fixture
def cache(module) -> Any:
    return module.made


def unlaunched(monkeypatch: pytest.MonkeyPatch, name: str, *storage: str) -> Any:
    return test_arguments.unlaunched(monkeypatch, name, *storage, buffer=6, window=WINDOW)


def arguments(name: str, kernel: str, tokens: int = TOKENS) -> dict[str, torch.Tensor]:
    spec = made(name).analysis.spec
    fronts = {"input": [ROWS, tokens], "param": []}
    found = {
        t.name: torch.zeros([*fronts[t.kind], *map(spec.size, t.axes)])
        for t in (*spec.inputs, *spec.params)
    }
    return found if kernel == "verify" else {**found, "lengths": ids(tokens, 0)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", SPECS)
def test_inputs_and_parameters(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = unlaunched(monkeypatch, name)
    right = arguments(name, kernel)
    call = getattr(module, kernel)

    def given(wrong: str, value: object) -> Callable[[], object]:
        return lambda: call(module.made, 0, ids(0, 1), **{**right, wrong: value})

    first = next(iter(right))
    for each, x in right.items():
        if each == "lengths":
            continue
        shape = str(list(x.shape))
        longer = torch.zeros(*x.shape[:-1], x.shape[-1] + 1)
        refused(given(each, longer), f"{each}: {list(longer.shape)}", f"expected {shape}")
        refused(given(each, x.double()), f"{each}: {shape} torch.float64", DTYPES)
        refused(given(each, x.int()), f"{each}: {shape} torch.int32", DTYPES)
        meta = torch.empty(x.shape, device="meta")
        refused(given(each, meta), f"{each}: {shape} torch.float32 on meta", "on cpu")
        refused(given(each, None), f"{each}: NoneType None", "expected")
        refused(given(each, [1.0]), f"{each}: list [1.0]", "expected")
        if x.shape[-1] > 1:
            refused(given(each, narrow(x)), f"{each}: strides (", "contiguous last axis")
        if x.dim() > 1 and x.shape[1] == TOKENS and each != first:
            # the first input says how many tokens there are
            fewer, rows = x[:, :-1], x[:1]
            refused(given(each, fewer), f"{each}: {list(fewer.shape)}", f"expected {shape}")
            refused(given(each, rows), f"{each}: {list(rows.shape)}", f"expected {shape}")
            refused(given(each, x[:, 0]), f"{each}: {list(x[:, 0].shape)}", f"expected {shape}")
        missing = {key: value for key, value in right.items() if key != each}
        with pytest.raises(TypeError, match=f"missing .*'{each}'"):
            call(module.made, 0, ids(0, 1), **missing)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        call(module.made, 0, ids(0, 1), **right, nonsense=1)
    refused(given(first, right[first][:, :0]), f"{first}: [2, 0, ", "T >= 1")
    refused(given(first, torch.zeros(2)), f"{first}: [2] ", "[B, T, ")


@pytest.mark.parametrize("kernel", KERNELS)
def test_recorded_inputs_have_the_cache_s_dtype(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = unlaunched(monkeypatch, "gated_deltanet", "state=split", "records=input")
    right = arguments("gated_deltanet", kernel)
    for name in ("k", "v"):
        wrong = {**right, name: right[name].bfloat16()}
        refused(
            lambda wrong=wrong: getattr(module, kernel)(module.made, 0, ids(0, 1), **wrong),
            f"{name}: torch.bfloat16",
            "torch.float32",
        )


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        (torch.empty(ROWS, TOKENS, 2, 9), ["out: [2, 3, 2, 9]", "expected [2, 3, 2, 8]"]),
        (torch.empty(ROWS, 2, 8), ["out: [2, 2, 8]", "expected [2, 3, 2, 8]"]),
        (torch.empty(ROWS, TOKENS, 2, 8).half(), ["out: [2, 3, 2, 8] torch.float16", "float32"]),
        (torch.empty(ROWS, TOKENS, 2, 8, device="meta"), ["out: ", "on meta", "on cpu"]),
        (narrow(torch.empty(ROWS, TOKENS, 2, 8)), ["out: strides (", "contiguous last axis"]),
        (torch.empty(ROWS, 1, 2, 8).expand(-1, TOKENS, -1, -1), ["out: strides (16, 0, 8, 1)"]),
        ("o", ["out: str 'o'", "expected [2, 3, 2, 8]"]),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_out(kernel: str, out: Any, parts: list[str], module, cache) -> None:
    right = arguments("gated_deltanet", kernel)
    refused(lambda: getattr(module, kernel)(cache, 0, ids(0, 1), **right, out=out), *parts)


@pytest.mark.parametrize("kernel", KERNELS)
def test_out_shares_no_memory_with_what_is_read(kernel: str, module, cache) -> None:
    right = arguments("gated_deltanet", kernel)
    shared = {**right, "v": right["v"].clone()}
    refused(
        lambda: getattr(module, kernel)(cache, 0, ids(0, 1), **shared, out=shared["v"]),
        "out: shares memory with v",
    )


@pytest.mark.parametrize(
    ("slots", "came"),
    [
        (torch.tensor([0, 1], dtype=torch.int16), "[2] torch.int16 on cpu"),
        (torch.tensor([[0, 1]], dtype=torch.int32), "[1, 2] torch.int32 on cpu"),
        (torch.empty(2, dtype=torch.int32, device="meta"), "[2] torch.int32 on meta"),
        (ids(0, SLOTS), f"slot {SLOTS}"),
        (ids(1, 1), "[1, 1]"),
        ([0, 1], "list [0, 1]"),
        (None, "NoneType None"),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_slots(kernel: str, slots: Any, came: str, module, cache) -> None:
    right = arguments("gated_deltanet", kernel)
    refused(lambda: getattr(module, kernel)(cache, 0, slots, **right), "slots: ", came)


@pytest.mark.parametrize("kernel", KERNELS)
def test_layer_and_cache(kernel: str, module, cache) -> None:
    right = arguments("gated_deltanet", kernel)
    call = getattr(module, kernel)
    for layer in (-1, 2, "0", 1.0, None):
        said = (f"layer: {layer!r}", "expected an integer from 0 to 1")
        refused(lambda layer=layer: call(cache, layer, ids(0, 1), **right), *said)
    for wrong in (None, 3, "cache"):
        refused(lambda wrong=wrong: call(wrong, 0, ids(0, 1), **right), "cache: ", repr(wrong))
    refused(lambda: call(cache, 0, ids(0, 1, 2), **right), "q: [2, 3, 1, 16]", "[3, 3, 1, 16]")


def test_more_tokens_than_the_window(module, cache) -> None:
    right = arguments("gated_deltanet", "verify", WINDOW + 1)
    said = ("q: T = 5", "expected at most the cache's window = 4")
    refused(lambda: module.verify(cache, 0, ids(0, 1), **right), *said)


@pytest.mark.parametrize(
    ("parents", "came"),
    [
        (torch.zeros(ROWS, TOKENS + 1, dtype=torch.int32) - 1, "[2, 4] torch.int32 on cpu"),
        (torch.zeros(TOKENS, dtype=torch.int32) - 1, "[3] torch.int32 on cpu"),
        (torch.zeros(1, TOKENS, dtype=torch.int32) - 1, "[1, 3] torch.int32 on cpu"),
        (torch.zeros(ROWS, TOKENS, dtype=torch.int64) - 1, "[2, 3] torch.int64 on cpu"),
        (torch.zeros(ROWS, TOKENS) - 1, "[2, 3] torch.float32 on cpu"),
        (torch.empty(ROWS, TOKENS, dtype=torch.int32, device="meta"), "[2, 3] torch.int32 on meta"),
        ([[-1, 0, 1]] * 2, "list [[-1, 0, 1], [-1, 0, 1]]"),
        (torch.tensor([[-1, 0, 1], [-1, 0, 2]], dtype=torch.int32), "2 at [1, 2]"),
        (torch.tensor([[0, 0, 1], [-1, 0, 1]], dtype=torch.int32), "0 at [0, 0]"),
    ],
)
def test_parents(parents: Any, came: str, module, cache) -> None:
    right = arguments("gated_deltanet", "verify")
    refused(
        lambda: module.verify(cache, 0, ids(0, 1), **right, parents=parents), f"parents: {came}"
    )


@pytest.mark.parametrize(
    ("lengths", "came"),
    [
        (ids(1, 2, 3), "[3] torch.int32 on cpu"),
        (torch.ones(ROWS, 1, dtype=torch.int32), "[2, 1] torch.int32 on cpu"),
        (torch.tensor([1, 2]), "[2] torch.int64 on cpu"),
        (torch.tensor([1.0, 2.0]), "[2] torch.float32 on cpu"),
        (torch.empty(2, dtype=torch.int32, device="meta"), "[2] torch.int32 on meta"),
        ([1, 2], "list [1, 2]"),
        (ids(1, TOKENS + 1), "1 to 4"),
        (ids(-1, 2), "-1 to 2"),
    ],
)
def test_lengths(lengths: Any, came: str, module, cache) -> None:
    right = {**arguments("gated_deltanet", "extend"), "lengths": lengths}
    refused(lambda: module.extend(cache, 0, ids(0, 1), **right), f"lengths: {came}")


def test_lengths_or_starts(module, cache) -> None:
    right = {**arguments("gated_deltanet", "extend"), "lengths": None}
    refused(lambda: module.extend(cache, 0, ids(0, 1), **right), "lengths, starts: neither")
    both = {**right, "lengths": ids(1, 1), "starts": ids(0, 1, 2)}
    refused(lambda: module.extend(cache, 0, ids(0, 1), **both), "lengths, starts: both")


def test_windows_of_more_than_sixteen_tokens(module) -> None:
    refused(lambda: module.Cache.empty(2, device="cpu", buffer=20, window=17), "window: 17", "16")
