"""What is said instead of a call of another library's function computes what that function does."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.nn import functional as F

from kvgen.language.foreign import Foreign, instead, slip

torch.manual_seed(0)
VALUES = {name: torch.randn(3, 5, dtype=torch.float64) for name in "abx"}
LANGUAGE = {
    "exp": torch.exp,
    "log": lambda x: torch.log(torch.as_tensor(x, dtype=torch.float64)),
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "relu": torch.relu,
    "silu": F.silu,
    "sum": lambda x: x.sum(-1, keepdim=True),
    "maximum": lambda x, y: torch.maximum(x, torch.as_tensor(y, dtype=x.dtype)),
    "minimum": lambda x, y: torch.minimum(x, torch.as_tensor(y, dtype=x.dtype)),
    "logaddexp": torch.logaddexp,
    "l2norm": lambda x, eps=1e-6: x / torch.sqrt((x * x).sum(-1, keepdim=True) + eps),
    "rmsnorm": lambda x, eps=1e-6: x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps),
}
# as they are written with torch, and which of its functions that is
CALLS = [
    ("softplus", ("a", "2"), {}, lambda a, b: F.softplus(a, 2, 1e9)),
    ("softplus", ("a",), {"beta": "0.5"}, lambda a, b: F.softplus(a, 0.5, 1e9)),
    ("softplus", ("a",), {"beta": "1", "threshold": "20"}, lambda a, b: F.softplus(a, 1, 1e9)),
    ("log", ("abs(a)", "2"), {}, lambda a, b: torch.log2(a.abs())),
    ("leaky_relu", ("a",), {}, lambda a, b: F.leaky_relu(a)),
    ("leaky_relu", ("a",), {"negative_slope": "0.2"}, lambda a, b: F.leaky_relu(a, 0.2)),
    ("leaky_relu", ("a", "1.5"), {"inplace": "True"}, lambda a, b: F.leaky_relu(a, 1.5)),
    ("elu", ("a",), {}, lambda a, b: F.elu(a)),
    ("elu", ("a + b", "0.5"), {}, lambda a, b: F.elu(a + b, 0.5)),
    ("celu", ("a", "0.5"), {}, lambda a, b: F.celu(a, 0.5)),
    ("selu", ("a",), {}, lambda a, b: F.selu(a)),
    ("relu6", ("3 * a",), {}, lambda a, b: F.relu6(3 * a)),
    ("hardtanh", ("a",), {}, lambda a, b: F.hardtanh(a)),
    ("hardtanh", ("a", "-0.5", "0.2"), {}, lambda a, b: F.hardtanh(a, -0.5, 0.2)),
    ("hardsigmoid", ("a",), {}, lambda a, b: F.hardsigmoid(a)),
    ("hardswish", ("a",), {}, lambda a, b: F.hardswish(a)),
    ("softsign", ("a",), {}, lambda a, b: F.softsign(a)),
    ("mish", ("a",), {}, lambda a, b: F.mish(a)),
    ("gelu_tanh", ("a",), {}, lambda a, b: F.gelu(a, approximate="tanh")),
    ("sign", ("a",), {}, lambda a, b: torch.sign(a)),
    ("tan", ("a",), {}, lambda a, b: torch.tan(a)),
    ("atanh", ("tanh(a)",), {}, lambda a, b: a),
    ("logit", ("sigmoid(a)",), {}, lambda a, b: a),
    ("exp2", ("-a",), {}, lambda a, b: torch.exp2(-a)),
    ("exp10", ("a",), {}, lambda a, b: 10**a),
    ("expm1", ("a",), {}, lambda a, b: torch.expm1(a)),
    ("log1p", ("exp(a)",), {}, lambda a, b: torch.log1p(a.exp())),
    ("log2", ("exp(a)",), {}, lambda a, b: torch.log2(a.exp())),
    ("log10", ("exp(a)",), {}, lambda a, b: torch.log10(a.exp())),
    ("sinh", ("a",), {}, lambda a, b: torch.sinh(a)),
    ("cosh", ("a - b",), {}, lambda a, b: torch.cosh(a - b)),
    ("rsqrt", ("exp(a)",), {}, lambda a, b: torch.rsqrt(a.exp())),
    ("square", ("-a",), {}, lambda a, b: a * a),
    ("clamp", ("a", "-0.5", "0.2"), {}, lambda a, b: a.clamp(-0.5, 0.2)),
    ("clamp", ("a",), {"max": "0.2"}, lambda a, b: a.clamp(max=0.2)),
    ("clip", ("a", "0"), {}, lambda a, b: a.clip(0)),
    ("clip", ("a",), {"a_min": "-0.5", "a_max": "0.2"}, lambda a, b: a.clip(-0.5, 0.2)),
    ("clip", ("a", "None", "0"), {}, lambda a, b: a.clip(None, 0)),
    ("clamp_min", ("a", "0.3"), {}, lambda a, b: a.clamp_min(0.3)),
    ("sub", ("a", "b - a"), {}, lambda a, b: torch.sub(a, b - a)),
    ("sum", ("a", "-1"), {"keepdim": "True"}, lambda a, b: a.sum(-1, keepdim=True)),
    ("norm", ("a", "2"), {"dim": "-1"}, lambda a, b: a.norm(2, -1, keepdim=True)),
    ("logsumexp", ("a", "-1"), {}, lambda a, b: a.logsumexp(-1, keepdim=True)),
    ("logsumexp", ("a", "b"), {}, torch.logaddexp),
    ("max", ("a", "b"), {}, torch.maximum),
    ("max", ("a", "b", "2 * a"), {}, lambda a, b: torch.maximum(torch.maximum(a, b), 2 * a)),
    ("l2_norm", ("a", "1e-3"), {}, lambda a, b: a / (a.square().sum(-1, True) + 1e-3).sqrt()),
    ("rms_norm", ("a", "(K,)"), {"eps": "0.1"}, lambda a, b: F.rms_norm(a, (5,), eps=0.1)),
    ("std", ("a",), {"unbiased": "False"}, lambda a, b: a.std(-1, unbiased=False, keepdim=True)),
    ("layer_norm", ("a", "(K,)"), {}, lambda a, b: F.layer_norm(a, (5,))),
    ("normalize", ("a",), {"dim": "-1"}, lambda a, b: F.normalize(a, dim=-1)),
]


@pytest.mark.parametrize(("name", "args", "keywords", "wanted"), CALLS)
@pytest.mark.parametrize("alone", [True, False])
def test_what_is_said_computes_the_same(name, args, keywords, wanted, alone) -> None:
    said = instead(Foreign(name, args, tuple(keywords.items()), dotted=True, alone=alone))
    assert said is not None and not said.startswith("without")
    scope = {**LANGUAGE, **VALUES, "K": 5, "V": 5}
    # a statement that gives a name comes first where there are two
    pieces = re.findall(r"'([^']*)'", said)
    for piece in pieces:
        target, equals, value = piece.partition(" = ")
        if equals:
            scope[target] = eval(value, scope)
    value = next(each for each in reversed(pieces) if " = " not in each and each != "/ V")
    found = eval(value if alone else f"0 + {value}", scope)
    torch.testing.assert_close(found, wanted(VALUES["a"], VALUES["b"]), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "left"),
    [
        (Foreign("normalize", ("k",), (("p", "1"),)), "without p=1: "),
        (Foreign("norm", ("k", "1")), "without 1 it is 'sqrt(sum(k ** 2))'"),
        (Foreign("sum", ("kk", "0"), dotted=True), "without 0 it is 'sum(kk)'"),
        (Foreign("sum", ("kk",), (("dim", "0"),), True), "without dim=0 it is 'sum(kk)'"),
        (Foreign("mean", ("kk", "0"), dotted=True), "without 0: "),
        (Foreign("add", ("a", "b"), (("alpha", "2"),)), "without alpha=2 it is 'a + b'"),
        (Foreign("hardtanh", ("a", "-2")), "without -2 it is 'minimum(maximum(a, -1), 1)'"),
        (Foreign("rms_norm", ("k", "w")), "without w it is 'rmsnorm(k)'"),
        (Foreign("softmax", ("kk",), (("dim", "0"),)), "without dim=0: "),
        (Foreign("minimum", ("a", "b", "c"), dotted=True), "without c it is 'minimum(a, b)'"),
    ],
)
def test_an_argument_that_has_no_part_in_it_is_named(call: Foreign, left: str) -> None:
    said = instead(call)
    assert said is not None and said.startswith(left)


@pytest.mark.parametrize(
    "call",
    [
        Foreign("max", ("k", "-1"), dotted=True),
        Foreign("max", ("k", "0"), dotted=True),
        Foreign("amax", ("k", "-1")),
        Foreign("min", ("k",), (("dim", "-1"),), True),
    ],
)
def test_an_axis_is_no_second_value(call: Foreign) -> None:
    said = instead(call)
    assert said is not None and "over K or V" in said
    assert instead(Foreign("max", ("k", "-1"))) == "write 'maximum(k, -1)'"


def test_no_other_function_is_taken_for_a_slip() -> None:
    """Names of torch and math that are near one of the language and compute something else."""
    for name in ("arctan", "acos", "sinc", "prelu", "logaddexp2", "l1norm", "softmin", "norm1"):
        assert slip(name) is None, name
    for name in ("relu3", "silu2", "abs2", "softplus2", "rmsnorm2"):
        assert slip(name) is None or name == "rmsnorm2", name
    assert slip("sigmod") == "did you mean 'sigmoid'?"
    assert slip("l2nrm") == "did you mean 'l2norm'?"


def test_gelu_is_within_what_is_said() -> None:
    said = instead(Foreign("gelu", ("x",)))
    assert said is not None
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    found = eval(re.findall(r"'([^']*)'", said)[-1], {**LANGUAGE, "x": x})
    bound = float(re.findall(r"within (\S+)", said)[0])
    assert bound / 2 < (found - F.gelu(x)).abs().max() <= bound
    assert math.isclose(bound, 5e-4)


@pytest.mark.parametrize("name", ["conv1d", "causal_conv1d", "causal_conv1d_fn"])
def test_a_causal_convolution_is_named(name: str) -> None:
    said = instead(Foreign(name, ("q", "wq")))
    assert said is not None and "'conv(q, w)'" in said
