"""What of an output is left to its end: the sums over V that nothing else needs."""

from __future__ import annotations

import pytest

from kvgen import compiler
from kvgen.algebra.form import Form
from kvgen.wisdom.identity import form_hash

SPEC = """\
kvgen: 1
name: ended
sizes: {H: 1, HV: 2, K: 8, V: 8}
inputs: {q: [H, K], p: [H, K], k: [H, K], v: [HV, V], z: [HV, V], b: [HV], f: [HV]}
params: {g: [V]}
state: {S: [HV, K, V], n: [HV, K], m: [HV]}
step: |
  S = exp(-softplus(f)) * S + outer(k, sigmoid(b) * (v - k @ S))
  n = n + k
  m = 0.5 * m + b
  o = END
"""


def form_of(end: str, spec: str = SPEC) -> Form:
    return compiler.analyse(spec.replace("END", end)).form


ENDED = [
    ("rmsnorm(q @ S) * g * silu(z)", "add"),
    ("l2norm((q @ S) * z) + g", "mul"),
    # a sum of the token alone
    ("(q @ S) * l2norm(z)", "add"),
    # what is carried comes before
    ("rmsnorm((q @ S) / (q @ n)) * b", "div"),
    ("rmsnorm(q @ S + sum(z * (p @ S)) * (p @ S)) * (q @ k)", None),
    ("rmsnorm(q @ S) * silu(p @ S)", None),
    ("rmsnorm(q @ S) * m", None),
    ("sum(q @ S) * z", "add"),
    ("(q @ S) * silu(z)", None),
    ("l2norm(v) * z", None),
]


@pytest.mark.parametrize(("end", "left"), ENDED, ids=[end for end, _ in ENDED])
def test_what_is_left_of_an_output(end: str, left: str | None) -> None:
    form = form_of(end)
    assert (form.finish is not None) == (left is not None)
    if left is None:
        assert form.result is form.output and form.whole == form.roots
        assert form.whole_v == ("norm" in end)
    else:
        assert form.output.op == left and form.output.axes.channels == "V"
        assert form.result is form.finish and not form.whole_v


@pytest.mark.parametrize(
    ("there", "instead"),
    [("(v - k @ S)", "(v - l2norm(k @ S))"), ("n = n + k", "n = n + sum(z) * k")],
)
def test_what_others_sum_over_v_is_left_to_no_end(there: str, instead: str) -> None:
    form = form_of("rmsnorm(q @ S) * g", SPEC.replace(there, instead))
    assert form.finish is None and form.whole_v


def test_an_end_is_part_of_what_is_tuned() -> None:
    texts = [SPEC.replace("END", f"rmsnorm(q @ S{eps}) * g") for eps in ("", ", eps=1e-5")]
    assert len({form_hash(compiler.analyse(text)) for text in texts}) == 2


def test_an_input_of_the_end_alone_is_used() -> None:
    warnings = compiler.analyse(SPEC.replace("END", "rmsnorm(q @ S) * g * silu(z)")).warnings
    assert {each.code for each in warnings} == {"unused-input", "unread-state"}
    assert not any("'z'" in each.message or "'g'" in each.message for each in warnings)
