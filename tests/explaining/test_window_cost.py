"""Operations of several tokens at once: what is estimated beside what the kernels compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps
from twins import SPECS

from kvgen import compiler
from kvgen.explaining import explain
from kvgen.explaining.window_cost import STEEP, extend_work, verify_work
from kvgen.kernels.registry import named
from kvgen.shipped import resolve

# reads of a state whose values decay one by one, and writes that depend on them
OVER_V = """
k = l2norm(k)
S = sigmoid(g) * S
S = S + outer(k, sigmoid(b) * (v - k @ S))
o = q @ S
"""
TWICE = OVER_V.replace("o = ", "S = S - outer(e, sigmoid(b) * (e @ S))\no = ")
OWN = {"over_v": OVER_V, "twice": TWICE}


def analysed(name: str, k: int = 32, v: int = 32) -> compiler.Analysis:
    sizes = {"sizes.H": "1", "sizes.HV": "1", "sizes.K": str(k), "sizes.V": str(v)}
    if name not in OWN:
        return compiler.analyse(resolve(name), sizes)
    inputs = "q: [H, K], k: [H, K], e: [H, K], v: [HV, V], g: [HV, V], b: [HV]"
    text = f"kvgen: 1\nname: {name}\nsizes: {{H: 1, HV: 1, K: {k}, V: {v}}}\n"
    text += f"inputs: {{{inputs}}}\nstate: {{S: [HV, K, V]}}\nstep: |\n"
    step = OWN[name].strip().splitlines()
    if name == "over_v":
        text = text.replace(" e: [H, K],", "")
    return compiler.analyse(text + "".join(f"  {line}\n" for line in step))


class Counter:
    """Adds up what the interpreter computes in float32, element by element."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operations = 0
        for owner, name in ((InterpreterBuilder, "binary_op"), (InterpreterBuilder, "unary_op")):
            monkeypatch.setattr(owner, name, self._elements(getattr(owner, name)))
        dot, added = InterpreterBuilder.create_dot, ReduceOps.sum

        def counted_dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
            self.operations += 2 * a.data.size * b.data.shape[1]
            return dot(builder, a, b, *rest)

        def counted_sum(reduction: Any, x: Any) -> Any:
            if x.handle.data.dtype == np.float32:
                self.operations += x.handle.data.size
            return added(reduction, x)

        monkeypatch.setattr(InterpreterBuilder, "create_dot", counted_dot)
        monkeypatch.setattr(ReduceOps, "sum", counted_sum)

    def _elements(self, original: Any) -> Any:
        def counted(*args: Any) -> Any:
            found = original(*args)
            if found.data.dtype == np.float32:
                self.operations += found.data.size
            return found

        return counted


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def called(analysis: compiler.Analysis, kernel: str, tokens: int, counter: Counter) -> float:
    """Operations of one token, of one row on one head."""
    module, spec = compiler.built(analysis, {}), analysis.spec
    # what is estimated is the work of this kernel, whichever would run in its place
    module.CONFIGS["default"] = named(kernel).alone(module.CONFIGS["default"])
    window = tokens if kernel == "verify" else 0
    cache = module.Cache.empty(1, 1, device="cpu", dtype=torch.float32, window=window)
    slots = torch.zeros(1, dtype=torch.int32)
    cache.reset(slots)
    shapes = {tensor.name: [1, tokens, *map(spec.size, tensor.axes)] for tensor in spec.inputs}
    given = {name: torch.rand(shape) for name, shape in shapes.items()}
    given |= {tensor.name: torch.rand([*map(spec.size, tensor.axes)]) for tensor in spec.params}
    counter.operations = 0
    if kernel == "extend":
        lengths = torch.full((1,), tokens, dtype=torch.int32)
        module.extend(cache, 0, slots, **given, lengths=lengths)
    else:
        parents = torch.arange(-1, tokens - 1, dtype=torch.int32)[None]
        module.verify(cache, 0, slots, **given, parents=parents)
    return counter.operations / tokens


@pytest.mark.parametrize("kernel", ["extend", "verify"])
@pytest.mark.parametrize(
    "name",
    [*SPECS, "gla", "gated_oja", "mlstm", "lightnet", "gated_deltaproduct", "rwkv7", "over_v"],
)
def test_operations_are_those_that_kernels_compute(
    name: str, kernel: str, counter: Counter
) -> None:
    analysis = analysed(name)
    if kernel == "extend":
        work = extend_work(analysis.form, analysis.records)
    else:
        work = verify_work(analysis.form, analysis.records, 16)
    found = called(analysis, kernel, work.tokens, counter)
    # of gates, norms and what a block has once, small heads have more
    assert 0.6 < work.total / found < 1.15, f"{work.total:.0f} estimated, {found:.0f} computed"


def test_a_decay_over_v_and_a_delta_write_are_steep() -> None:
    over_v, twice = map(sized, ("over_v", "twice"))
    prompts = [extend_work(each.form, each.records) for each in (over_v, twice)]
    trees = [verify_work(each.form, each.records, 16) for each in (over_v, twice)]
    assert 2.4 < prompts[0].ratio < 2.5 and 4.4 < prompts[1].ratio < 4.5
    assert 12 < trees[0].ratio < 13 and trees[0].steep
    assert 28 < trees[1].ratio < 30 and trees[1].solving > 0.9 * trees[1].total
    plain = sized("gated_deltanet")
    assert extend_work(plain.form, plain.records).ratio < 1.5


def sized(name: str) -> compiler.Analysis:
    return analysed(name, 128, 128)


def test_a_draft_of_few_costs_less_than_one_of_many() -> None:
    analysis = sized("over_v")
    works = [verify_work(analysis.form, analysis.records, tokens) for tokens in (1, 4, 16)]
    assert works[0].total < works[1].total < works[2].total
    assert not works[1].steep and works[2].steep
    assert len({work.plain for work in works}) == 1


@pytest.mark.parametrize(("name", "steep"), [("over_v", True), ("gated_deltanet", False)])
def test_explain_says_what_a_prompt_costs(name: str, steep: bool) -> None:
    analysis = sized(name)
    work = extend_work(analysis.form, analysis.records)
    times = f"{work.ratio:.1f} times the plain recurrence's"
    text = " ".join(explain.text(analysis).split())
    assert times in text and ("That is a slow path: what is written" in text) is steep
    assert f"at {times} operations" in dict(explain.summary(analysis))["tokens at once"]
    found = explain.data(analysis)["windows"]["operations"]
    assert found["extend"] == {
        "tokens": 16, "operations": round(work.total), "ratio": work.ratio,
    }  # fmt: skip
    assert [each["tokens"] for each in found["verify"]] == [4, 16]
    assert any(each["ratio"] >= STEEP for each in found["verify"]) is steep
