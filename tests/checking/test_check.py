"""`kvgen check` passes for every shipped spec and storage mode, and notices what is broken."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

import pytest
import torch
import triton
import triton.language as tl
from twins import LAYERS, OTHERS, SPECS, analysed

from kvgen import compiler
from kvgen.analysis import Analysis
from kvgen.checking import extremes, interpreter
from kvgen.checking.check import CASES, Report, bounds, check
from kvgen.checking.checker import EXACT
from kvgen.checking.errors import errors
from kvgen.checking.interpreter import ORDERS, ordered, rounding
from kvgen.checking.samples import Sampler
from kvgen.formats.registry import STATES
from kvgen.language.storage import Storage
from kvgen.shipped import resolve

# every state with every kind of record and either layout, dealt over the specs
STORED = {
    "gated_deltanet": ["state=split records=input", "state=bfloat16 records=input"],
    "kimi_delta_attention": ["state=split", "records=input layout=vk"],
    "mamba2": ["state=split layout=vk", "state=float16"],
    "lightning_attention": ["state=bfloat16", "state=float16 layout=vk"],
}
# and more of the same, which are slow
STORED_TOO = {
    "gated_deltanet": ["state=float16"],
    "kimi_delta_attention": ["state=bfloat16"],
    "mamba2": ["state=bfloat16 records=input"],
    "lightning_attention": ["state=split records=input", "records=input"],
}
# those in which storage matters
STORAGE_CASES = ("decode, rows out of phase", "bfloat16 inputs", "recurrent, after decodes")


LESS = ("mamba2", "lightning_attention")


def passed(report: Report) -> None:
    bad = [row for row in report.rows if not row.ok]
    assert not bad, bad
    assert report.ok


# without a delta rule there is less to go wrong
WHOLE = [pytest.param(name, marks=pytest.mark.slow if name in LESS else []) for name in SPECS]


@pytest.mark.parametrize("state", ["bfloat16", "float16"])
def test_an_element_between_two_numbers_may_be_rounded_to_either(state: str) -> None:
    """A whole row is right to 2e-6 but for one element of its state."""
    report = check(analysed("rwkv7", f"state={state}"), "cpu", only=["buffer of 1"])
    assert report.ok
    assert any(row.error > 2e-6 for row in report.rows if "recurrent's" in row.quantity)


@pytest.mark.parametrize("name", WHOLE)
def test_shipped_specs(name: str) -> None:
    said: list[str] = []
    report = check(analysed(name), "cpu", said.append)
    passed(report)
    assert len(said) == len(CASES)
    assert {row.case for row in report.rows} == {*CASES, "every case"}
    drawn = dict(report.drawn)
    spec = analysed(name).spec
    assert {tensor.name for tensor in (*spec.inputs, *spec.params)} < set(drawn)
    assert all("left out" not in text for text in drawn.values())
    assert json.loads(json.dumps(report.data()))["ok"] is True


def modes_of(stored: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    return [(name, each) for name, modes in stored.items() for each in modes]


@pytest.mark.parametrize(("name", "storage"), modes_of(STORED))
def test_storage_modes(name: str, storage: str) -> None:
    passed(check(analysed(name, *storage.split()), "cpu", only=STORAGE_CASES))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "storage"), modes_of(STORED_TOO))
def test_more_storage_modes(name: str, storage: str) -> None:
    test_storage_modes(name, storage)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OTHERS, *LAYERS])
def test_other_shipped_specs(name: str) -> None:
    only = ("decode, rows out of phase", "recurrent, after decodes", "decay of 0 and 1")
    passed(check(analysed(name), "cpu", only=only))


def of_one_number(name: str) -> Analysis:
    """A shipped recurrence whose state is one number to a row."""
    return compiler.analyse(resolve(name), {f"sizes.{size}": "1" for size in ("H", "HV", "K", "V")})


@pytest.mark.parametrize("name", ["gated_deltanet", "mlstm", "rwkv7"])
def test_a_state_of_one_number_may_be_a_small_difference(name: str) -> None:
    only = ("decode, rows out of phase", "drafts, chains", "prompts")
    passed(check(of_one_number(name), "cpu", only=only))


def test_a_carried_number_may_be_a_small_difference() -> None:
    """Beside a matrix state of more numbers than can all be so."""
    analysis = compiler.analyse("""\
kvgen: 1
name: carried
sizes: {H: 2, HV: 2, K: 16, V: 16}
inputs: {q: [H, K], k: [H, K], v: [HV, V], g: [HV]}
state: {S: [HV, K, V], c: [H]}
step: |
  S = exp(-softplus(g)) * S + outer(k, v)
  c = 0.9 * c + q @ k
  o = q @ S + tanh(c) * v
""")
    report = check(analysis, "cpu", only=["prompts"])
    rows = {row.quantity: row for row in report.rows}
    # what it is off by, no other quantity may be
    assert report.ok and rows["c"].error > EXACT and rows["output"].bound == EXACT


BREAKAGES = [
    # the decay of what is folded; of what a decode keeps of the state
    ("gated_deltanet", r"(for j in .*?)tl\.exp\(log_decay\)", r"\1tl.exp(-log_decay)"),
    ("gated_deltanet", r"kept = tl\.exp\(", "kept = tl.exp(-"),
    # a record in the wrong place
    ("mamba2", r"held = \(marks & \(one << place\)\)", "held = (marks & ((one << place) >> 1))"),
    # a padding row whose output is not zero
    ("lightning_attention", r"(blank = tl\.zeros\(.*?\))\n", r"\1 + 1.0\n"),
]


# with the case that notices
WINDOW_BREAKAGES = [
    # some parents; the places that are passed over; where an accepted path ends
    (
        "drafts, trees",
        "gated_deltanet",
        r"\(parent < token\), parent",
        "(parent < token - 1), parent",
    ),
    ("drafts, trees", "mamba2", r"(def _verify_kernel.*?held = )[^\n]*", r"\1place < count"),
    (
        "drafts, trees",
        "lightning_attention",
        r"tl\.where\(on_path, node \+ 1, kept\)",
        "tl.where(on_path, node, kept)",
    ),
    # a token beyond a row's length
    ("prompts", "mamba2", r"real_token = position < length", "real_token = position <= length"),
]


@pytest.mark.parametrize(("name", "pattern", "replacement"), BREAKAGES)
def test_a_broken_module_fails(
    name: str, pattern: str, replacement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(analysed(name), pattern, replacement, ["decode, rows out of phase"], monkeypatch)


@pytest.mark.parametrize(("name", "pattern", "replacement"), BREAKAGES[:2])
def test_a_broken_module_of_one_number_fails(
    name: str, pattern: str, replacement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = ["decode, rows out of phase"]
    fails(of_one_number(name), pattern, replacement, only, monkeypatch)


@pytest.mark.parametrize(("case", "name", "pattern", "replacement"), WINDOW_BREAKAGES)
def test_a_broken_window_fails(
    case: str, name: str, pattern: str, replacement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(analysed(name), pattern, replacement, [case], monkeypatch)


def fails(
    analysis: Analysis, pattern: str, replacement: str, only: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    text = compiler.emit(analysis)
    broken, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
    assert count
    monkeypatch.setattr(compiler, "emit", lambda *_: broken)
    report = check(analysis, "cpu", only=only)
    assert not report.ok
    assert not report.data()["ok"]


def test_errors_of_rows() -> None:
    exact = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0], [-math.inf, 1.0], [0.0, 0.0]])
    got = exact + torch.tensor([[0.0, 0.5], [0.0, 0.0], [math.nan, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert errors(got, exact).tolist() == [0.1, 0.0, math.inf, 1.0, math.inf]


def test_bounds() -> None:
    assert bounds(Storage(), torch.float32) == (2e-5, 2e-5)
    assert bounds(Storage(), torch.bfloat16) == (4e-3, 2e-5)
    assert bounds(Storage(STATES["split"]), torch.float32) == (6e-3, 2e-5)
    assert bounds(Storage(STATES["bfloat16"]), torch.bfloat16) == (6e-3, 2e-2)


def test_outputs_that_are_small_differences_of_rounded_records() -> None:
    analysis = compiler.analyse("""\
kvgen: 1
name: differences
sizes: {H: 1, HV: 1, K: 8, V: 8}
inputs: {q: [H, K], k: [H, K], v: [HV, V]}
state: {S: [HV, K, V]}
storage: {records: bfloat16}
step: |
  S = 0.5 * S + outer(l2norm(k), 1 + 0.01 * v)
  o = q @ S
  o = o - sum(o) / V
""")
    report = check(analysis, "cpu", only=["buffer of 1"])
    assert report.ok
    assert max(row.error for row in report.rows) > 0.02


def test_short_contexts_whose_keys_are_factored_elsewhere() -> None:
    analysis = analysed("rwkv7")
    assert analysis.form.factored
    assert check(analysis, "cpu", only=["short contexts"]).ok


@pytest.mark.parametrize("name", SPECS)
def test_extremes(name: str) -> None:
    form = analysed(name).form
    sampler = Sampler(form.spec, "cpu")
    drawn = {**sampler.inputs(16, torch.float32), **sampler.params()}
    for kind, (low, high) in extremes.WANTED.items():
        found = extremes.find(form, drawn, kind)
        assert found is not None
        drawn_there = {**drawn, found.driver: torch.full_like(drawn[found.driver], found.value)}
        logs = [decay.log for decay in form.decays]
        values = extremes.evaluate(form, logs, drawn_there)
        assert all(low <= v.min() and v.max() <= high for v in (values[log] for log in logs))


def test_extremes_of_decays_by_key_heads_and_by_value_heads() -> None:
    form = compiler.analyse("""
kvgen: 1
name: mixed
sizes: {H: 2, HV: 6, K: 8, V: 8}
inputs: {q: [H, K], k: [H, K], v: [HV, V], f: [H, K], g: [HV]}
state: {S: [HV, K, V]}
step: |
  S = sigmoid(g) * (sigmoid(f) * S) + outer(k, v)
  o = q @ S
""").form
    drawn = Sampler(form.spec, "cpu").inputs(16, torch.float32)
    found = extremes.find(form, drawn, "strong")
    assert found is not None and found.driver in ("f", "g")


def test_interpreted_casts_round_to_nearest() -> None:
    import triton.language as tl
    from triton.runtime import interpreter

    values = torch.cat([torch.randn(60), torch.tensor([math.nan, math.inf, -math.inf, 1e-40])])
    before = interpreter._convert_float
    with rounding():
        got = interpreter._convert_float(values.numpy(), tl.float32, tl.bfloat16, None)
    assert interpreter._convert_float is before
    rounded = torch.from_numpy(got.view("int16")).view(torch.bfloat16)
    torch.testing.assert_close(rounded, values.bfloat16(), rtol=0, atol=0, equal_nan=True)


@triton.jit
def _number_programs(seen_ptr, order_ptr):
    """order: which program comes when."""
    number = (tl.program_id(0) * 3 + tl.program_id(1)) * 4 + tl.program_id(2)
    at = tl.load(seen_ptr)
    tl.store(order_ptr + at, number)
    tl.store(seen_ptr, at + 1)


def run_order() -> list[int]:
    seen, order = (torch.zeros(n, dtype=torch.int32) for n in (1, 24))
    _number_programs[(2, 3, 4)](seen, order)
    return order.tolist()


def test_programs_in_other_orders() -> None:
    forward = list(range(24))
    with ordered(["reversed"]) as reached:
        assert reached and run_order() == forward[::-1]
    runs = []
    for seed in (1, 1, 2):
        with ordered(["shuffled"], seed):
            runs.append([run_order(), run_order()])
    assert all(sorted(order) == forward for run in runs for order in run)
    assert runs[0] == runs[1] != runs[2] and runs[0][0] != runs[0][1]
    with ordered(ORDERS, 5):
        found = [run_order() for _ in range(20)]
    assert forward in found and forward[::-1] in found
    assert run_order() == forward
    with pytest.raises(ValueError, match=r"orders: \['sideways'\]"), ordered(["sideways"]):
        pass


def test_an_interpreter_without_such_a_place_runs_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import interpreter

    kept = run_order()
    monkeypatch.setattr(interpreter, "interpreter_builder", object())
    with ordered(["reversed"]) as reached:
        assert not reached
    report = check(analysed("mamba2"), "cpu", only=[])
    assert dict(report.drawn)["order of programs"].startswith("forward")
    monkeypatch.undo()
    assert run_order() == kept


@pytest.mark.parametrize(
    ("triton", "numpy", "runs"),
    [("3.6.0", "2.3.5", True), ("3.6.0", "2.4.0", False), ("3.7.1", "2.4.6", True)],
)
def test_a_numpy_that_the_interpreter_does_not_take(
    triton: str, numpy: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("triton.__version__", triton)
    monkeypatch.setattr("numpy.__version__", numpy)
    if runs:
        interpreter.require("cpu")
        return
    with pytest.raises(interpreter.DeviceError, match="expected numpy < 2"):
        interpreter.require("cpu")
