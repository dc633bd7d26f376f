"""The form that papers print, (I - outer(k, b * k)) @ S: what it means, and the module of it."""

from __future__ import annotations

import pytest
import torch

from kvgen import compiler
from kvgen.wisdom.identity import form_hash
from tests.algebra.test_walk import codes, errors, form_of, step

# the same recurrence, as papers print it and as the language had to have it
ALIKE = {
    "S = (I - outer(k, b * k)) @ S + outer(k, v)": "S = S - outer(k, b * (k @ S)) + outer(k, v)",
    "S = (I - outer(l2norm(k), sigmoid(b) * l2norm(k))) @ S + outer(l2norm(k), sigmoid(b) * v)": (
        "S = S - outer(l2norm(k), sigmoid(b) * (l2norm(k) @ S)) + outer(l2norm(k), sigmoid(b) * v)"
    ),
    "S = (I - 2 * outer(unit * k / 3, unit * k / 3)) @ S": (
        "S = S - outer(unit * k / 3, 2 * ((unit * k / 3) @ S))"
    ),
    "S = S @ (I - outer(v, b * v)) + outer(k, v)": "S = S - outer(S @ v, b * v) + outer(k, v)",
    "S = (unit * I - outer(k, k)) @ S": "S = unit * S - outer(k, k @ S)",
    "S = S - b * outer(k, k) @ S": "S = S - outer(k, b * (k @ S))",
    "S = (sigmoid(f) * I + outer(f, k)) @ S": "S = sigmoid(f) * S + outer(f, k @ S)",
    "S = I @ S @ I + outer(k, v)": "S = S + outer(k, v)",
    "S = unit * ((-I) @ (-S)) + outer(k, v)": "S = unit * S + outer(k, v)",
    "S = -(outer(k, v) - S)": "S = S - outer(k, v)",
    # copies of the state that are one, and outer products as factors
    "S = S - sigmoid(f) * S + outer(f, v)": "S = (1 - sigmoid(f)) * S + outer(f, v)",
    "S = S - sigmoid(b) * S - -outer(k, v)": "S = (1 - sigmoid(b)) * S + outer(k, v)",
    "S = S * b**2 + S * abs(h) + outer(k, v)": "S = (b**2 + abs(h)) * S + outer(k, v)",
    "S = outer(sigmoid(f), exp(h)) * S + outer(k, v)": "S = sigmoid(f) * exp(h) * S + outer(k, v)",
    "S = (S + outer(k, v)) / outer(1 + exp(f), exp(h))": (
        "S = (S + outer(k, v)) / (1 + exp(f)) / exp(h)"
    ),
}


@pytest.mark.parametrize("printed", ALIKE)
def test_it_is_the_same_recurrence(printed: str) -> None:
    texts = [step(line) for line in (printed, ALIKE[printed])]
    first, second = (form_hash(compiler.analyse(text)) for text in texts)
    assert first == second


HOUSEHOLDER = ("a = I - outer(k, 2 * k)", "c = I - b * outer(q, q)")
SPECS = [
    ("S = (I - outer(k, sigmoid(b) * k)) @ S + outer(k, sigmoid(b) * v)", "o = q @ S"),
    ("S = S @ (I - outer(v, 0.1 * v)) + outer(k, v)", "o = q @ S"),
    (*HOUSEHOLDER, "S = a @ c @ (unit * S) + outer(k, v)", "o = q @ S"),
    (*HOUSEHOLDER, "S = (a @ c + I / 2) @ S + outer(k, v)", "o = q @ c @ S"),
    ("d = unit * I", "S = (d - outer(f, k)) @ S + outer(k, v)", "o = q @ (d @ S)"),
    (
        "d = sigmoid(f) * I",
        "e = d - outer(k, b * f)",
        "S = e @ S + outer(k, e @ q @ S)",
        "o = q @ S",
    ),
    ("d = sigmoid(f) * I - outer(f, k)", "S = d @ S + outer(k, v)", "o = (k @ d @ (I / 3)) @ S"),
    (
        "S = S @ (sigmoid(h) * I - outer(h, v) / 8) + outer(k, v)",
        "o = q @ S + h @ (I - outer(v, h))",
    ),
    ("S = (I - outer(k, k)) @ (sigmoid(f) * I) @ (-(-S)) + outer(k, v)", "o = q @ S"),
    ("S = S + sigmoid(b) * (outer(k, v) - S)", "o = q @ S"),
    ("for i in range(3):", "    M = S", "    S = unit * S", "S = S + M + outer(k, v)", "o = q @ S"),
    ("M = outer(sigmoid(f), h**2)", "S = M * S * unit + M * S + outer(k, v)", "o = q @ S"),
    ("M = S + outer(k, v) - unit * S", "S = 2 * M - (1 - unit) * M", "o = q @ (M - unit * S)"),
    ("M = outer(sigmoid(f), unit * h**2)", "S = M * S + outer(k, v) * M", "o = q @ S"),
]


@pytest.mark.parametrize("lines", SPECS, ids=range(len(SPECS)))
def test_the_module_agrees_with_the_recurrence(lines: tuple[str, ...]) -> None:
    """Decodes and a fold, beside the recurrence in float64 as it is printed."""
    module = compiler.built(compiler.analyse(step(*lines)))
    torch.manual_seed(0)
    cache = module.Cache.empty(slots=1, device="cpu", dtype=torch.float32, buffer=2)
    slots = torch.tensor([0], dtype=torch.int32)
    sizes, params = module.SPEC, {"A_log": torch.zeros(4)}
    assert sizes["name"] == "example"
    shapes = {"q": (2, 8), "k": (2, 8), "v": (4, 12), "b": (4,), "f": (4, 8), "h": (4, 12)}
    shapes |= {"kk": (4, 2, 8), "unit": (4,), "below": (4,)}
    state = {"S": torch.zeros(1, 4, 8, 12), "n": torch.zeros(1, 4, 8), "m": torch.zeros(1, 4)}
    state = {name: value.double() for name, value in state.items()}
    for _ in range(5):
        inputs = {name: 0.5 * torch.randn(1, *shape) for name, shape in shapes.items()}
        inputs["unit"], inputs["below"] = torch.rand(1, 4), -torch.rand(1, 4)
        exact = {name: value.double() for name, value in (inputs | params).items()}
        expected, state = module.reference(state, **exact)
        output = module.decode(cache, 0, slots, **inputs, **params)
        module.advance(cache, slots)
        assert (output - expected).norm() <= 2e-5 * expected.norm()
    found = cache.read(0, slots)["S"]
    assert (found - state["S"]).norm() <= 2e-5 * state["S"].norm()


def test_numbers_stand_apart_from_what_reads() -> None:
    # a column over the key heads, not over the value heads
    form = form_of("S = (I - outer(k, b * k)) @ S + outer(k, v)")
    assert all(column.axes.head == "H" for column in form.columns)


def test_signs_that_cancel() -> None:
    assert codes("S = outer(k, v) - S", "S = -S") == []
    assert codes("S = -unit * S", "S = -exp(f) * S + outer(k, v)") == []
    assert codes("S = outer(k, v) - S") == ["decay-sign"]
    assert codes("S = -(outer(k, v) - S)", "S = -exp(b) * S") == ["decay-sign"]


@pytest.mark.parametrize("kind", ["inputs", "params", "state", "sizes"])
def test_its_name_is_reserved(kind: str) -> None:
    axes = "3" if kind == "sizes" else "[HV]"
    text = step("o = q @ S")
    mark = {"inputs": "  q: [H, K]", "params": "  A_log: [HV]"}.get(kind)
    if mark:
        text = text.replace(mark, f"{mark}\n  I: {axes}")
    else:
        key = "N: 4" if kind == "sizes" else "m: [HV]"
        text = text.replace(key, f"{key}, I: {axes}")
    found = errors(text)
    assert [each.code for each in found] == ["reserved-name"]
    assert found[0].message == "'I' is the identity matrix" and found[0].help == "write 'I_' or 'i'"
    assert "reserved-name" in codes("I = 2 * k")


HELP = "S - outer(k, b * (k @ S))"


@pytest.mark.parametrize(
    "line",
    [
        "S = (I - k) @ S", "S = (I - k @ k) @ S", "S = (I - outer(k, k)) * S", "S = S + I",
        "S = (I - outer(k, v)) @ S", "S = I - outer(k, k)", "n = I", "o = outer(k, k)",
        "S = (I - outer(k, k)) / S", "x = exp(I)", "x = (I - outer(k, k)) * (I - outer(q, q))",
        "x = (I - outer(k, k)) @ v", "x = outer(k, k) + outer(v, v)", "S = S + outer(k, k)",
        "x = eye(K)",
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_what_does(line: str) -> None:
    found = errors(step(line))
    assert any(HELP in (each.help or "") for each in found), found


def test_a_matrix_on_the_wrong_side_is_turned() -> None:
    found = errors(step("S = S @ (I - outer(k, b * k)) + outer(k, v)"))
    assert found[0].help == "a state is [K, V]: write (I - outer(k, b * k)) @ S"
    assert errors(step("S = S + outer(k, v - S)"))[0].help == (
        "read the matrix first, with a vector over K: v - k @ S"
    )


def test_a_decay_that_rounding_takes_to_zero_is_a_number() -> None:
    """1 - b k² of a key with one part and a gate that is open: its log is of 0 or just below."""
    lines = ("k = l2norm(k, eps=0)", "S = (1 - sigmoid(b) * k * k) * S + outer(k, v)", "o = q @ S")
    module = compiler.built(compiler.analyse(step(*lines)))
    cache = module.Cache.empty(slots=1, device="cpu", dtype=torch.float32, buffer=2)
    slots = torch.tensor([0], dtype=torch.int32)
    torch.manual_seed(0)
    names = {"q": (2, 8), "k": (2, 8), "v": (4, 12), "b": (4,), "f": (4, 8), "h": (4, 12)}
    names |= {"kk": (4, 2, 8), "unit": (4,), "below": (4,)}
    state = None
    for token in range(4):
        inputs = {name: torch.randn(1, *shape) for name, shape in names.items()}
        inputs["b"] = torch.full((1, 4), 60.0)
        inputs["k"] = torch.zeros(1, 2, 8)
        inputs["k"][..., token % 2] = 0.3 + token / 7
        params = {"A_log": torch.zeros(4)}
        exact = {name: value.double() for name, value in (inputs | params).items()}
        expected, state = module.reference(state, **exact)
        output = module.decode(cache, 0, slots, **inputs, **params)
        module.advance(cache, slots)
        assert (output - expected).norm() <= 2e-5 * expected.norm()
