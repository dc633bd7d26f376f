"""Windows of recurrences whose decays differ by channel, of every strength, against float64."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter
from twins import analysed, within_rounding

from kvgen import compiler
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Made, Tensors, Twin
from kvgen.checking.windows import Extend, Verify, accepted, tree

# what is read and written; the decay is exp(-f), over K or over V
STEPS = {
    "delta": """
  S = exp(-f) * S
  k = l2norm(k)
  S = S + outer(k, sigmoid(b) * (v - k @ S))
  o = q @ S
""",
    "read first": """
  o = q @ S + (q @ k) * v
  S = exp(-f) * S + sigmoid(b) * outer(k, v)
""",
    # a triangle for each channel, which is substituted
    "delta of values": """
  S = exp(-f) * S
  k = l2norm(k)
  S = S + outer(k, sigmoid(b) * (v - k @ S))
  o = q @ S
""",
    # the key side is read, from the side that decays
    "Oja": """
  v = l2norm(v)
  S = exp(-f) * S
  S = S + outer(sigmoid(b) * (k - S @ v), v)
  o = q @ S
""",
}
OVER = {"delta": "K", "read first": "K", "delta of values": "V", "Oja": "V"}
# a factor of 0 is exp(-1e30)
STRENGTHS = {
    "strong": [100.0],
    "zero": [1e30],
    "unit": [0.0],
    "some": [0.3, 1.0, 2.5],
    "mixed": [0.0, 1e-3, 0.1, 3.0, 19.0, 21.0, 25.0, 100.0, 1e30],
    "resets": [0.0, 0.0, 0.0, 0.0, 0.0, 1e30],
}
STORED = {
    "state=float32": 2e-6,
    "state=split": None,
    "state=float32 records=input layout=vk": 2e-6,
    "state=bfloat16 records=input": None,
    "state=float16": None,
}


def text_of(name: str, low: float = 0.0) -> str:
    return f"""
kvgen: 1
name: {name.replace(" ", "_")}
sizes: {{H: 1, HV: 2, K: 16, V: 16}}
inputs:
  q: [H, K]
  k: [{"HV" if name == "Oja" else "H"}, K]
  v: [HV, V]
  f: {{axes: [HV, {OVER[name]}], range: [{low}, 1.0e+30]}}
  b: [HV]
state:
  S: [HV, K, V]
step: |{STEPS[name]}"""


def built(text: str, storage: str) -> Made:
    overrides = dict(f"storage.{each}".split("=") for each in storage.split())
    analysis = compiler.analyse(text, overrides)
    return Made(analysis, compiler.built(analysis))


def drawn(strengths: list[float], alike: bool = False) -> Any:
    """What makes inputs of drawn ones: decays of these strengths, keys that are alike, and queries
    that are like a token's own key."""

    def change(sampler: Sampler, tensors: Tensors, token: int | None) -> Tensors:
        if token is None:
            return tensors
        chosen = (sampler.uniform(tensors["f"]) * len(strengths)).long()
        decays = torch.tensor(strengths, dtype=torch.float32)[chosen.clamp(max=len(strengths) - 1)]
        found = {**tensors, "f": decays.to(tensors["f"].dtype)}
        if alike:
            found["k"] = 1.0 + 0.03 * tensors["k"]
        # an output that is a small difference of large numbers says nothing of decays
        found["q"] = found["k"][..., :1, :] + 0.3 * tensors["q"]
        return found

    return change


def served(made: Made, change: Any, seed: int = 5) -> Twin:
    """Prompts of many blocks and of part of one, with and without a state before them, drafts in
    chains and in trees on top, and tokens one by one."""
    pair = Twin(made, "cpu", slots=4, layers=1, buffer=20, window=16, seed=seed, change=change)
    draw = random.Random(seed)
    pair.admit([2, 3])
    pair.reset([0, 1])
    pair.together(Extend(pair, [0, 2, -1, 1, 3], [41, 24, 3, 7, 9]))
    pair.compare()
    pair.step([0, 2])
    pair.together(Verify(pair, [0, 3, 1], 16, counts=[16, 10, 7]))
    pair.compare()
    pair.together(Verify(pair, [1, 2], 5, counts=[5, 2]))
    trees = [tree(draw, 12) for _ in range(2)]
    paths = [accepted(draw, each) for each in trees]
    pair.together(Verify(pair, [0, 2], 12, parents=trees, paths=paths))
    pair.together(Extend(pair, [3, 0, 1], [8, 17, 16]))
    pair.compare()
    return pair


def exact(pair: Twin, most: float | None) -> None:
    within_rounding(pair)
    if most is not None:
        errors = {name: pair.found[name] for name in ("output", "S")}
        assert all(error <= most for error in errors.values()), errors


# mixed ones with every way to store, below
@pytest.mark.parametrize("strength", [each for each in STRENGTHS if each != "mixed"])
@pytest.mark.parametrize("name", STEPS)
def test_decays_of_any_strength(name: str, strength: str) -> None:
    made = built(text_of(name), "state=float32")
    exact(served(made, drawn(STRENGTHS[strength])), 2e-6)


@pytest.mark.parametrize("storage", STORED)
@pytest.mark.parametrize("name", STEPS)
def test_all_ways_to_store(name: str, storage: str) -> None:
    made = built(text_of(name), storage)
    exact(served(made, drawn(STRENGTHS["mixed"])), STORED[storage])


@pytest.mark.parametrize("strength", ["unit", "some", "mixed"])
@pytest.mark.parametrize("name", ["delta", "delta of values"])
def test_keys_that_are_alike(name: str, strength: str) -> None:
    made = built(text_of(name), "state=float32")
    exact(served(made, drawn(STRENGTHS[strength], alike=True)), 5e-6)


# the others' states leave float32
@pytest.mark.parametrize("name", ["read first", "delta of values"])
def test_a_state_that_may_grow(name: str) -> None:
    """Logs above 0 cannot be clamped: what one token takes from a channel another one gives."""
    made = built(text_of(name, low=-1e30), "state=float32")
    assert not made.analysis.form.scaled_decays
    pair = served(made, drawn([-4.0, 30.0, 30.0, 0.0]))
    within_rounding(pair)


def test_what_never_grows_is_scaled() -> None:
    """And nothing but trees goes over pairs of tokens."""
    for name in STEPS:
        text = compiler.emit(compiler.analyse(text_of(name)))
        start = text.index("def _extend_kernel(")
        prompt = text[start : text.index("@triton.jit", start)]
        assert "_pair_" not in prompt and "_block_" in prompt
        start = text.index("def _verify_kernel(")
        drafts = text[start : text.index("@triton.jit", start)]
        trees = re.findall(r"if TREE:\n +\w+ = _pair_", drafts)
        chains = re.findall(r"else:\n +\w+ = _block_", drafts)
        assert drafts.count("_pair_") == len(trees) == len(chains) > 0


def widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16, which the interpreter has as 16 bits, multiplied as what these stand for."""
    exact = interpreter.InterpreterBuilder.create_dot

    def wide(x: Any) -> Any:
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = x.data.view(np.uint16).astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        return exact(self, wide(a), wide(b), d, precision, imprecise)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.mark.parametrize(("storage", "most"), [("state=float32", 5e-6), ("state=bfloat16", None)])
@pytest.mark.parametrize("name", ["kimi_delta_attention", "gla", "gated_oja"])
def test_products_of_parts(
    name: str, storage: str, most: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU multiplies: three bfloat16 numbers lose nothing, two little beside 16 bits."""
    widened(monkeypatch)
    analysis = analysed(name, storage, K=32, V=16)
    made = Made(analysis, compiler.built(analysis))
    monkeypatch.setattr(made.module, "INTERPRETED", tl.constexpr(False))
    exact(served(made, lambda _sampler, tensors, _token: tensors), most)
