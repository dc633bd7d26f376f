"""What a module is compiled with, and what it says of the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from twins import analysed

import kvgen
from kvgen import compiler
from kvgen.checking.samples import Sampler
from kvgen.codegen.features import ALL, completed


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, ALL),
        ((), ("decode",)),
        (("extend",), ("decode", "extend")),
        (("verify", "decode"), ("decode", "verify")),
        (("short",), ALL),
    ],
)
def test_what_is_needed_comes_along(asked: tuple[str, ...] | None, found: tuple[str, ...]) -> None:
    assert completed(asked) == found


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm"])
@pytest.mark.parametrize("asked", [("decode",), ("verify",), ("extend",), ("verify", "extend")])
def test_what_is_left_out_says_what_compiles_it(name: str, asked: tuple[str, ...]) -> None:
    analysis = analysed(name)
    module = compiler.built(analysis, features=asked)
    assert completed(asked) == module.FEATURES
    sampler = Sampler(analysis.spec, "cpu", 1)
    params, slots = sampler.params(), torch.tensor([0, 1])
    options = {"device": "cpu", "dtype": torch.float32, "buffer": 4, "window": 2}
    cache = module.Cache.empty(2, **options)
    calls = {
        "verify": lambda given: module.verify(cache, 0, slots, **given, **params),
        "extend": lambda given: module.extend(
            cache, 0, slots, **given, **params, lengths=torch.tensor([2, 1], dtype=torch.int32)
        ),
    }
    module.decode(cache, 0, slots, **sampler.inputs(2, torch.float32), **params)
    module.advance(cache, slots)
    for call, run in calls.items():
        given = {key: x.unflatten(0, (2, 2)) for key, x in sampler.inputs(4, torch.float32).items()}
        if call in asked:
            assert run(given).isfinite().all()
            counts = torch.tensor([2, 1], dtype=torch.int32)
            module.accept(cache, slots, counts=counts)
        else:
            with pytest.raises(
                ValueError, match=rf"{call}: .*kvgen compile {name} .*--with .*{call}"
            ):
                run(given)
    with pytest.raises(ValueError, match=r"short_context: 16, .*--with decode,verify,extend,short"):
        module.Cache.empty(2, **options, short_context=16)


def test_a_smaller_module_computes_the_same() -> None:
    analysis = analysed("gated_deltanet")
    whole, small = compiler.emit(analysis), compiler.emit(analysis, features=["decode"])
    assert small.count("\n") < 0.6 * whole.count("\n")
    start, end = "def _decode_kernel(", "@triton.jit\ndef _recurrent_kernel("
    cut = [text[text.index(start) : text.index(end)] for text in (whole, small)]
    kernel = [text.partition("\n# Triton's interpreter")[0].rstrip() for text in cut]
    assert kernel[0] == kernel[1]


def test_from_python_all_is_there() -> None:
    assert kvgen.load("gated_deltanet").FEATURES == ALL
    assert kvgen.load("gated_deltanet", features=["extend"]).FEATURES == ("decode", "extend")
    assert completed("extend, verify") == ALL[:-1]
    for unknown in (["trees"], "decode,trees"):
        with pytest.raises(ValueError, match="features: 'trees', expected some of decode, verify"):
            kvgen.load("gated_deltanet", features=unknown)


def test_from_the_command_line(tmp_path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kvgen", "compile", "gated_deltanet", "-o", str(tmp_path)]
        return subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    assert run().returncode == 0
    text = (tmp_path / "gated_deltanet.py").read_text()
    assert 'FEATURES = ("decode", "verify", "extend")' in text and "PagedCache" not in text
    assert run("--with", "decode").returncode == 0
    assert 'FEATURES = ("decode",)' in (tmp_path / "gated_deltanet.py").read_text()
    unknown = run("--with", "decode,trees")
    assert unknown.returncode == 2 and "'trees', expected some of decode" in unknown.stderr


def test_where_a_module_goes(tmp_path: Path) -> None:
    """A file of any name is imported; none hides a module of Python, as from the command line."""
    options = {"features": ["decode"], "inputs.b.range": (0, 1)}
    module = kvgen.compile("gated_deltanet", tmp_path / "mine", **options)
    assert module.__file__ == str(tmp_path / "mine") and "[0, 1]" in module.SPEC["text"]
    with pytest.raises(ValueError, match="would hide the module 'os'"):
        kvgen.compile("gated_deltanet", tmp_path / "os.py", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


POWERS = """
kvgen: 1
name: powers
sizes: {H: 1, HV: 1, K: 4, V: 4}
inputs: {q: [H, K], k: [H, K], v: [HV, V], a: [HV], b: [HV]}
state: {S: [HV, K, V], m: [HV]}
step: |
  o = a ** b * (q @ S)
  S = sigmoid(m) * S + outer(k, v)
  m = sigmoid(sum(q @ S))
"""


def test_powers_need_no_windows() -> None:
    """The function that they call comes with each kernel that calls it."""
    analysis = compiler.analyse(POWERS)
    assert not analysis.form.windows
    assert "def _power(" in compiler.emit(analysis, {})
