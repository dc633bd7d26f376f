"""What `kvgen explain` says: goldens, and the printed equations evaluated as they stand."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import time
import unicodedata
from typing import Any

import numpy as np
import pytest
from places import ROOT

from kvgen import compiler, shipped
from kvgen.codegen import cost
from kvgen.explaining import explain, formulas
from kvgen.explaining.derivation import Derivation

SHIPPED = ("gated_deltanet", "kimi_delta_attention", "lightning_attention", "mamba2")
STATES = ("float32", "bfloat16", "float16", "split")

HEAD = """
kvgen: 1
name: {name}
sizes: {{H: 2, HV: 4, K: 6, V: 10{sizes}}}
inputs: {{{inputs}}}
state: {{{state}}}
step: |
"""


def written(
    name: str,
    step: str,
    inputs: str = "q: [H, K], k: [H, K], v: [HV, V], b: [HV], g: [HV]",
    state: str = "S: [HV, K, V]",
    sizes: str = "",
) -> str:
    head = HEAD.format(name=name, inputs=inputs, state=state, sizes=sizes)
    return head.lstrip() + "".join(f"  {line}\n" for line in step.strip().splitlines())


MLSTM = written(
    "mlstm",
    """
i = 15 * tanh(i / 15)
f = logsigmoid(15 * tanh(f / 15))
m1 = maximum(f + m, i)
S = exp(f + m - m1) * S + exp(i - m1) * outer(k, v)
n = exp(f + m - m1) * n + exp(i - m1) * k
m = m1
q = q * K**-0.5
o = (q @ S) / (maximum(abs(q @ n), exp(-m)) + 1e-6)
""",
    inputs="q: [H, K], k: [H, K], v: [HV, V], i: [HV], f: [HV]",
    state="S: [HV, K, V], n: [HV, K], m: {axes: [HV], init: -inf}",
)
ODD = {
    "mlstm": MLSTM,
    "delta_product": written(
        "delta_product",
        """
S = sigmoid(g) * S
for i in range(N):
    S = S + outer(k[i], b[i] * (v[i] - k[i] @ S))
o = q @ S
""",
        inputs="q: [H, K], k: [N, H, K], v: [N, HV, V], b: [N, HV], g: [HV]",
        sizes=", N: 3",
    ),
    "rwkv7": written(
        "rwkv7",
        """
e = a @ S
S = exp(-0.6 * sigmoid(w)) * S + outer(c, e) + outer(k, v)
o = q @ S
""",
        inputs="q: [H, K], k: [H, K], v: [HV, V], a: [H, K], c: [HV, K], w: [H, K]",
    ),
    "rwkv6": written(
        "rwkv6",
        """
o = q @ S + (q @ (u * k)) * v
S = exp(-exp(w)) * S + outer(k, v)
""",
        inputs="q: [H, K], k: [H, K], v: [HV, V], u: [H, K], w: [HV, K]",
    ),
    "oja": written(
        "oja",
        """
S = exp(-exp(b)) * sigmoid(w) * S
u = sigmoid(g) * (k - S @ v)
S = S - outer(rmsnorm(u, eps=1e-5), silu(v)) / 3
o = relu(q) @ S - (-b) ** 2 * (v - (v - b))
""",
        inputs="q: [H, K], k: [H, K], v: [HV, V], b: [HV], g: [HV], w: [HV, V]",
    ),
    "constant": written("constant", "S = 0.9 * S + outer(k, v)\no = q @ S"),
    "forgets": written("forgets", "o = q @ S\nS = outer(k, v)"),
    "names": written(
        "names",
        """
x = b * x
raw_k = k * 2
k = l2norm(raw_k)
S = exp(-abs(b)) * S + outer(k, x)
y = k @ S
o = q @ S + (y - (x - y)) / (2 / (b / 3))
""",
        inputs="q: [H, K], k: [H, K], x: [HV, V], b: [HV]",
    ),
}
EXPLODING = written(
    "exploding", "b = b*b + b\n" * 40 + "S = sigmoid(b) * S + outer(k, b * v)\no = q @ S"
)


def analysed(name: str, **storage: str) -> compiler.Analysis:
    overrides = {f"storage.{key}": value for key, value in storage.items()}
    return compiler.analyse(ODD.get(name) or shipped.resolve(name), overrides)


@pytest.mark.parametrize("name", [each.name for each in shipped.shipped()])
def test_kernels_have_the_names_of_the_form(name: str) -> None:
    """What reads the state and what is written are called alike in the form and below it."""
    text = compiler.emit(compiler.analyse(shipped.resolve(name)))
    form = text[text.index("\nBuffered:") : text.index("\ndef ")]
    kernel = text[text.index("def _recurrent_kernel") : text.index("def _fold_kernel")]
    names = set(re.findall(r"^  (\w+) = ", form, re.MULTILINE))
    named = {
        each for each in names if re.fullmatch(r"\w*(query|write_key|write_value)(_\d)?", each)
    }
    assert names and named <= set(re.findall(r"\w+", kernel))
    assert not re.search(r"\bx_\d+\b", kernel)


@pytest.mark.parametrize("name", SHIPPED)
def test_form(name: str, golden: Any) -> None:
    assert golden(f"form/{name}.txt") == explain.form_text(analysed(name)) + "\n"


def test_explanation(golden: Any) -> None:
    assert golden("explain/gated_deltanet.txt") == explain.text(analysed("gated_deltanet"))


@pytest.mark.parametrize("records", ["float32", "input"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", [*SHIPPED, *ODD])
def test_every_storage(name: str, state: str, records: str) -> None:
    analysis = analysed(name, state=state, records=records)
    texts = [explain.form_text(analysis), explain.text(analysis), str(explain.summary(analysis))]
    assert texts == [
        explain.form_text(analysis), explain.text(analysis), str(explain.summary(analysis))
    ]  # fmt: skip
    for text in texts[:2]:
        lines = text.split("\n")
        assert all(len(line) <= 100 for line in lines)
        assert all(line == line.rstrip() and "\t" not in line for line in lines)
    for stored in analysis.records.stored:
        assert stored.name in texts[0] and stored.name in texts[1]
    data = explain.data(analysis)
    assert json.loads(json.dumps(data, allow_nan=False)) == data


@pytest.mark.parametrize("lines", ["b = b*b + b\n" * 40, "b = b*b + b*(b - 1)\n" * 250])
def test_shared_values_stay_shared(lines: str) -> None:
    text = written("deep", lines + "S = sigmoid(b) * S + outer(k, b * v)\no = q @ S")
    analysis = compiler.analyse(text)
    explain.text(analysed("mamba2"))
    start = time.process_time()
    length = len(explain.text(analysis)) + len(explain.form_text(analysis))
    assert time.process_time() - start < 5.0
    assert length < 60_000


def test_many_writes_are_cut() -> None:
    step = "S = exp(-abs(b)) * S\n" + "S = S + outer(k * b, v * b)\n" * 2
    step += "".join(f"S = S + outer(k * {i}, v + {i})\n" for i in range(2, 200)) + "o = q @ S"
    analysis = compiler.analyse(written("many", step))
    assert len(explain.form_text(analysis).splitlines()) < 120
    assert "such parts" in explain.text(analysis)


def test_text_cannot_leave_the_form() -> None:
    text = MLSTM.replace("m = m1\n", 'm = m1  # """ \\" \'\'\' import os\n', 1)
    analysis = compiler.analyse(text)
    form = explain.form_text(analysis)
    assert all(c.isprintable() for c in form.replace("\n", ""))
    module = compiler.emit(analysis)
    given = [
        ast.literal_eval(node.value)
        for node in ast.parse(module).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FORM"
    ]
    assert given == [form]


# -- bytes


def test_formulas_agree_with_the_numbers() -> None:
    for name in (*SHIPPED, *ODD):
        for state in STATES:
            analysis = analysed(name, state=state, records="input")
            sizes: dict[str, Any] = dict(analysis.spec.sizes)
            sizes["L"] = cost.buffer_length(analysis.form, analysis.records)
            for each in formulas.formulas(analysis):
                text = each.text.replace("·", "*")
                assert eval(text, {}, sizes) == pytest.approx(each.value), each.key


@pytest.mark.parametrize(
    ("name", "overrides", "record", "best", "ratio"),
    [
        # a float32 state with records in 16 bits: the catalogue's figures, which have no inputs
        # and outputs and a fold that writes the state only
        ("gated_deltanet", {"sizes.HV": "64"}, 324, 20, 1.82),
        ("lightning_attention", {}, 512, 16, 1.77),
        ("mamba2", {}, 148, 21, 1.82),
        ("kimi_delta_attention", {}, 1024, 11, 1.69),
    ],
)
def test_bytes_of_the_catalogue(
    name: str, overrides: dict[str, str], record: int, best: int, ratio: float
) -> None:
    storage = {"storage.state": "split", "storage.records": "input"}
    analysis = compiler.analyse(shipped.resolve(name), {**storage, **overrides})
    total = cost.cost(analysis.form, analysis.records)
    heads = analysis.spec.size("HV")
    # one float32 scalar more where an input is kept as it came, or a gate beside it
    assert 0 <= total.record_read / heads - record <= 4
    state = total.state / heads
    assert round((2 * state / record) ** 0.5) == pytest.approx(best, abs=0.6)
    gain = 2 * state / (state + (best / 2 + 1) * record + state / best)
    assert gain == pytest.approx(ratio, abs=0.015)
    # a fold of its own also reads the state
    assert total.best_buffer == pytest.approx(
        2**0.5 * (2 * state * heads / total.record_read) ** 0.5
    )


def test_bytes_of_a_decode() -> None:
    analysis = analysed("gated_deltanet")
    total = cost.cost(analysis.form, analysis.records)
    state, record, io = 32 * 128 * 128 * 4, (16 + 32) * 128 * 4 + 32 * 4, 24704
    assert (total.state, total.record, total.record_read, total.io) == (state, record, record, io)
    assert total.decode(16) == state + 7.5 * record + record + io + record + 2 * state / 16
    assert total.floor(16) == state + 7.5 * record + record + io + state / 16
    assert total.recurrent() == 2 * state + io


# -- the equations, evaluated


class State:
    """[K, V] of one head: a factor's or a vector's length says which channel it is over."""

    __array_ufunc__ = None

    def __init__(self, value: Any) -> None:
        self.value = value

    def __rmul__(self, factor: Any) -> State:
        factor = np.asarray(factor)
        if factor.ndim and len(factor) == self.value.shape[0]:
            factor = factor[:, None]
        return State(factor * self.value)

    __mul__ = __rmul__

    def __truediv__(self, factor: Any) -> State:
        return (1 / np.asarray(factor)) * self

    def __add__(self, other: State) -> State:
        return State(self.value + other.value)

    def __sub__(self, other: State) -> State:
        return State(self.value - other.value)

    def __matmul__(self, vector: Any) -> Any:
        return self.value @ vector

    def __rmatmul__(self, vector: Any) -> Any:
        return vector @ self.value


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def l2norm(x: Any, eps: float = 1e-6) -> Any:
    return x / np.sqrt(np.sum(x * x) + eps)


FUNCTIONS = {
    "exp": np.exp, "log": np.log, "tanh": np.tanh, "abs": np.abs, "sqrt": np.sqrt, "sum": np.sum,
    "minimum": np.minimum, "maximum": np.maximum, "logaddexp": np.logaddexp, "sigmoid": sigmoid,
    "logsigmoid": lambda x: np.log(sigmoid(x)), "softplus": lambda x: np.log1p(np.exp(x)),
    "relu": lambda x: np.maximum(x, 0), "silu": lambda x: x * sigmoid(x), "l2norm": l2norm,
    "rmsnorm": lambda x, eps=1e-6: x / np.sqrt(np.mean(x * x) + eps),
    "outer": lambda k, v: State(np.outer(k, v)), "range": range, "inf": np.inf,
}  # fmt: skip


def name(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


# printed constants have nine digits
CLOSE = {"rel": 1e-7, "abs": 1e-9}


@pytest.mark.parametrize(
    "storage", [("float32", "float32"), ("float32", "input"), ("split", "input")]
)
@pytest.mark.parametrize("spec", [*SHIPPED, *ODD])
def test_equations_hold_as_printed(spec: str, storage: tuple[str, str]) -> None:
    overrides = {"sizes.K": "6", "sizes.V": "10"}
    overrides |= {"storage.state": storage[0], "storage.records": storage[1]}
    analysis = compiler.analyse(ODD.get(spec) or shipped.resolve(spec), overrides)
    d = Derivation(analysis)
    sizes = dict(analysis.spec.sizes)
    rng = np.random.default_rng(0)

    def drawn(axes: tuple[str, ...]) -> Any:
        # one head: a head axis is left out
        shape = [sizes[axis] for axis in axes if axis not in ("H", "HV")]
        return rng.standard_normal(shape) if shape else float(rng.standard_normal())

    tensors = (*analysis.spec.inputs, *analysis.spec.params, *analysis.spec.states)
    values = {each.name: drawn(each.axes) for each in tensors}
    values["slope"] = 0.3
    matrix = State(values[d.state])
    wanted = {**FUNCTIONS, **sizes, **values, d.state: matrix}
    exec("\n".join(d.recurrence), wanted)

    raw = {**values, **{own: values[tensor] for own, tensor in d.renamed}}
    found: dict[str, Any] = {**FUNCTIONS, **sizes, **raw, name(f"{d.state}ₙ"): matrix}
    if analysis.form.factored:
        found[name(f"{d.running}ₙ")] = 0.0
    for line in (*d.decay_lines, *d.column_lines, *d.token_lines):
        found[line.name] = eval(name(line.text), found)
    output = eval(name(d.output), found)
    assert output == pytest.approx(wanted["o"], **CLOSE)
    for carry in analysis.form.carries:
        after = eval(d.carried(carry)[1], found)
        assert after == pytest.approx(wanted[carry.tensor.name], **CLOSE)

    # the token's record, folded into the state before the token
    stored = zip(analysis.records.stored, d.stored_texts, strict=True)
    recorded: dict[str, Any] = {}
    for kept, text in stored:
        recorded[name(f"{kept.name}ⱼ")] = eval(name(text), found)
        found.setdefault(kept.name, recorded[name(f"{kept.name}ⱼ")])
    folded = {**found, **recorded, name(f"{d.state}₀"): matrix}
    if analysis.records.replay:
        # a fold does not see what it computes anew
        for each in analysis.records.stored:
            if each.node.reads:
                del folded[name(f"{each.name}ⱼ")]
    for line in d.replayed if analysis.records.replay else d.derived:
        folded[name(line.name)] = eval(name(line.text), folded)
    if analysis.form.factored:
        folded[name(f"{d.running}ₙ")] = recorded[name(f"{d.running}ⱼ")]
    after = eval(name(d.fold_text().partition("←")[2].strip()), folded)
    if analysis.form.factored:
        folded[name(f"{d.state}₀")] = after
        end = str(d.fold_end()).partition("←")[2].removesuffix(", after the last").strip()
        after = eval(name(end), folded)
        folded[name(f"{d.state}₀")] = matrix
    assert after.value == pytest.approx(wanted[d.state].value, **CLOSE)

    # the same record, read from the buffer: n = 1 for the token after this one
    log = {d.sum_name(each.channel): each for each in analysis.form.decays}
    for symbol, decay in log.items():
        folded[name(f"{symbol}₀")] = eval(name(d.name(decay.log)), found)
        folded[name(f"{symbol}ⱼ")] = 0.0
    for side in d.sides_read:
        folded[d.vector] = drawn((side,))
        left, _, right = d.read_text(side).replace("Σⱼ ", "").partition(" = ")
        folded[name(f"{d.state}ₙ")] = wanted[d.state]
        assert eval(name(right), folded) == pytest.approx(eval(name(left), folded), **CLOSE)


# -- the page


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the pages are in the repository only")
def test_walkthrough_is_current() -> None:
    pytest.importorskip("triton")
    result = subprocess.run(
        [sys.executable, "docs/build.py", "--check"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
