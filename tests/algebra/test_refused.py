"""What is said instead of a recurrence that is refused computes that recurrence."""

from __future__ import annotations

import torch

from kvgen import compiler
from kvgen.diagnostics import SpecError

HEADS, KEYS, VALUES, SLOTS = 2, 4, 6, 5
TOKENS = 12


def text(inputs: str, state: str, *lines: str, sizes: str = "K: 4, V: 6") -> str:
    body = "".join(f"  {line}\n" for line in lines)
    head = f"kvgen: 1\nname: example\nsizes: {{H: 2, HV: 2, {sizes}}}\n"
    return f"{head}inputs: {{{inputs}}}\nstate: {{{state}}}\nstep: |\n{body}"


def outputs(spec: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The recurrence's outputs in float64, token by token."""
    module = compiler.built(compiler.analyse(spec))
    state, found = None, []
    for token in range(TOKENS):
        given = {name: value[token][None] for name, value in inputs.items()}
        output, state = module.reference(state, **given)
        found.append(output[0])
    return torch.stack(found)


def drawn(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {n: torch.randn(TOKENS, HEADS, *s, dtype=torch.float64) for n, s in shapes.items()}


def help_of(spec: str) -> str:
    try:
        compiler.analyse(spec)
    except SpecError as error:
        return error.diagnostics[0].help or ""
    raise AssertionError("the spec is not refused")


def test_a_carried_sign_is_a_decay_of_either_sign() -> None:
    given = "q: [H, K], k: [H, K], v: [HV, V], g: [HV], f: [HV, K], h: [HV, V]"
    inputs = drawn(q=(KEYS,), k=(KEYS,), v=(VALUES,), g=(), f=(KEYS,), h=(VALUES,))
    inputs["g"][3] = 0.0
    for name, axes in (("g", "[HV]"), ("f", "[HV, K]"), ("h", "[HV, V]")):
        decay = f"tanh({name})"
        plain = text(given, "S: [HV, K, V]", f"S = {decay} * S + outer(k, v)", "o = q @ S")
        said = help_of(plain).partition("carry its sign: ")[2]
        # the help as a spec: statements, how to read, and the state's declaration
        statements, _, rest = said.partition(", read as ")
        read, _, declared = rest.partition(", with ")
        lines = [
            part.strip()
            for part in statements.replace(", s =", "; s =").replace(", S =", "; S =").split(";")
        ]
        declared = declared.removesuffix(" in state")
        assert f"axes: {axes}" in declared
        found = outputs(text(given, f"S: [HV, K, V], {declared}", *lines, f"o = {read}"), inputs)
        state = torch.zeros(HEADS, KEYS, VALUES, dtype=torch.float64)
        for token in range(TOKENS):
            at = {key: value[token] for key, value in inputs.items()}
            wide = at[name].tanh()
            wide = {"g": wide.view(-1, 1, 1), "f": wide.view(HEADS, -1, 1)}.get(
                name, wide.view(HEADS, 1, -1)
            )
            state = wide * state + at["k"][:, :, None] * at["v"][:, None, :]
            expected = (at["q"][:, None, :] @ state)[:, 0]
            torch.testing.assert_close(found[token], expected)


def test_gated_slot_attention_is_two_modules() -> None:
    inputs = drawn(q=(KEYS,), k=(KEYS,), v=(VALUES,), g=(SLOTS,))
    first = text(
        "q: [H, K], k: [H, K], g: [HV, V]",
        "S: [HV, K, V]",
        "a = sigmoid(g)",
        "S = a * S + outer(k, 1 - a)",
        "o = q @ S",
        sizes="K: 4, V: 5",
    )
    second = text(
        "p: [HV, K], v: [HV, V], g: [HV, K]",
        "S: [HV, K, V]",
        "a = sigmoid(g)",
        "S = a * S + outer(1 - a, v)",
        "o = (exp(p) / sum(exp(p))) @ S",
        sizes="K: 5, V: 6",
    )
    scores = outputs(first, {name: inputs[name] for name in ("q", "k", "g")})
    found = outputs(second, {"p": scores, "v": inputs["v"], "g": inputs["g"]})
    keys = torch.zeros(HEADS, SLOTS, KEYS, dtype=torch.float64)
    values = torch.zeros(HEADS, SLOTS, VALUES, dtype=torch.float64)
    for token in range(TOKENS):
        at = {name: value[token] for name, value in inputs.items()}
        gate = at["g"].sigmoid()[..., None]
        keys = gate * keys + (1 - gate) * at["k"][:, None, :]
        values = gate * values + (1 - gate) * at["v"][:, None, :]
        score = (keys @ at["q"][..., None])[..., 0].softmax(-1)
        expected = (score[:, None, :] @ values)[:, 0]
        torch.testing.assert_close(found[token], expected)


def test_a_range_is_suggested_only_where_it_proves_the_decay() -> None:
    given = "q: [H, K], k: [H, K], v: [HV, V], g: [HV]"
    for decay, declared in (
        ("g", "g: {axes: [HV], range: [0, 1]}"),
        ("(1 - g)", "g: {axes: [HV], range: [0, 1]}"),
        ("(g - 1 + g * g + 1)", "g: {axes: [HV], range: [0, 1]}"),
        ("(1 - 1000000 * g * g)", ""),
        ("(g - 2)", ""),
        ("(k @ q - 1)", ""),
    ):
        spec = text(given, "S: [HV, K, V]", f"S = {decay} * S + outer(k, v)", "o = q @ S")
        said = help_of(spec)
        assert ("declare a range: " + declared in said) if declared else "range" not in said
        if declared:
            compiler.analyse(spec.replace("g: [HV]", declared))
        else:
            assert "maximum(x, 0)" in said
