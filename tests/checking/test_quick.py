"""The interpreter with less Python around each operation: the same values, types and errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
        outputs = [pair.step([0, 2])[0].tolist() for _ in range(5)]
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


def test_values_and_errors_are_the_interpreters_own(tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    script.write_text(BOTH, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{SUPPORT}", "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert not ran.returncode, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    known = triton.__version__.rpartition(".")[0] in RELEASES
    assert found["known"] == found["changed"] == known
    assert found["same"] and found["restored"]
    # none of the wrong kernels went through
    assert all(found["errors"]), found["errors"]
