"""Kernels that run only where a module has times of them: a module without has nothing of them, and
who times or checks them gets them all the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from itertools import cycle
from typing import Any

import pytest
import torch
from tuned_records import H100, H200, record
from twins import analysed

from kvgen import compiler
from kvgen.analysis import Analysis
from kvgen.checking.twin import Made, Twin
from kvgen.checking.windows import Extend, Verify
from kvgen.codegen.features import ALL, DECODE, EXTEND, USUAL, VERIFY
from kvgen.kernels.chunk import CHUNK
from kvgen.kernels.registry import KERNELS
from kvgen.kernels.sweep import SWEEP
from kvgen.kernels.untuned import configurations, waiting
from kvgen.shipped import resolve, shipped
from kvgen.tuning import plan, tune
from kvgen.wisdom.store import Store

pytestmark = pytest.mark.usefixtures("own")

HEADS, CHANNELS = "gated_deltanet", "kimi_delta_attention"
# what a module says of prompts in blocks, and of windows whose channels decay
BLOCKS = ("_sweep_kernel", "_prepare_kernel", "class Blocks", "blocks=", "PREPARED", '"sweep": {')
COLUMNS = ("_chunk_kernel", "_scores_within", "chunk_timed=", '"chunk": {')
CONFIGS = {
    "sweep": {"TILE": 16, "STAGES": 1, "num_warps": 4},
    "chunk": {"TILE": 16, "TILES": 1, "STAGES": 1, "EARLY": 1, "PDL": 1, "num_warps": 1},
}


def small(name: str) -> Analysis:
    return analysed(name, K=16, V=16)


def timed(analysis: Analysis, kernel: str, gpu: str = H200, **at: int) -> None:
    """Put a record of the kernel into the store, and one of a decode, without which a GPU counts as
    unknown."""
    goals = {each.kernel: each for each in plan.goals(analysis, plan.Options((4,), "full", 100.0))}
    for name in dict.fromkeys(("decode", kernel)):
        of = plan.key(analysis, goals[name], gpu)
        where = {"batch": of.shape.B, **(at if name == kernel else {})}
        config = {"config": CONFIGS[name]} if name in CONFIGS else {}
        Store.default().add([record(of, spec=analysis.spec.name, at=where, **config)])


def said(text: str, words: tuple[str, ...]) -> list[bool]:
    return [word in text for word in words]


@pytest.mark.parametrize("name", [HEADS, CHANNELS])
def test_a_module_without_times_has_none_of_it(name: str) -> None:
    analysis = small(name)
    text, whole = compiler.emit(analysis), compiler.emit(analysis, untimed=True)
    assert not any(said(text, BLOCKS)) and all(said(whole, BLOCKS))
    assert said(text, COLUMNS[:1]) == [name == HEADS]
    if name == CHANNELS:
        assert not any(said(text, COLUMNS)) and all(said(whole, COLUMNS))
    # a decode that is tuned says nothing of it
    timed(analysis, "decode")
    tuned = compiler.emit(analysis)
    assert H200 in tuned and not any(said(tuned, BLOCKS))


@pytest.mark.parametrize(
    ("name", "kernel", "words"), [(HEADS, "sweep", BLOCKS), (CHANNELS, "chunk", COLUMNS)]
)
def test_a_module_with_times_of_one_gpu_has_it(
    name: str, kernel: str, words: tuple[str, ...]
) -> None:
    analysis = small(name)
    timed(analysis, "decode", H100)
    timed(analysis, kernel)
    text = compiler.emit(analysis)
    assert all(said(text, words))
    # the other of the two has no times
    others = (set(BLOCKS) | set(COLUMNS)) - set(words)
    assert name == HEADS or not any(said(text, tuple(others)))
    assert name == CHANNELS or text == compiler.emit(analysis, untimed=True)
    assert compiler.emit(analysis) == text


@pytest.mark.parametrize(
    ("name", "kernel", "at"),
    [
        # a search that was cut short, and a cache with another buffer
        (HEADS, "sweep", {"cut": 1}),
        (CHANNELS, "chunk", {"buffer": 31}),
    ],
)
def test_records_without_times_that_count_bring_nothing(
    name: str, kernel: str, at: dict[str, int]
) -> None:
    analysis = small(name)
    timed(analysis, kernel, **at)
    text = compiler.emit(analysis)
    assert H200 in text and f"_{kernel}_kernel" not in text and f'"{kernel}": {{' not in text


def test_which_kernels_wait() -> None:
    for each in shipped():
        analysis = compiler.analyse(resolve(each.name))
        form = analysis.form
        expected = {SWEEP.name} if SWEEP.exists(form) else set[str]()
        if CHUNK.exists(form) and form.decay("K"):
            expected.add(CHUNK.name)
        untuned = configurations(form, analysis.records)
        assert waiting(form, untuned) == expected
        times = {"a GPU": {kernel.name: {1: {"us": 1.0}} for kernel in KERNELS}}
        assert not waiting(form, untuned | times)


def test_what_a_search_times_is_in_its_module() -> None:
    for name, words in ((HEADS, BLOCKS), (CHANNELS, (*BLOCKS, *COLUMNS))):
        text = tune.make_job(small(name), {}).module.read_text(encoding="utf-8")
        assert all(said(text, words))


def test_without_it_configurations_of_callers_change_nothing(
    launched: Callable[[Twin], list[str]],
) -> None:
    """What a caller puts into CONFIGS counts, but for kernels that are not there."""
    analysis = small(CHANNELS)
    module: Any = compiler.built(analysis)
    module.CONFIGS["a GPU"] = {name: {1: {**each, "us": 1.0}} for name, each in CONFIGS.items()}
    options = {"slots": 4, "layers": 1, "buffer": 16, "window": 8, "dtype": torch.bfloat16}
    pair = Twin(Made(analysis, module), "cpu", **options)
    pair.cache.gpu = "a GPU"
    pair.admit([1, 2])
    names = launched(pair)
    Verify(pair, [2, 1], 6, counts=[0, 0]).run(0)
    Extend(pair, [2, 1], [70, 5]).run(0)
    assert names == ["verify", "extend"]
    assert module.Cache.table.blocks is None and module.Cache.table.chunk == 0


STORAGE = ({}, {"storage.state": "split", "storage.records": "input"}, {"storage.state": "float16"})
FEATURES = (USUAL, ALL, (DECODE,), (DECODE, EXTEND), (DECODE, VERIFY))


def unreached(text: str) -> set[str]:
    """The functions of Triton that a module's host does not launch, nor what it launches calls."""
    body = ast.parse(text).body
    jitted = {
        each.name: each
        for each in body
        if isinstance(each, ast.FunctionDef)
        and any("jit" in ast.unparse(decorator) for decorator in each.decorator_list)
    }
    host = [part for each in body if each not in jitted.values() for part in ast.walk(each)]
    spoken = {part.value for part in host if isinstance(part, ast.Constant)}
    named = {part.id for part in host if isinstance(part, ast.Name)}
    kernel = re.compile(r"_(\w+)_kernel")
    open_ = [
        name
        for name in jitted
        if name in named or ((found := kernel.fullmatch(name)) and found[1] in spoken)
    ]
    left = set(jitted)
    while open_:
        name = open_.pop()
        if name in left:
            left.remove(name)
            inner = ast.walk(jitted[name])
            open_ += [part.id for part in inner if isinstance(part, ast.Name) and part.id in left]
    return left


@pytest.mark.parametrize("untimed", [False, True])
@pytest.mark.parametrize("name", [HEADS, CHANNELS, "kimi_delta_attention_bounded", "mamba2"])
def test_a_module_has_no_function_that_it_cannot_run(name: str, untimed: bool) -> None:
    # each choice of kernels with one way to store, and with another without times
    stored = cycle(STORAGE[untimed:] + STORAGE[:untimed])
    for features, storage in zip(FEATURES, stored, strict=False):
        text = compiler.emit(compiler.analyse(resolve(name), storage), {}, features, untimed)
        assert not unreached(text), (storage, features)


def test_what_is_not_reached_is_found() -> None:
    text = compiler.emit(small(HEADS), {})
    extra = "\n\n@triton.jit\ndef _again(x):\n    return _again(x)\n"
    assert unreached(text + extra) == {"_again"}
