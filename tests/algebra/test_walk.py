"""The walk of `step`: what it refuses and with which words, what it proves, how much it takes."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peak import peak_and_lines
from places import ROOT, TESTS

from kvgen import compiler
from kvgen.algebra.form import Form, derive
from kvgen.diagnostics import Diagnostic, SpecError, render
from kvgen.language import spec

BAD = TESTS / "bad"
# the modules that report what a step may not be
WALK = ("report", "elementwise", "reading", "writing", "erasing", "walk", "ends", "form")
CODE = re.compile(r"[a-z]+(-[a-z]+)+")

HEAD = """kvgen: 1
name: example
sizes: {H: 2, HV: 4, K: 8, V: 12, N: 4}
inputs:
  q: [H, K]
  k: [H, K]
  v: [HV, V]
  b: [HV]
  f: [HV, K]
  h: [HV, V]
  kk: [N, H, K]
  unit: {axes: [HV], range: [0, 1]}
  below: {axes: [HV], range: [-inf, 0]}
params:
  A_log: [HV]
state: {S: [HV, K, V], n: [HV, K], m: [HV]}
step: |
"""


def step(*lines: str) -> str:
    """A spec of these statements, and of plain ones for what they do not assign."""
    found = list(lines)
    assigned = {line.split("=")[0].strip() for line in lines}
    rest = {"S": "S + outer(k, v)", "n": "0.5 * n", "m": "0.5 * m", "o": "q @ S"}
    found += [f"{name} = {text}" for name, text in rest.items() if name not in assigned]
    return HEAD + "".join(f"  {line}\n" for line in found)


def errors(text: str) -> tuple[Diagnostic, ...]:
    try:
        compiler.analyse(text)
    except SpecError as error:
        return error.diagnostics
    return ()


def codes(*lines: str) -> list[str]:
    return [each.code for each in errors(step(*lines))]


# diagnostics ------------------------------------------------------------------------------------


def codes_of_the_walk() -> set[str]:
    """Every string of the walk that reads like a code."""
    found: set[str] = set()
    for name in WALK:
        tree = ast.parse((ROOT / "kvgen" / "algebra" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if CODE.fullmatch(node.value) else set()
    return found


CODES = sorted(codes_of_the_walk())
FILES = sorted(path.stem for code in CODES for path in BAD.glob(f"{code}*.yaml"))


def test_every_code_has_a_bad_spec() -> None:
    assert "axis-mismatch" in CODES
    assert [code for code in CODES if not (BAD / f"{code}.yaml").is_file()] == []


@pytest.mark.parametrize("name", [name for name in FILES if name != "bad-number"])
def test_bad_spec(name: str, golden: Callable[[str], str]) -> None:
    path = BAD / f"{name}.yaml"
    with pytest.raises(SpecError) as raised:
        compiler.analyse(path)
    found = raised.value.diagnostics
    assert any(name.startswith(each.code) for each in found)
    report = render(found, path.name, path.read_text(encoding="utf-8"))
    assert golden(f"../bad/{name}.txt") == report + "\n"


def test_errors_of_reader_and_walk_come_together_and_sorted() -> None:
    found = errors(step("x = k + v", "y = lost", "z = x * y", "S = b * S + outer(k, y)", "o = k"))
    assert [each.code for each in found] == [
        "axis-mismatch",
        "unknown-name",
        "axis-mismatch",
    ]
    spans = [each.span for each in found if each.span]
    assert spans == sorted(spans)


def test_an_error_is_followed_by_no_other() -> None:
    assert codes("x = k + v", "y = x @ S", "z = outer(x, y)", "m = x", "o = y") == ["axis-mismatch"]
    assert codes("S = S * S", "x = q @ S", "S = S + outer(x, x)") == ["matrix-nonlinear"]
    assert codes("x = exp(S) + k @ v") == ["matrix-nonlinear", "axis-mismatch"]


def test_the_turns_of_a_loop_repeat_no_error() -> None:
    loop = ("for i in range(4):", "    x = kk[i] + v", "    y = outer(v, i * kk[i])")
    assert codes(*loop) == ["axis-mismatch"] * 2


def test_what_the_reader_has_said_is_not_said_again() -> None:
    text = step("x = k").replace("  o = q @ S\n", "").replace("  S = S + outer(k, v)\n", "")
    text = text.replace("  m = 0.5 * m\n", "")
    assert {each.code for each in errors(text)} == {"missing-output", "state-not-updated"}


def test_smaller_mistakes() -> None:
    assert codes("M = exp(-abs(f)) * S", "S = S - M + outer(k, v)", "M = S - S") == ["state-twice"]
    # a matrix with a name of its own need not decay
    assert codes("M = -b * S + outer(k, h)", "o = q @ M") == []
    assert codes("o = 1") == codes("o = b") == codes("o = h") == []
    assert codes("m = 1", "n = b") == []


# decays -----------------------------------------------------------------------------------------


def form_of(*lines: str) -> Form:
    found, diagnostics = spec.read(step(*lines))
    assert found is not None and not diagnostics, render(diagnostics, "spec", step(*lines))
    form, diagnostics = derive(found)
    assert form is not None, render(diagnostics, "spec", step(*lines))
    return form


PROVED = """
exp(b) sigmoid(b) b*b b**2 b**-2 (b+1)**4 abs(b) relu(b) softplus(b) maximum(b,0) 0.5 0 2
minimum(abs(b),1) maximum(b,exp(b)) sqrt(b*b) abs(b)**0.5 abs(b)**b 2**b 1-sigmoid(b) 1-unit
1-unit*sigmoid(b) unit unit**3 unit**b 1-unit**2 1-tanh(b) 1+tanh(b) 0.5+0.5*tanh(b) 1-tanh(b)**2
exp(b)+unit exp(b)*unit exp(b)/unit 1/(1+exp(b)) 1/(1+b**2) abs(b)/(1+abs(b)) 1-1/(1+abs(b))
exp(-exp(A_log)*softplus(b)) exp(below) -below softplus(b)*exp(b) logaddexp(b,0) 3-2*unit
exp(-sum(f*f)) sum(abs(f)) sum(f**2)+1 sqrt(sum(f*f)) (k@k)*(k@k) exp(-(k@k)**2) 1-exp(-abs(b))
1-exp(below) exp(b-maximum(b,m)) exp(f-logaddexp(n,f)) exp(logsigmoid(b)) 1-exp(logsigmoid(b))
minimum(maximum(b,0),1) 1-minimum(maximum(b,0),1) exp(m+b-maximum(m+b,b)) -logsigmoid(b)
1-sigmoid(b)*l2norm(k)*l2norm(k) 1-l2norm(f)**2 1-l2norm(k)@l2norm(k) 1+l2norm(k)@l2norm(q)
1-l2norm(k)@(sigmoid(b)*l2norm(k)) 12-rmsnorm(h)**2 8-rmsnorm(k)@rmsnorm(q) 1-k*unit*k/(1+k*k)
1-(k/sqrt(k@k+1))**2 1-k*k/(k@k+1e-6) 1-(k/maximum(sqrt(k@k),1e-6))**2 1-(k*(k@k+1)**-0.5)**2
unit*exp(m)+(1-unit)*exp(b) 1-exp(k)/sum(exp(k)) silu(b)+0.2785 2**b 1-2**below unit*k*k
8-sum(unit*sigmoid(f)) 12-sum(tanh(h)) 1-abs(b)/(1+abs(b)) 1-tanh(b)*tanh(b) 1-4*unit*(1-unit)
1-4*sigmoid(b)*sigmoid(-b) sigmoid(m)+unit*(sigmoid(b)-sigmoid(m)) b*unit*b-0*b*b
1-unit*k*k/(k@k+1e-6) 1-softplus(b)*k*k/(1+softplus(b)*(k@k)) 1-k**2*sum(k**2)**-1
1-(softplus(b)/(1+softplus(b)*sum(k**2)))*k*k 1-k*k/(sqrt(k@k)+1e-6)**2
(-2)*(-exp(b)) exp(f)*exp(h) sigmoid(f)/exp(h) exp(f)*unit**2*exp(h)*exp(b) -(-sigmoid(f)*exp(h))
""".split()  # noqa: SIM905
AT_MOST_ONE = """
exp(-exp(b)) exp(below) exp(-softplus(b)) sigmoid(b) exp(logsigmoid(b)) exp(-abs(b)) unit 0.5
1-sigmoid(b) exp(-exp(A_log)*softplus(b)) exp(b-maximum(b,m)) exp(b-logaddexp(b,m))
exp(minimum(b,m)-m) exp(-b**2) exp(-sum(f*f)) exp(-relu(b)) unit**2 sqrt(unit) exp(minimum(b,0))
1-sigmoid(b)*l2norm(k)*l2norm(k) 1-l2norm(k)@l2norm(k) l2norm(k)**2 1-l2norm(k)@(unit*l2norm(k))
unit*sigmoid(m)+(1-unit)*sigmoid(b) sigmoid(b)*unit+sigmoid(-b)*exp(below) 2**below unit**abs(b)
(1-unit)*sigmoid(m)**2+unit*(1-(1-sigmoid(m))**2) sigmoid(m)+unit*(exp(below)-sigmoid(m))
sigmoid(m)-unit*(sigmoid(m)-exp(below)) exp(k)/sum(exp(k)) relu(k)/(1+sum(relu(k)))
abs(b)/(1+abs(b))
exp(logsigmoid(b))*unit+(1-sigmoid(b)) 1/(1+exp(-b))*unit+sigmoid(-b)*unit
sigmoid(b-m)*unit+sigmoid(m-b)*unit sum(unit*sigmoid(f))/8 exp(minimum(silu(b),0))
unit*k*k/(1+unit*(k@k)) (1/(1+unit*(k@k)))*k*unit*k
sigmoid(b)*unit exp(-sum(abs(f))) 1/(1+exp(b)) exp(-(k@k)*(k@k)) minimum(unit,sigmoid(b))
exp(-(softplus(b)-b)) exp(-(abs(b)-b)) exp(-(b+abs(b))) exp(maximum(b,-b)*-1) exp(b-exp(b))
exp(-exp(A_log)*(softplus(b)-b)) exp(b)*exp(-softplus(b)) exp(minimum(b,-b))
exp(m-logaddexp(b,m)-unit)
""".split()  # noqa: SIM905
NOT_PROVED = """
b 1-b tanh(b) -0.5 -exp(b) logsigmoid(b) below b**3 b*exp(b) 1-exp(b) 1-2*unit m sum(f) q@k
1-1.01*l2norm(k)**2 1-sigmoid(b)*k*k 11.9-rmsnorm(h)**2 1-q@l2norm(k) 0.99-unit*l2norm(k)**2
unit*sigmoid(m)+(1-sigmoid(b))*unit-0.01 unit*b+(1-unit)*m 1-l2norm(k,eps=0)@(2*l2norm(q))
silu(b)+0.278 1-k/(1+abs(b)) 1-exp(k)/(1+exp(q)) 7.9-sum(unit*sigmoid(f)) 2*unit-1-unit**2-0.001
1-1.01*k*k/(k@k+1e-6) 1-exp(b)*k*k/(k@k+1) 1-k*k/(1+k@q) 1-unit*k*k/(1+0.9*unit*(k@k))
0.99-(softplus(b)/(1+softplus(b)*(k@k)))*k*k 1-k*k/(1+q@q) 1-k*k/(k*k-k@k+1)
silu(b) log(unit) exp(b)-1 minimum(b,1) exp(b)*b softplus(b)-m softplus(b)-2*b abs(b)-1.01*b
0.99*abs(b)+b relu(b)+b m*(softplus(b)-b) maximum(b,-m) b-softplus(b)
""".split()  # noqa: SIM905


@pytest.mark.parametrize("decay", PROVED)
def test_a_decay_that_is_proved(decay: str) -> None:
    form_of(f"S = ({decay}) * S + outer(k, v)")


@pytest.mark.parametrize("decay", AT_MOST_ONE)
def test_a_decay_that_is_proved_to_be_at_most_one(decay: str) -> None:
    form = form_of(f"S = ({decay}) * S + outer(k, v)")
    assert all(each.nonpositive for each in form.decays)


@pytest.mark.parametrize("decay", NOT_PROVED)
def test_a_decay_that_is_not_proved(decay: str) -> None:
    assert codes(f"S = ({decay}) * S + outer(k, v)") == ["decay-sign"]


def test_a_range_proves_what_follows_from_it() -> None:
    assert form_of("S = exp(-3 * unit) * S + outer(k, v)").decays[0].lower == -3
    assert form_of("S = sigmoid(2 * unit) * S + outer(k, v)").decays[0].lower is not None
    assert form_of("S = sigmoid(b) * S + outer(k, v)").decays[0].lower is None


# sizes ------------------------------------------------------------------------------------------

# the storage that takes the longest texts
STORAGE = "storage: {state: split, records: input}\n"
LONG = {
    "decay": ("b = sigmoid(b)", *["b = b*b + b"] * 20, "S = b * S + outer(k, v)"),
    "decay-of-products": ("f = sigmoid(f)", *["f = f*f"] * 100, "S = f * S + outer(k, v)"),
    "decay-of-k-and-v": (
        "f = sigmoid(f) * sigmoid(h)",
        *["f = f*f"] * 100,
        "S = f * S + outer(k, v)",
    ),
    "write": (*["k = k*k + k"] * 20, *["v = v*v + v"] * 20, "S = S + outer(k, v)"),
    "output": ("o = q @ S", *["o = o*o + o"] * 20),
    "carried": (*["n = n*n + n"] * 100,),
    "roots": ("b = abs(b)", *["b = sqrt(b)"] * 100, "S = b * S + outer(k, v)"),
    "root-keys": ("k = abs(k)", *["k = sqrt(k)"] * 100, "S = S + outer(k, v)"),
    "powers": (*["k = (k + 0.1)**8"] * 30, "S = S + outer(k, v)"),
    "norms": (*["k = l2norm(k)"] * 100,),
    "gates": (*["b = softplus(b)"] * 100, "S = exp(-b) * S + outer(k, v)"),
    "maxima": ("b = abs(b)", *["b = maximum(b, b*b)"] * 50, "S = b * S + outer(k, v)"),
    "deep-products": (*["k = " + "(" * 28 + "k" + " * b)" * 28] * 30,),
    "matrices": ("M = outer(k, v)", *["M = M + M"] * 50, "S = S + M"),
    "scaled-matrices": ("M = outer(k, v)", *["M = M + f*h*M"] * 15, "S = S + M"),
    "other-matrices": (
        "M = outer(k, v)",
        *["M = M + f*h*M", "f = tanh(f)", "h = tanh(h)"] * 15,
        "S = S + M",
    ),
    "delta-rules": (*["S = unit * S + outer(k, v - k @ S)"] * 32,),
    "other-delta-rules": (*["S = unit * S + outer(k, v - k @ S)", "k = tanh(k)"] * 20,),
    "indices": (*["kk = kk*kk + kk"] * 50, "S = S + outer(kk[0], v) + outer(kk[1], v)"),
}


def written(text: str) -> str | None:
    """The module's text; None where the spec is refused."""
    try:
        analysis = compiler.analyse(text)
    except SpecError as error:
        assert str(error)
        return None
    return compiler.emit(analysis)


def emitted(text: str) -> str | None:
    """The same, and it is Python."""
    module = written(text)
    if module is not None:
        compile(module, "module", "exec", dont_inherit=True)
    return module


def test_a_state_that_nothing_reads_is_a_module() -> None:
    assert emitted(step("S = S + outer(k, v)", "o = v"))


def pace() -> float:
    """Seconds of two million turns of a loop: machines, and what else runs on them, differ."""
    start = time.process_time()
    total = 0
    for number in range(2_000_000):
        total += number
    return time.process_time() - start


# what other tests have left in a process is not looked at again and again: one of their own
SOON = """
import json
from tests.algebra.test_walk import LONG, STORAGE, paced, step
found = {{name: paced(step(*LONG[name]) + STORAGE) for name in {names}}}
print(json.dumps({{name: paces for name, (paces, _) in found.items()}}))
print(json.dumps([name for name, (_, module) in found.items() if module is None]))
"""
PYTHON = """
for _, module in found.values():
    compile(module or "", "module", "exec", dont_inherit=True)
"""


def paced(text: str) -> tuple[float, str | None]:
    """How many paces a spec takes to be compiled, and its module."""
    before = pace()
    start = time.process_time()
    module = written(text)
    seconds = time.process_time() - start
    return seconds / max(before, pace()), module


@pytest.mark.parametrize("names", [sorted(LONG)[::2], sorted(LONG)[1::2]], ids=["some", "others"])
def test_long_chains_compile_soon_and_take_little_memory(names: list[str]) -> None:
    most, (paces, refused) = peak_and_lines(SOON.format(names=names), PYTHON)
    assert most < 300
    # at most about 30; beside other programs a pace may be that of a moment, so there is room
    assert {name: each for name, each in json.loads(paces).items() if each >= 150} == {}
    assert json.loads(refused) == [name for name in names if name == "other-matrices"]


# anything ---------------------------------------------------------------------------------------

NAMES = "q k v b f h kk unit below A_log S n m o x y N K V HV lost".split()  # noqa: SIM905
CALLS = """
exp( log( sigmoid( softplus( logaddexp( tanh( relu( silu( abs( sqrt( minimum( maximum( sum(
l2norm( rmsnorm( outer( (
""".split()  # noqa: SIM905
SIGNS = "+ - * / ** @ , ) ) ) [0] [i] [9] 0 1 2 0.5 1e30 -".split()  # noqa: SIM905
TOKENS = [*NAMES, *CALLS, *SIGNS]
LEAVES = st.sampled_from([*NAMES[:-1], *NAMES[:10], "kk[0]", "kk[1]", "2", "0.5", "0", "x", "S"])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["+", "-", "*", "/", "**", "@", "@", "*"])
    unary = st.sampled_from([c for c in CALLS if c not in ("minimum(", "maximum(", "outer(")])
    return st.one_of(
        st.builds("({} {} {})".format, inner, signs, inner),
        st.builds("{}{})".format, unary, inner),
        st.builds("{}({}, {})".format, st.sampled_from(["outer", "maximum"]), inner, inner),
        st.builds("-{}".format, inner),
    )


EXPRESSIONS = st.recursive(LEAVES, _grown, max_leaves=6)
STATEMENTS = st.builds(
    "{} = {}".format, st.sampled_from(["x", "y", "k", "b", "S", "n", "m", "o"]), EXPRESSIONS
)


@given(st.lists(st.lists(st.sampled_from(TOKENS), min_size=1, max_size=12), max_size=6))
@settings(max_examples=50)
def test_any_tokens_are_answered(lines: list[list[str]]) -> None:
    emitted(step("x = q", *(f"{line[0].strip('(')} = {' '.join(line[1:])}" for line in lines)))


@given(st.lists(STATEMENTS, max_size=8))
@settings(max_examples=30)
def test_any_statements_are_answered(lines: list[str]) -> None:
    emitted(step("x = q", "y = v", *lines))


@given(EXPRESSIONS, EXPRESSIONS, EXPRESSIONS)
@settings(max_examples=30)
def test_any_recurrence_of_the_usual_shape_is_answered(x: str, y: str, z: str) -> None:
    emitted(step(f"x = {x}", f"y = {y}", "S = exp(x) * S + outer(k * x, v + y)", f"o = {z}"))
