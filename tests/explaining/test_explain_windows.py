"""What `kvgen explain` says of several tokens at once, and of recurrences that take one only."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from kvgen import compiler, shipped
from kvgen.algebra.solving import obstacles, solve
from kvgen.explaining import explain
from kvgen.explaining.derivation import WINDOW, Derivation
from kvgen.explaining.windows import data, window
from kvgen.shipped import shipped as all_shipped
from tests.explaining.test_explain import (
    CLOSE,
    FUNCTIONS,
    ODD,
    SHIPPED,
    State,
    analysed,
    name,
    written,
)

NEAR: dict[str, Any] = CLOSE
# of the tree that the equations are evaluated for: a chain of three with two branches
PARENTS = (-1, 0, 1, 0, 1)
EQUATIONS = list(
    dict.fromkeys((*SHIPPED, *ODD, "gated_deltanet2", "comba", "efla", "rwkv7", "lightnet"))
)
# a carried state that is updated from a read, and what it may and may not feed
FEEDBACK = {
    "decay": """
S = exp(-softplus(g + m)) * S
m = 0.5 * m + tanh(sum((q @ S) * v))
S = S + outer(k, v)
o = q @ S
""",
    "column": """
S = exp(-softplus(g)) * S
o = (q + n) @ S
n = 0.5 * n + tanh(b) * k * sum(o)
S = S + outer(k, v)
""",
    # m comes to the decay through another carried state
    "both": """
S = exp(-softplus(g + z)) * S
o = q @ S + n
z = 0.5 * z + m
m = tanh(sum(o) + b)
n = 0.5 * n + v
S = S + outer(k, v)
""",
}
CARRIED = {"decay": "m: [HV]", "column": "n: [HV, K]", "both": "m: [HV], z: [HV], n: [HV, V]"}
HARMLESS = """
S = exp(-softplus(g)) * S
o = q @ S + m * v
m = 0.5 * m + tanh(sum(o))
S = S + outer(k, v)
"""


def feedback(which: str) -> compiler.Analysis:
    state = f"S: [HV, K, V], {CARRIED[which]}"
    return compiler.analyse(written(f"feedback_{which}", FEEDBACK[which], state=state))


# -- where tokens share a pass


@pytest.mark.parametrize("spec", [each.name for each in all_shipped()])
def test_the_module_does_what_is_explained(spec: str) -> None:
    analysis = compiler.analyse(shipped.resolve(spec))
    before = compiler.emit(analysis)
    found = window(Derivation(analysis))
    assert found is not None
    assert found.solved.method == (
        "triangle" if "_inverse(" in before
        else "substitution" if "for turn in range(TOKENS):" in before
        else "none"
    )  # fmt: skip
    assert ("for turn in range(TOKENS - 1):" in before) == any(
        carry not in found.solved.carries for carry in analysis.form.carries
    )
    assert f"'TOKENS': {found.block}" in before or f'"TOKENS": {found.block}' in before
    # what is explained is not what is compiled: it leaves no trace in the form
    assert compiler.emit(analysis) == before


def test_a_carried_state_may_follow_from_a_read() -> None:
    analysis = compiler.analyse(written("harmless", HARMLESS, state="S: [HV, K, V], m: [HV]"))
    assert analysis.form.windows and not obstacles(analysis.form)
    assert solve(analysis.form).method == "substitution"
    text = " ".join(explain.text(analysis).split())
    assert "m depends on what is read, and is found by substitution" in text
    assert "A token finds the carried state m as its parent in the window leaves it." in text
    assert data(Derivation(analysis))["carried"] == [{"name": "m", "solved": True}]


@pytest.mark.parametrize("spec", EQUATIONS)
def test_window_equations_hold_as_printed(spec: str) -> None:
    overrides = {"sizes.K": "6", "sizes.V": "10"}
    analysis = compiler.analyse(ODD.get(spec) or shipped.resolve(spec), overrides)
    d = Derivation(analysis)
    chain = Tree(d, np.random.default_rng(0))
    for token in range(len(PARENTS)):
        chain.add(token)
        chain.check_reads(token)
        chain.check_triangle(token)


class Tree:
    """The tokens of a tree, each by the recurrence from what its parent has left."""

    def __init__(self, d: Derivation, rng: np.random.Generator) -> None:
        self.d, self.rng = d, rng
        self.window = window(d)
        self.sizes: dict[str, Any] = dict(d.spec.sizes)
        self.params = {each.name: self.drawn(each.axes) for each in d.spec.params}
        root = {each.name: self.drawn(each.axes) for each in d.spec.states}
        root[d.state] = State(root[d.state])
        # what each token leaves and has found, by its number; the root is -1
        self.left: dict[int, dict[str, Any]] = {-1: root}
        self.found: dict[int, dict[str, Any]] = {}

    def drawn(self, axes: tuple[str, ...]) -> Any:
        # one head: a head axis is left out
        shape = [self.sizes[axis] for axis in axes if axis not in ("H", "HV")]
        return self.rng.standard_normal(shape) if shape else float(self.rng.standard_normal())

    def above(self, token: int) -> list[int]:
        """The ancestors, the root's child first."""
        parent = PARENTS[token]
        return [] if parent < 0 else [*self.above(parent), parent]

    def add(self, token: int) -> None:
        d = self.d
        inputs = {each.name: self.drawn(each.axes) for each in d.spec.inputs}
        before = self.left[PARENTS[token]]
        values = {**inputs, **self.params, **before}
        scope = {**FUNCTIONS, **self.sizes, **values}
        exec("\n".join(d.recurrence), scope)
        self.left[token] = {each.name: scope[each.name] for each in d.spec.states}
        renamed = {own: values[tensor] for own, tensor in d.renamed}
        self.found[token] = {**FUNCTIONS, **self.sizes, **values, **renamed}
        self.found[token] |= self.sums(token)
        self.evaluate(self.found[token], before[d.state])

    def evaluate(self, found: dict[str, Any], state: Any) -> None:
        """A token's values from the state that it finds, and its record."""
        d = self.d
        found[name(f"{d.state}ₙ")] = state
        for line in (*d.decay_lines, *d.column_lines, *d.token_lines):
            found[line.name] = eval(name(line.text), found)
        for kept, text in zip(d.records.stored, d.stored_texts, strict=True):
            found.setdefault(kept.name, eval(name(text), found))

    def sums(self, token: int) -> dict[str, Any]:
        """The sums over all above a token, and the running sum."""
        d, found = self.d, {}
        for decay in d.form.decays:
            logs = [self.found[each][d.name(decay.log)] for each in self.above(token)]
            found[name(f"{d.sum_name(decay.channel, WINDOW)}₀")] = sum(logs, start=0.0)
        if d.form.factored:
            # a token's own sum goes on from those above it
            whole = 0.3 + found[name(f"{d.sum_name('K', WINDOW)}₀")]
            found[name(f"{d.running}ₙ")] = found[name(f"{d.running}ₜ")] = whole
        return found

    def met(self, token: int, j: int) -> dict[str, Any]:
        """What the token meets of one above it: its record, and the sums between the two."""
        d, path = self.d, self.above(token)
        found = dict(self.found[token])
        for kept in d.records.stored:
            found[name(f"{kept.name}ⱼ")] = self.found[j][kept.name]
        for decay in d.form.decays:
            logs = [self.found[each][d.name(decay.log)] for each in path[path.index(j) + 1 :]]
            found[name(f"{d.sum_name(decay.channel, WINDOW)}ⱼ")] = sum(logs, start=0.0)
        return found

    def read(self, token: int, text: str, x: Any) -> Any:
        """What the right side of a read comes to."""
        d = self.d
        start, _, inner = text.partition(" = ")[2].partition(" + Σⱼ ")
        found = self.found[token] | {d.vector: x}
        found[name(f"{d.state}ₙ")] = self.left[-1][d.state]
        total = eval(name(start), found)
        for j in self.above(token) if inner else ():
            met = self.met(token, j) | {d.vector: x}
            total = total + eval(name(inner), met)
        return total

    def check_reads(self, token: int) -> None:
        d = self.d
        for side in d.sides_read:
            text, x = d.read_text(side, WINDOW), self.drawn((side,))
            state = self.left[PARENTS[token]][d.state]
            wanted = x @ state if side == "K" else state @ x
            assert self.read(token, text, x) == pytest.approx(wanted, **NEAR)

    def check_triangle(self, token: int) -> None:
        d, found = self.d, self.window
        if found is None or found.feedback is None:
            return
        (unknown,) = found.unknown
        state = self.left[PARENTS[token]][d.state].value
        fed = 0.0
        for j in self.above(token):
            met = self.met(token, j)
            for line in found.lines:
                met[line.name] = eval(name(line.text), met)
            fed = fed + eval(name(found.feedback), met) * self.found[j][unknown]
            # the state without that write of the tokens above
            place = [d.name(write.d) for write in d.form.writes].index(unknown)
            state = state - self.write(token, j, place)
        alone = dict(self.found[token])
        self.evaluate(alone, State(state))
        assert alone[unknown] + fed == pytest.approx(self.found[token][unknown], **NEAR)

    def write(self, token: int, j: int, place: int) -> Any:
        """One write of a token as it has decayed when another finds it."""
        d, met = self.d, self.met(token, j)
        key, value = d.form.writes[place].w, d.form.writes[place].d
        product = np.outer(self.found[j][d.name(key)], self.found[j][d.name(value)])
        for decay in d.form.decays:
            # of factored keys too: the sum over what lies between
            left = np.exp(met[name(f"{d.sum_name(decay.channel, WINDOW)}ⱼ")])
            product = product * (left[:, None] if decay.channel == "K" and np.ndim(left) else left)
        return product


# -- where they do not


def test_compile_says_what_a_module_takes_and_no_more() -> None:
    analysis = analysed("gated_deltanet")

    def said(*asked: str) -> str:
        return dict(explain.summary(analysis, asked=asked))["tokens at once"]

    assert said("decode") == "1, decode"
    assert said("decode", "verify") == "verify, 1 to 16, chains and trees"
    assert said("decode", "extend").startswith("extend, a prompt of any length, at ")
    assert "; ".join((said("verify"), said("extend"))) == said("decode", "verify", "extend")


@pytest.mark.parametrize(
    ("which", "reason"),
    [
        ("decay", "log_decay depends on the carried state m, updated from what a token reads"),
        ("column", "query depends on the carried state n, updated from what a token reads"),
        ("both", "log_decay depends on the carried state z, updated from what a token reads"),
    ],
)
def test_a_read_that_feeds_the_next_tokens_pass(which: str, reason: str) -> None:
    analysis = feedback(which)
    assert not analysis.form.windows
    text = " ".join(explain.text(analysis).split())
    assert "There is no verify and no extend." in text and reason in text
    found = json.loads(json.dumps(explain.data(analysis)))["windows"]
    assert found == {"available": False, "reason": reason}
    said = dict(explain.summary(analysis))["tokens at once"]
    assert said == f"1, decode; no verify and no extend, as {reason}"
    module = compiler.emit(analysis)
    assert "\ndef decode(" in module and "\ndef accept(" in module
    assert "\ndef verify(" not in module and "\ndef extend(" not in module


def test_a_module_without_verify_decodes() -> None:
    import torch

    text = written("feedback", FEEDBACK["decay"], state=f"S: [HV, K, V], {CARRIED['decay']}")
    module = compiler.compile(text)
    assert not hasattr(module, "verify") and not hasattr(module, "extend")
    cache = module.Cache.empty(2, device="cpu", dtype=torch.float32, buffer=2)
    slots = torch.tensor([1], dtype=torch.int32)
    state = {"S": torch.zeros(1, 4, 6, 10), "m": torch.zeros(1, 4)}
    shapes = {"q": (2, 6), "k": (2, 6), "v": (4, 10), "b": (4,), "g": (4,)}
    for _ in range(4):
        inputs = {each: torch.randn(1, *shape) for each, shape in shapes.items()}
        got = module.decode(cache, 0, slots, **inputs)
        module.accept(cache, slots, counts=torch.ones(1, dtype=torch.int32))
        wanted, state = module.reference(state, **inputs)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_compile_and_explain_say_so(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "mine.yaml"
    spec.write_text(written("mine", FEEDBACK["decay"], state=f"S: [HV, K, V], {CARRIED['decay']}"))
    runner = CliRunner()
    compiled = runner.invoke(cli.cli, ["compile", str(spec)])
    assert compiled.exit_code == 0 and "no verify and no extend" in compiled.output
    explained = runner.invoke(cli.cli, ["explain", str(spec)])
    assert explained.exit_code == 0 and "There is no verify and no extend." in explained.output
    shown = runner.invoke(cli.cli, ["compile", "gated_deltanet"])
    assert "verify, 1 to 16, chains and trees; extend, a prompt of any length" in shown.output


def test_windows_as_data() -> None:
    found = explain.data(analysed("gated_deltanet"))["windows"]
    assert found["most"] == found["block"] == 16 and found["columns"] == 2
    assert found["solve"] == "triangle" and found["unknown"] == ["d"]
    assert found["feedback"] == "-exp(Δⱼ) * sigmoid(b) * decay * (k @ kⱼ)"
    assert found["reads"] == ["x @ Sₜ = exp(Δ₀) * (x @ Sₙ) + Σⱼ exp(Δⱼ) * (x @ kⱼ) * dⱼ"]
