"""Specs: what is read, what is completed, what is refused and with which words."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT, TESTS

from kvgen.diagnostics import Diagnostic, render
from kvgen.formats.registry import RECORDS, STATES
from kvgen.language import spec
from kvgen.language.names import refusal

BAD = TESTS / "bad"
SHIPPED = sorted((ROOT / "kvgen" / "specs").glob("*.yaml"))
FRONT = [ROOT / "kvgen/diagnostics.py", *sorted((ROOT / "kvgen/language").glob("*.py"))]
CODE = re.compile(r"[a-z]+(-[a-z]+)+|unreadable|unsupported")

GDN = (ROOT / "kvgen" / "specs" / "gated_deltanet.yaml").read_text(encoding="utf-8")


def codes_in_the_front_end() -> set[str]:
    """Every string of the front end's modules that reads like a code."""
    found: set[str] = set()
    for path in FRONT:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if CODE.fullmatch(node.value) else set()
    return found - {"utf-8"}


CODES = sorted(codes_in_the_front_end())


def read(text: str, **overrides: str) -> spec.Spec:
    found, diagnostics = spec.read(text, {k.replace("__", "."): v for k, v in overrides.items()})
    assert found is not None and not diagnostics, render(diagnostics, "spec", text)
    return found


def errors(text: str, **overrides: str) -> list[Diagnostic]:
    return spec.read(text, {k.replace("__", "."): v for k, v in overrides.items()})[1]


def test_every_code_has_a_bad_spec() -> None:
    assert [code for code in CODES if not (BAD / f"{code}.yaml").is_file()] == []


# codes with several faces; others of the same beginning are the walk's
FACES = (
    "bad-axes-mamba1 bad-axes-mesanet bad-index-past bad-index-tokens bad-override-names "
    "bad-state-log-linear bad-state-rwkv4 bad-state-slots bad-state-titans duplicate-name-plane "
    "unknown-function-deltaformer unknown-function-reductions bad-operator-sides "
    "bad-value-buffer bad-value-init bad-value-storage bad-yaml-colon bad-yaml-comment "
    "bad-yaml-map duplicate-name-state missing-key-heads"
)
FILES = [*CODES, *FACES.split()]


@pytest.mark.parametrize("name", FILES)
def test_bad_spec(name: str, golden: Callable[[str], str]) -> None:
    path = BAD / f"{name}.yaml"
    text = path.read_text(encoding="utf-8", errors="replace")
    # a comment '# --set K=V' is an option given with this spec
    options = dict(re.findall(r"^# --set ([^=\n]*)=(.*)$", text, re.MULTILINE))
    _, diagnostics = spec.read(path, options)
    assert any(name.startswith(each.code) for each in diagnostics)
    assert golden(f"../bad/{name}.txt") == render(diagnostics, path.name, text) + "\n"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_specs_are_complete_and_round_trip(path: Path) -> None:
    found, diagnostics = spec.read(path)
    assert found is not None and diagnostics == []
    assert found.name == path.stem
    again, diagnostics = spec.read(spec.show(found))
    assert again is not None and diagnostics == []
    assert spec.show(again) == spec.show(found)
    for name in ("inputs", "params", "states", "steps"):
        assert len(getattr(again, name)) == len(getattr(found, name))


def test_show_reads_like_the_file(golden: Callable[[str], str]) -> None:
    assert golden("show/gated_deltanet.yaml") == spec.show(read(GDN))


def test_the_spec_of_gated_deltanet() -> None:
    found = read(GDN)
    assert dict(found.sizes) == {"H": 16, "HV": 32, "K": 128, "V": 128}
    assert [(t.name, t.axes) for t in found.inputs][:3] == [
        ("q", ("H", "K")),
        ("k", ("H", "K")),
        ("v", ("HV", "V")),
    ]
    assert [t.name for t in found.params] == ["A_log", "dt_bias"]
    (state,) = found.states
    assert (state.axes, state.init, state.range, state.kind) == (
        ("HV", "K", "V"),
        0.0,
        None,
        "state",
    )
    assert [each.target for each in found.steps] == ["k", "S", "d", "S", "o"]
    assert found.steps[0].line == 21 and found.steps[0].source == "k = l2norm(k)"
    assert found.storage == spec.Storage() and found.buffer is None
    assert found.sample == (("A_log", "log_uniform"), ("dt_bias", "gate"))


CATALOGUE = {
    "rwkv7": ("r w k v a b", "", "e = a @ S|S = exp(w) * S + outer(b, e) + outer(k, v)|o = r @ S"),
    "rwkv6": (
        "r w k v u",
        "",
        "o = r @ S + (r @ (u * k)) * v|S = exp(-exp(w)) * S + outer(k, v)",
    ),
    "delta_product": (
        "q k3 v3 b3 g1",
        "",
        "S = exp(g) * S|for i in range(N):|    S = S + outer(k[i], b[i] * (v[i] - k[i] @ S))|"
        "o = q @ S",
    ),
    "mlstm": (
        "q k v i1 f1",
        "  n: [HV, K]\n  m: {axes: [HV], init: -inf}\n",
        "i = 15 * tanh(i / 15)|f = logsigmoid(15 * tanh(f / 15))|m1 = maximum(f + m, i)|"
        "S = exp(f + m - m1) * S + exp(i - m1) * outer(k, v)|"
        "n = exp(f + m - m1) * n + exp(i - m1) * k|m = m1|q = q * K**-0.5|"
        "o = (q @ S) / (maximum(abs(q @ n), exp(-m)) + 1e-6)",
    ),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_recurrences_of_other_papers(name: str) -> None:
    inputs, states, step = CATALOGUE[name]
    lines = ["kvgen: 1", f"name: {name}", "sizes: {H: 2, HV: 4, K: 8, V: 8, N: 2}", "inputs:"]
    for each in inputs.split():
        axes = "[HV, V]" if each[0] == "v" else "[H, K]"
        axes = {"3": f"[N, {axes[1:]}", "1": "[HV]"}.get(each[1:], axes)
        lines.append(f"  {each[0]}: {'[N, HV]' if each == 'b3' else axes}")
    lines += ["state:", "  S: [HV, K, V]", states + "step: |"]
    found = read("\n".join([*lines, *(f"  {row}" for row in step.split("|"))]) + "\n")
    assert read(found.text).text == found.text


def test_one_head_size_is_enough() -> None:
    assert dict(read(GDN.replace("H: 16, HV: 32", "HV: 32")).sizes)["H"] == 32
    assert dict(read(GDN.replace("H: 16, HV: 32", "H: 16")).sizes)["HV"] == 16


def test_tensors_with_init_and_range() -> None:
    text = GDN.replace("  b: [HV]", "  b: {axes: [HV], range: [-.inf, 1e-6]}").replace(
        "  S: [HV, K, V]", "  S: {axes: [HV, K, V], init: 1}\n  m: {axes: [HV], init: -inf}"
    )
    found = read(text.replace("k = l2norm(k)", "m = maximum(m, a)"))
    assert found.inputs[-1].range == (-math.inf, 1e-6)
    assert [each.init for each in found.states] == [1.0, -math.inf]
    assert "b: {axes: [HV], range: [-inf, 1e-06]}" in found.text
    assert "m: {axes: [HV], init: -inf}" in found.text
    assert read(found.text).text == found.text


@pytest.mark.parametrize("axes", ["[]", "[H]", "[HV]", "[K]", "[H, K]", "[HV, K]", "[HV, V]"])
def test_carried_states(axes: str) -> None:
    text = GDN.replace("  S: [", f"  n: {axes}\n  S: [").replace("k = l2norm(k)", "n = n * 2")
    assert len(read(text).states) == 2


@pytest.mark.parametrize("axes", ["[V]", "[H, V]", "[N]", "[K, V]", "[H, K, V]", "[N, HV]"])
def test_states_of_other_axes_are_refused(axes: str) -> None:
    text = GDN.replace("  S: [", f"  n: {axes}\n  S: [").replace("K: 128", "N: 3, K: 128")
    assert [each.code for each in errors(text)] == ["bad-state"]


@pytest.mark.parametrize("name", ["B", "C", "D", "E", "N", "Q", "S2", "beta", "gamma", "dt"])
def test_the_names_of_papers_are_legal(name: str) -> None:
    read(GDN.replace("  b: [HV]", f"  b: [HV]\n  {name}: [HV]"))


@pytest.mark.parametrize(
    "name",
    """
    cache layer slots out parents state counts path lengths device sizes exp sum abs lambda class
    True None o H K tl torch triton Cache decode reference FORM range float _x __class__
    """.split(),  # noqa: SIM905
)
def test_reserved_names(name: str) -> None:
    found = errors(GDN.replace("  b: [HV]", f"  b: [HV]\n  {name}: [HV]"))
    assert [each.code for each in found] in (["reserved-name"], ["bad-type"])
    assert found[0].span and found[0].span.line == 14


@pytest.mark.parametrize("name", "tokens first tree parts warps name given launch".split())  # noqa: SIM905
def test_names_of_the_host_are_free(name: str) -> None:
    """Arguments go to the host's side by name, in a dict of their own."""
    assert not errors(GDN.replace("  b: [HV]", f"  b: [HV]\n  {name}: [HV]"))
    assert refusal(name) is None


def test_overrides() -> None:
    found = read(
        GDN,
        storage__state="split",
        storage__layout="vk",
        sizes__HV="64",
        buffer="8",
        inputs__b__range="[0, 1]",
        title="it's: a #title",
        sample__b="positive",
    )
    assert found.storage == spec.Storage(STATES["split"], RECORDS["float32"], "vk")
    assert (found.size("HV"), found.buffer) == (64, 8)
    assert ("b", "positive") in found.sample
    assert found.inputs[-1].range == (0.0, 1.0)
    assert found.inputs[-1].span.line == 13
    assert read(found.text).text == found.text
    assert found.original == GDN


def test_the_order_of_overrides_does_not_matter() -> None:
    first = read(GDN, buffer="8", sizes__HV="16").text
    assert first == read(GDN, sizes__HV="16", buffer="8").text


def test_an_override_is_named_in_its_errors() -> None:
    (found,) = errors(GDN, storage__state="splt")
    assert found.span is None and found.message.endswith("in --set storage.state=splt")
    assert found.help == "did you mean 'split'?"
    (found,) = errors(GDN, storage__stat="split")
    assert found.help == "did you mean 'storage.state'?"


def test_texts_are_quoted_where_yaml_needs_it() -> None:
    for title in ["a: b", "# x", "12", "true", 'say "hi" \\ ok', "- x", "", "é ü", "{x}", "null"]:
        quoted = '"' + title.replace("\\", "\\\\").replace('"', '\\"') + '"'
        found = read(GDN.replace("Gated DeltaNet, as in Qwen3-Next", quoted))
        assert found.title == title
        assert read(found.text).title == title


def test_all_errors_at_once_and_sorted() -> None:
    text = (
        GDN.replace("A_log: [HV]", "A_log: [HW]")
        .replace("buffer", "")
        .replace("l2norm(k)", "l3norm(k)")
    )
    found = errors(text + "storage: {state: half}\n")
    assert [each.code for each in found] == ["unknown-axis", "unknown-function", "bad-value"]
    spans = [each.span for each in found if each.span]
    assert spans == sorted(spans) and len(spans) == 3


def test_a_slip_of_a_required_key_is_one_error() -> None:
    (found,) = errors(GDN.replace("inputs:", "input:"))
    assert (found.code, found.help) == ("unknown-key", "did you mean 'inputs'?")


def test_every_missing_key_is_named() -> None:
    assert [each.message for each in errors("kvgen: 1\n")] == [
        f"the key '{name}' is missing" for name in ("name", "sizes", "inputs", "state", "step")
    ]
    assert len(errors(GDN.replace(", K: 128, V: 128", ""))) == 2


def test_errors_in_step_leave_a_spec_to_walk_on() -> None:
    found, diagnostics = spec.read(GDN.replace("sigmoid(b)", "sigmoid(bb)"))
    assert found is not None and [each.code for each in diagnostics] == ["unknown-name"]


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "crlf.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GDN.replace("\n", "\r\n").encode())
    found, diagnostics = spec.read(path)
    assert found is not None and not diagnostics and found.text == read(GDN).text
    assert found.path == str(path)


def test_a_step_of_one_line() -> None:
    text = GDN[: GDN.index("step:")] + "step: S = nothing * S\n"
    found = errors(text)
    assert [each.code for each in found] == ["missing-output", "unknown-name"]
    assert found[1].span and (found[1].span.line, found[1].span.column) == (20, 11)


def test_numbers_are_of_yaml_1_2() -> None:
    text = GDN.replace("K: 128", "K: 010")
    assert read(text).size("K") == 10
    assert errors(GDN.replace("K: 128", "K: yes"))[0].code == "bad-type"
    assert errors(GDN.replace("K: 128", "K: 1.0"))[0].code == "bad-type"
    assert errors(GDN.replace("K: 128", "K: true"))[0].code == "bad-type"
