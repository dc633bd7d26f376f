"""The interpreter with less Python around each operation: the same values, types and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from places import ROOT, SUPPORT

from kvgen.checking.quick import RELEASES, quick


@triton.jit
def _twice(x):
    return x + x


@triton.jit
def _eight_times(x_ptr):
    tl.store(x_ptr, _twice(_twice(_twice(tl.load(x_ptr)))))


def test_the_language_is_patched_once_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import interpreter as run

    patch, patched = run._patch_lang, []
    monkeypatch.setattr(run, "_patch_lang", lambda fn: patched.append(fn) or patch(fn))
    x, load = torch.ones(1), tl.load
    with quick():
        for wanted in (8, 64):
            _eight_times[(1,)](x)
            assert x.item() == wanted and tl.load is load
        assert len(patched) == 2
        # a launch that fails leaves nothing behind
        with pytest.raises(run.InterpreterError):
            _eight_times[(1,)](None)
        assert tl.load is load
        _eight_times[(1,)](x)
    assert x.item() == 512 and len(patched) == 4 and tl.load is load


# in a process of its own: here it is on from the first test to the last
BOTH = """
import json
import torch
import triton
import triton.language as tl
from triton.language import core
from triton.runtime import interpreter

from kvgen.checking.interpreter import rounding
from kvgen.checking.quick import quick
from twins import snapshot, twin


@triton.jit
def _mixed(x_ptr, y_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < 5, other=0.5)
    y = tl.load(y_ptr + i)
    both = x[:, None] * y[None, :] + (i[:, None] + 2) // 3 - (i[None, :] % 2).to(tl.int8)
    total = tl.sum(tl.where(both > 1, both, 0.25), 1) + tl.cumsum(x.to(tl.float32), 0)
    product = tl.dot(both.to(tl.float32), tl.trans(both).to(tl.float32))
    tl.store(out_ptr + i, total + tl.max(product, 0))
    tl.store(out_ptr + BLOCK + i, (2147483000 + i * 100).to(tl.float32))


@triton.jit
def _shapes(out_ptr):
    tl.store(out_ptr, tl.sum(tl.zeros([4], tl.float32) + tl.zeros([8], tl.float32), 0))


@triton.jit
def _odd(out_ptr):
    tl.store(out_ptr, tl.sum(tl.zeros([6], tl.float32), 0))


@triton.jit
def _pointers(out_ptr):
    tl.store(out_ptr + out_ptr, 1.0)


@triton.jit
def _flat(out_ptr):
    tl.store(out_ptr, tl.zeros([2, 2], tl.float32)[:, :, :])


def said(kernel):
    try:
        kernel[(1,)](torch.zeros(4))
    except interpreter.InterpreterError as error:
        return str(error)
    return None


def run():
    draw = torch.Generator().manual_seed(0)
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x, y = (torch.randn(16, generator=draw).to(dtype) for _ in "xy")
        out = torch.zeros(32)
        _mixed[(1,)](x, y, out, 16)
        found[str(dtype)] = out.tolist()
    found["errors"] = [said(kernel) for kernel in (_shapes, _odd, _pointers, _flat)]
    for state in ("split", "bfloat16"):
        pair = twin("gated_deltanet", f"state={state}", slots=3)
        pair.admit([0, 2])
        outputs = [pair.step([0, 2])[0].tolist() for _ in range(3)]
        books = {name: bits.tolist() for name, bits in snapshot(pair).items()}
        found[state] = outputs, books
    return found


with rounding():
    own = core.block_type.__init__, core.tensor.__init__, interpreter._get_np_dtype
    before = run()
    with quick() as known:
        changed = core.block_type.__init__ is not own[0]
        within = run()
    restored = (core.block_type.__init__, core.tensor.__init__, interpreter._get_np_dtype) == own
    after = run()
print(json.dumps({"known": known, "changed": changed, "restored": restored,
                  "same": repr(before) == repr(within) == repr(after), "errors": before["errors"]}))
"""


# every operation on every pair of what a kernel may have, within and without: what its data are,
# how they lie, of which type they and their value are, or what is wrong
OPERATIONS = """
import json
import operator
import warnings

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from kvgen.checking.quick import quick
from kvgen.checking.values import Values


@triton.jit
def _seen():
    pass


MEMORY = torch.arange(96, dtype=torch.int32)
DTYPES = {
    "fp32": np.float32, "fp16": np.float16, "bf16": np.uint16, "fp64": np.float64, "int1": bool,
    "int8": np.int8, "int32": np.int32, "int64": np.int64, "uint32": np.uint32,
}
NAMES = {
    "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp64": "float64",
}
CONSTANTS = [
    -0.0, 0, 1, -1, 3, True, False, 2**24 + 1, 2**31 - 1, 2**31, -(2**31), 2**40, 2**64, 0.0, 0.5,
    -2.5, 1e-40, 1e39, float("inf"), float("nan"), tl.constexpr(2), tl.constexpr(0.5), None, "x",
]
FULL = slice(None)


def value(data, kind):
    element = getattr(tl, NAMES.get(kind, kind)) if isinstance(kind, str) else kind
    type = tl.block_type(element, list(data.shape)) if data.ndim and data.shape != (1,) else element
    return tl.tensor(interpreter.TensorHandle(data, element), type)


def addresses(kind, shape=None):
    first = MEMORY.data_ptr()
    at = np.array([first], dtype=np.uint64)
    if shape is not None:
        at = first + 4 * np.arange(np.prod(shape), dtype=np.uint64).reshape(shape)
    return value(at, tl.pointer_type(getattr(tl, kind)))


def values():
    draw = np.random.default_rng(0)
    found = {}
    # where nothing is done at once, a number and a block are enough
    shapes = {
        "fp32": ((1,), (4,), (1, 4), (8, 1), (8, 4), (2, 8, 4)), "int32": ((1,), (4,), (8, 4)),
        "int64": ((1,), (8, 1)), "int1": ((1,), (4,), (8, 4)),
    }
    for kind, dtype in DTYPES.items():
        for shape in shapes.get(kind, ((4,),)):
            data = (draw.standard_normal(shape) * 5).astype(dtype)
            found[f"{kind}{shape}"] = value(data, kind)
    across = np.arange(32, dtype=np.float32).reshape(4, 8).T
    found["across"] = value(across, "fp32")
    found["whole across"] = value(across.astype(np.int32), "int32")
    found["spread"] = value(np.broadcast_to(across[:, :1], (8, 4)), "fp32")
    # of a comparison the data say another type than the value does
    found["answer"] = found["fp32(8, 4)"] > 0
    found["answer across"] = found["across"] > 0.5
    found["answer of 16 bits"] = found["bf16(4,)"] > found["bf16(4,)"]
    for kind in ("float32", "int8", "int1"):
        found[f"at {kind}"] = addresses(kind)
        found[f"at {kind} 4"] = addresses(kind, (4,))
    found["at float32 8 4"] = addresses("float32", (8, 4))
    found["block at float32"] = value(np.array([0], dtype=np.uint64), tl.pointer_type(
        tl.block_type(tl.float32, [4])))
    return found


def told(x):
    if not isinstance(x, tl.tensor):
        return repr(x)
    data = getattr(x.handle, "data", None)
    if data is None:
        return f"{type(x.handle)} {x.type}"
    lies = [step for step, size in zip(data.strides, data.shape) if size > 1]
    return (data.tobytes().hex(), str(data.dtype), data.shape, lies, str(x.type), str(x.dtype),
            str(x.handle.dtype), x.numel.value, [each.value for each in x.shape])


def answer(call, *args, **options):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = told(call(*args, **options))
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
    said = sorted({str(each.message) for each in warned})
    return repr((found, said))


def stored(*args, **options):
    MEMORY.copy_(torch.arange(96, dtype=torch.int32))
    tl.store(*args, **options)
    return MEMORY.tolist()


BINARY = [
    "add", "sub", "mul", "truediv", "floordiv", "mod", "and_", "or_", "xor", "lshift", "rshift",
    "lt", "le", "gt", "ge", "eq", "ne",
]
# what has all of these done to it, and what is done to the rest
ALL = ["fp32(8, 4)", "across", "int32(1,)", "int32(4,)", "int64(8, 1)", "answer"]
FEW = ["add", "mul", "lt"]


def run():
    found, given = {}, values()
    numbers = [(repr(each), each) for each in CONSTANTS]
    numbers += [("constexpr of one", tl.constexpr(given["int32(1,)"]))]
    numbers += [("constexpr of a block", tl.constexpr(given["int32(4,)"]))]

    def ask(name, call, *args, **options):
        found[name] = answer(call, *args, **options)

    for one, x in given.items():
        for name in ("neg", "invert"):
            ask((name, one), getattr(operator, name), x)
        for name in ("exp", "exp2", "log", "log2", "sqrt", "abs"):
            ask((name, one), getattr(tl, name), x)
        for kind in ("float32", "float16", "bfloat16", "int1", "int8", "int32", "int64"):
            ask(("to", one, kind), x.to, getattr(tl, kind))
        ask(("to bits", one), lambda x: x.to(tl.int32, bitcast=True), x)
        for place in ((None,), (None, FULL), (FULL, None), (FULL, None, FULL), (FULL, FULL),
                      (FULL, FULL, FULL), (0, FULL), FULL, None):
            ask(("item", one, str(place)), operator.getitem, x, place)
        for other, y in [*given.items(), *numbers]:
            for name in BINARY if one in ALL else FEW:
                ask((name, one, other), getattr(operator, name), x, y)
                if not isinstance(y, tl.tensor):
                    ask((name, other, one), getattr(operator, name), y, x)
            for name in ("minimum", "maximum"):
                ask((name, one, other), getattr(tl, name), x, y)
            ask(("where", one, other), tl.where, given["answer"], x, y)
            ask(("where a number", one, other), tl.where, given["int1(1,)"], x, y)
            if one.startswith(("answer", "int1", "int32(4")):
                for third in ("fp32(8, 4)", "across", "fp32(1,)", "int32(8, 4)"):
                    ask(("where", one, other, third), tl.where, x, y, given[third])
                    ask(("where", one, third, other), tl.where, x, given[third], y)
    for at in (each for each in given if "at " in each):
        for other, y in [*given.items(), *numbers]:
            ask(("store", at, other), stored, given[at], y)
            ask(("load where", at, other), tl.load, given[at], mask=y)
            ask(("load or 0", at, other), tl.load, given[at], mask=y, other=0.0)
            few = given["int1(4,)"]
            ask(("load else", at, other), tl.load, given[at], mask=few, other=y)
            ask(("load else alone", at, other), tl.load, given[at], other=y)
            ask(("store where", at, other), stored, given[at], given["int32(4,)"], mask=y)
            ask(("store one where", at, other), stored, given[at], given["fp32(1,)"], mask=y)
        for hint in ("evict_first", "evict_first", "nonsense"):
            ask(("load", at, hint), tl.load, given[at], eviction_policy=hint)
            ask(("store", at, hint), stored, given[at], given["fp32(4,)"], eviction_policy=hint)
    for shape in ([4], [8, 4], [3], [], (4,), [tl.constexpr(4)]):
        for each in CONSTANTS:
            for kind in ("float32", "bfloat16", "int32", "int1"):
                ask(("full", str(shape), repr(each), kind), tl.full, shape, each, getattr(tl, kind))
    for ends in ((0, 4), (4, 8), (0, 3), (4, 4), (0, tl.constexpr(8)), (0, 2**40)):
        ask(("arange", str(ends)), tl.arange, *ends)
    for axis in (0, 1, 2, 3, -1, True, tl.constexpr(1)):
        ask(("program", str(axis)), tl.program_id, axis)
    return found


def patched(times):
    scope = interpreter._patch_lang(_seen.fn)
    try:
        interpreter.interpreter_builder.set_grid_dim(2, 3, 4)
        interpreter.interpreter_builder.set_grid_idx(1, 2, 3)
        return [run() for _ in range(times)]
    finally:
        scope.restore()


DIRECT = []
value_of = Values.value
Values.value = lambda self, *args: DIRECT.append(args) or value_of(self, *args)
(before,) = patched(1)
assert not DIRECT
with quick() as known:
    # twice, for what is kept from the first time
    found = patched(2)
off = [(name, before[name], each[name]) for each in found for name in before
       if before[name] != each[name]]
print(json.dumps({"known": known, "asked": len(before), "direct": len(DIRECT), "off": off[:20]}))
"""


def ran(tmp_path: Path, text: str) -> Any:
    script = tmp_path / "both.py"
    script.write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{SUPPORT}", "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert not ran.returncode, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_operations_are_the_interpreters_own(tmp_path: Path) -> None:
    found = ran(tmp_path, OPERATIONS)
    assert found["known"] == (triton.__version__.rpartition(".")[0] in RELEASES)
    assert found["asked"] > 10_000 and not found["off"], found
    # nor is it that nothing was put in their place
    assert (found["direct"] > 5_000) == found["known"]


def test_values_and_errors_are_the_interpreters_own(tmp_path: Path) -> None:
    found = ran(tmp_path, BOTH)
    known = triton.__version__.rpartition(".")[0] in RELEASES
    assert found["known"] == found["changed"] == known
    assert found["same"] and found["restored"]
    # none of the wrong kernels went through
    assert all(found["errors"]), found["errors"]
