"""cos as a function of the language."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from kvgen import compiler
from kvgen.checking.check import check
from kvgen.diagnostics import SpecError
from kvgen.explaining import explain

# each channel of the keys swings at its own pace, and the state forgets by its angle with a reader
SPEC = """kvgen: 1
name: pendulum
sizes: {H: 2, HV: 4, K: 9, V: 12}
inputs: {q: [H, K], k: [H, K], v: [HV, V], f: [HV, K]}
params: {pace: [H, K]}
state: {S: [HV, K, V], turn: [H, K]}
step: |
  turn = turn + sum(k) * pace
  S = (1 - cos(f)**2) * S + outer(l2norm(k * cos(turn)), v)
  o = (q * cos(turn)) @ S
"""
CASES = ("decode, rows out of phase", "recurrent, after decodes", "odd sizes", "drafts, trees")


def test_a_recurrence_with_it_passes_check() -> None:
    analysis = compiler.analyse(SPEC, {"storage.state": "float32"})
    report = check(analysis, "cpu", only=CASES)
    assert report.ok, [row for row in report.rows if not row.ok]


def test_it_lies_between_its_turns() -> None:
    analysis = compiler.analyse(SPEC)
    decay = analysis.form.decay("K")
    assert decay is not None and decay.nonpositive
    assert "cos(f)" in explain.form_text(analysis)
    with pytest.raises(SpecError, match="not proved to be >= 0, only to be >= -3"):
        compiler.analyse(SPEC.replace("(1 - cos(f)**2)", "(2 * cos(f) - 1)"))


def test_no_rounding_takes_it_beyond_them() -> None:
    near = (np.arange(-20_000, 20_000) * math.pi).astype(np.float32)
    for _ in range(4):
        assert np.abs(np.cos(near)).max() <= 1
        near = np.nextafter(near, np.float32(np.inf))


def test_its_name_is_taken() -> None:
    with pytest.raises(SpecError) as raised:
        compiler.analyse(SPEC.replace("pace", "cos"))
    found = raised.value.diagnostics[0]
    assert found.code == "reserved-name" and found.message == "'cos' is a function of the language"
    assert found.help == "write 'cos_' or 'x_cos'"


def test_padding_of_a_channel_stays_out_of_sums() -> None:
    """The cosine of a padded 0 is 1."""
    analysis = compiler.analyse(SPEC.replace("sum(k)", "sum(cos(k))"))
    assert re.search(r"tl\.sum\(tl\.where\(\w+, tl\.cos\(", compiler.emit(analysis))
    report = check(analysis, "cpu", only=CASES[:1])
    assert report.ok, [row for row in report.rows if not row.ok]
