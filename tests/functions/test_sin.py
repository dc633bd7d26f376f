"""sin as a function of the language."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kvgen import compiler
from kvgen.checking.check import check
from kvgen.diagnostics import Diagnostic, SpecError
from kvgen.explaining import explain

# keys turn by an angle for each token and channel, and the state forgets by the same wave
SPEC = """kvgen: 1
name: waves
sizes: {H: 1, HV: 2, K: 12, V: 10}
inputs: {q: [H, K], k: [H, K], v: [HV, V], g: [HV], angle: [H, K]}
state: {S: [HV, K, V], n: [HV, K]}
step: |
  S = (1 + sin(g)) / 2 * S + outer(k * sin(angle), v)
  n = sin(n) + k
  o = (q * n) @ S
"""
CASES = ("decode, rows out of phase", "recurrent, after decodes", "odd sizes", "drafts, chains")


def refused(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpecError) as raised:
        compiler.analyse(text)
    return raised.value.diagnostics


def test_a_recurrence_with_it_passes_check() -> None:
    analysis = compiler.analyse(SPEC, {"storage.state": "split"})
    report = check(analysis, "cpu", only=CASES)
    assert report.ok, [row for row in report.rows if not row.ok]


def test_it_lies_between_its_turns() -> None:
    decay = compiler.analyse(SPEC).form.decay("")
    assert decay is not None and decay.nonpositive
    assert "sin(g)" in explain.form_text(compiler.analyse(SPEC))
    (found,) = refused(SPEC.replace("(1 + sin(g)) / 2", "(0.5 + sin(g))"))
    assert found.code == "decay-sign" and "only to be >= -0.5" in found.message


def test_no_rounding_takes_it_beyond_them() -> None:
    turns = (np.arange(-20_000, 20_000) + 0.5) * math.pi
    near = turns.astype(np.float32)
    for _ in range(4):
        assert np.abs(np.sin(near)).max() <= 1
        near = np.nextafter(near, np.float32(np.inf))


def test_its_name_is_taken() -> None:
    (found, *_) = refused(SPEC.replace("angle", "sin"))
    assert found.code == "reserved-name" and found.message == "'sin' is a function of the language"
    assert found.help == "write 'sin_' or 'x_sin'"
    compiler.analyse(SPEC.replace("angle", "sin_"))


def test_a_decay_of_numbers() -> None:
    decay = compiler.analyse(SPEC.replace("sin(g)", "sin(1)")).form.decay("")
    assert decay is not None and decay.log.const == pytest.approx(math.log((1 + math.sin(1)) / 2))
