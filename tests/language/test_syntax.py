"""The text of `step`: the tree it becomes, the places of its parts, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kvgen.diagnostics import Diagnostic, Span, tidy
from kvgen.functions.function import Reach
from kvgen.functions.registry import FUNCTIONS
from kvgen.language import step
from kvgen.language.namespace import Scope
from kvgen.language.syntax import Bad, Bin, Call, Expr, Index, Name, Neg, Num, Stmt

TENSORS = "q k v a b A_log dt_bias S kk vv bb".split()  # noqa: SIM905
EXTRAS = {"kk": 2, "vv": 2, "bb": 2}
SIZES = {"H": 16, "HV": 32, "K": 128, "V": 128, "N": 2}


def read(*lines: str, at: int = 1) -> tuple[tuple[Stmt, ...], tuple[Diagnostic, ...]]:
    scope = Scope(frozenset(TENSORS), {name: EXTRAS.get(name) for name in TENSORS}, SIZES)
    found = step.read([(number, at, line) for number, line in enumerate(lines, start=1)], scope)
    return found.statements, found.diagnostics


def tree(text: str) -> Expr:
    """The tree of one expression."""
    statements, found = read(f"x = {text}")
    assert not found, found
    return statements[0].value


def errors(*lines: str) -> list[str]:
    return [each.code for each in read(*lines)[1]]


def only(*lines: str) -> Diagnostic:
    (found,) = tidy(read(*lines)[1])
    return found


def show(node: Expr) -> str:
    """Fully bracketed text that means the same."""
    match node:
        case Num(value):
            whole = value.denominator == 1
            return str(value) if whole else f"({value.numerator}/{value.denominator})"
        case Name(name):
            return name
        case Neg(value):
            return f"(-{show(value)})"
        case Bin(op, left, right):
            return f"({show(left)} {op} {show(right)})"
        case Call(func, args, eps):
            given = [show(each) for each in args] + ([f"eps={float(eps)}"] if eps else [])
            return f"{func}({', '.join(given)})"
        case Index(base, index):
            return f"{show(base)}[{index}]"
    return "?"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("q", "q"),
        ("-q + 2", "((-q) + 2)"),
        ("+q", "q"),
        ("q - k - v", "((q - k) - v)"),
        ("-q**2", "(-(q ** 2))"),
        ("2**-1", "(2 ** (-1))"),
        ("q * K**-0.5 @ S", "((q * (K ** (-(1/2)))) @ S)"),
        ("q / (k / v)", "(q / (k / v))"),
        ("1e-6 + 0.1 + 1_000 + .5 + 2.", "(((((1/1000000) + (1/10)) + 1000) + (1/2)) + 2)"),
        ("l2norm(k, eps=1e-5)", "l2norm(k, eps=1e-05)"),
        ("rmsnorm(q)", "rmsnorm(q)"),
        ("kk[1] + kk[N - 1] + kk[0*2]", "((kk[1] + kk[1]) + kk[0])"),
        ("(q +  # a comment\n   k)", "(q + k)"),
    ],
)
def test_trees(text: str, shown: str) -> None:
    statements, found = read(*f"x = {text}".split("\n"))
    assert not found and show(statements[0].value) == shown


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function(name: str) -> None:
    arguments = ", ".join("qk"[: FUNCTIONS[name].arity])
    if FUNCTIONS[name].reach is Reach.TOKENS:
        # written out as a sum, of inputs alone
        assert errors(f"x = {name}({arguments})") == ["bad-call"]
        arguments += ", b"
    else:
        assert show(tree(f"{name}({arguments})")) == f"{name}({arguments})"
    assert errors(f"x = {name}()") == ["bad-call"]
    assert errors(f"x = {name}({arguments}, v)") == ["bad-call"]
    assert errors(f"x = {name}") == ["unknown-name"]


def test_numbers_are_exact() -> None:
    assert tree("0.1") == Num(Fraction(1, 10), Span(1, 5, 8))
    assert tree("1e-30") == Num(Fraction(1, 10**30), Span(1, 5, 10))
    assert tree("0e999999999") == Num(Fraction(0), Span(1, 5, 16))
    assert tree("0x10") == Num(Fraction(16), Span(1, 5, 9))


def test_spans() -> None:
    (statement,), found = read("    out_ = exp(q) * (k + v)  # why", at=3)
    assert not found
    assert statement.target_span == Span(1, 7, 11)
    assert statement.source == "out_ = exp(q) * (k + v)"
    product = statement.value
    assert isinstance(product, Bin) and product.span == Span(1, 14, 30)
    assert isinstance(product.left, Call)
    assert product.left.span == Span(1, 14, 20)
    assert product.right.span == Span(1, 24, 29)


def test_spans_on_other_rows() -> None:
    (statement,), _ = read("x = (q", "    +  k)", at=3)
    value = statement.value
    assert isinstance(value, Bin)
    # to the end of the first row
    assert value.span == Span(1, 8, 9) and value.right.span == Span(2, 10, 11)
    assert statement.source == "x = (q + k)"


def test_comments_may_hold_any_letters() -> None:
    (statement,), found = read("x = q  # β ( ' \" é")
    assert not found and statement.source == "x = q"


def test_names_may_be_reassigned() -> None:
    statements, found = read("k = l2norm(k)", "S = S + outer(k, v)", "o = q @ S", "o = o * 2")
    assert not found and [each.target for each in statements] == ["k", "S", "o", "o"]


def test_loops_are_unrolled() -> None:
    statements, found = read(
        "for i in range(N):",
        "    S = S + outer(kk[i], bb[i] * (vv[i] - kk[i] @ S))",
        "    for j in range(2):",
        "        x = i * 2 + j",
        "o = q @ S",
    )
    assert not found
    assert [each.target for each in statements] == ["S", "x", "x", "S", "x", "x", "o"]
    assert show(statements[0].value) == "(S + outer(kk[0], (bb[0] * (vv[0] - (kk[0] @ S)))))"
    assert show(statements[3].value) == "(S + outer(kk[1], (bb[1] * (vv[1] - (kk[1] @ S)))))"
    assert show(statements[5].value) == "((1 * 2) + 1)"
    assert statements[5].loop == (("i", 1), ("j", 1)) and statements[6].loop == ()
    assert [each.line for each in statements] == [2, 4, 4, 2, 4, 4, 5]


def test_the_limit_of_statements() -> None:
    assert errors("for i in range(255):", "  x = q", "o = q") == []
    assert errors("for i in range(256):", "  x = q", "o = q") == ["too-many"]
    assert errors("for i in range(16):", " for j in range(16):", "  x = q") == []
    assert errors("for i in range(16):", " for j in range(17):", "  x = q") == ["too-many"]


def test_errors_of_a_loop_are_told_once_a_place() -> None:
    _, found = read("for i in range(200):", "  x = nothing")
    assert len(found) == 1
    _, found = read("for i in range(200):", "  x = kk[i]")
    assert [each.message for each in found] == ["the index 2 is out of range: 'kk' has 2"]


def test_an_error_leaves_the_other_statements() -> None:
    statements, found = read("x = q +", "y = sigmod(k)", "z = x + y + q[", "w = z")
    assert [each.code for each in tidy(found)] == ["bad-syntax", "unknown-function", "bad-syntax"]
    assert [each.target for each in statements] == ["x", "y", "z", "w"]
    assert [isinstance(each.value, Bad) for each in statements] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "code", "carets", "help"),
    [
        ("x = k^2", "bad-operator", "^", "a power is written 'k ** 2'"),
        ("x = q // 2", "bad-operator", "//", "nothing is rounded down"),
        ("S += outer(k, v)", "bad-operator", "+=", "write 'S = S + outer(k, v)'"),
        ("S *= a + b", "bad-operator", "*=", "write 'S = S * (a + b)'"),
        ("x = S.T @ q", "unsupported", ".T", "`x @ S` reads"),
        ("x = S^T @ q", "unsupported", "^", "`x @ S` reads"),
        ("x = torch.exp(q)", "unsupported", "torch.exp", "write 'exp(q)'"),
        ("x = torch.nn.functional.softplus(q)", "unsupported", "torch.nn", "write 'softplus(q)'"),
        ("x = F.normalize(k, dim=-1)", "unsupported", "F.normalize", "write 'l2norm(k)'"),
        ("x = k.sum(-1)", "unsupported", ".sum", "write 'sum(k)'"),
        ("x = (k * q).sum()", "unsupported", ".sum", "write 'sum(k * q)'"),
        ("x = k.float()", "unsupported", ".float", "everything is computed in float32"),
        ("x = k.unsqueeze(-1)", "unsupported", ".unsqueeze", "axes carry names"),
        ("x = log1p(exp(a))", "unknown-function", "log1p", "write 'log(1 + exp(a))'"),
        ("x = mean(k)", "unknown-function", "mean", "write 'sum(k) / K', or '/ V'"),
        ("x = softmax(q @ k)", "unknown-function", "softmax", "no state of fixed size holds"),
        ("x = torch.softmax(q, -1)", "unsupported", "torch.softmax", "every earlier key again"),
        ("x = max(a, b)", "unknown-function", "max", "write 'maximum(a, b)'"),
        ("x = clamp(a, 0, 1)", "unknown-function", "clamp", "minimum(maximum(a, 0), 1)"),
        ("x = kk.sum(0)", "unsupported", ".sum", "without 0 it is 'sum(kk)'"),
        ("x = k.sum(-1, keepdim=True)", "unsupported", ".sum", "write 'sum(k)'"),
        ("x = torch.where(a, b, a)", "unsupported", "torch.where", "can stand in for a choice"),
        ("x = arctan(a)", "unknown-function", "arctan", "the functions are"),
        ("x = 007", "bad-syntax", "007", "write it without"),
        ("x = sigmod(a)", "unknown-function", "sigmod", "did you mean 'sigmoid'?"),
        ("x = k(q)", "unknown-function", "k", "write 'k * (...)'"),
        ("x = l2norm(k, 1e-6)", "bad-call", "1e-6", "write 'eps=1e-6'"),
        ("x = l2norm(k, dim=1)", "bad-call", "dim=1", "only l2norm and rmsnorm"),
        ("x = l2norm(k, eps=-1)", "bad-call", "-1", "such as eps=1e-6"),
        ("x = exp(q, eps=1)", "bad-call", "eps=1", "only l2norm"),
        ("x = exp(**q)", "bad-call", "**q", None),
        ("x == q", "bad-syntax", "x == q", "write 'x = ...'"),
        ("x = q == k", "unsupported", "q == k", "maximum(x, y)"),
        ("x = q and k", "unsupported", "q and k", "maximum(x, y)"),
        ("x = not q", "unsupported", "not q", "maximum(x, y)"),
        ("x = ~q", "unsupported", "~q", None),
        ("x = q if k else v", "unsupported", "q if k else v", "maximum(x, y)"),
        ("x = lambda: q", "unsupported", "lambda: q", None),
        ("x = [q, k]", "unsupported", "[q, k]", None),
        ("x = q, k", "unsupported", "q, k", "one expression a statement"),
        ("x = {q}", "unsupported", "{q}", None),
        ("x = [q for y in k]", "unsupported", "[q for y in k]", None),
        ("x = f'{q}'", "unsupported", "'", None),
        ("x = 'q'", "unsupported", "'", None),
        ("x = (y := q)", "unsupported", "y := q", None),
        ("x = q \\", "unsupported", "\\", "parentheses"),
        ("x = True", "bad-number", "True", None),
        ("x = None", "bad-number", "None", None),
        ("x = ...", "bad-number", "...", None),
        ("x = 2j", "bad-number", "2j", None),
        ("x = 1e400", "bad-number", "1e400", None),
        ("x = 4e38", "bad-number", "4e38", None),
        ("x = 1e-60", "bad-number", "1e-60", None),
        ("x = q**65", "bad-number", "65", None),
        ("x = 9**9**9", "bad-number", "9**9", None),
        ("x = 10**38 * 10", "bad-number", "10**38 * 10", None),
        ("x = q / (K - V)", "bad-number", "K - V", None),
        ("x = 0**-1", "bad-number", "0**-1", None),
        ("x = qq + q", "unknown-name", "qq", "did you mean"),
        ("x = inf", "unknown-name", "inf", "'init' and 'range'"),
        ("x = q[0]", "bad-index", "q[0]", None),
        ("x = kk[2]", "bad-index", "2", "the first is 0"),
        ("x = kk[-1]", "bad-index", "-1", "inputs have one"),
        ("x = kk[0:1]", "bad-index", "0:1", "one index"),
        ("x = kk[0, 1]", "bad-index", "0, 1", "one index"),
        ("x = kk[q]", "bad-index", "q", None),
        ("x = kk[1.0]", "bad-index", "1.0", None),
        ("x = (kk + kk)[0]", "bad-index", "(kk + kk)[0]", None),
        ("x = K[0]", "bad-index", "K[0]", None),
        ("S[0] = q", "bad-target", "S[0]", "write 'S = ...'"),
        ("K = 3", "bad-target", "K", "sizes do not change"),
        ("x, y = q", "bad-target", "x, y", "one name a statement"),
        ("x = y = q", "bad-target", "y", "one name a statement"),
        ("exp = q", "reserved-name", "exp", None),
        ("slots = q", "reserved-name", "slots", None),
        ("tl = q", "reserved-name", "tl", None),
        ("_x = q", "reserved-name", "_x", None),
        ("x: q = k", "unsupported", "q", None),
        ("return q", "unsupported", "return", "write 'o = ...'"),
        ("if q: x = k", "unsupported", "if", "maximum(x, y)"),
        ("import os", "unsupported", "import", None),
        ("exp(q)", "bad-syntax", "exp(q)", "write 'o = ...'"),
        ("x = 2 q", "bad-syntax", "q", None),
        ("x = (2 q)", "bad-syntax", "2 q", "a product is written 'x * y'"),
        ("x = 2q", "bad-syntax", "2q", "a product is written '2 * K'"),
        ("x = (q + k", "bad-syntax", "(", None),
        ("x = (q + k]", "bad-syntax", "]", None),
        ("x = q)", "bad-syntax", ")", None),
        ("x = q; y = k", "bad-syntax", "x = q; y = k", "a statement a line"),
        ("x = q − k", "bad-syntax", "−", "write '-'"),
        ("x = q · k", "bad-syntax", "·", "write '*'"),
        ("x = β * q", "bad-name", "β", "write 'beta'"),
        ("x = Δt * q", "bad-name", "Δt", "write 'Deltat'"),
        ("for i in range(0): ", "bad-loop", "0", None),
        ("for i in range(N)", "bad-syntax", "for i in range(N)", "write 'for i in range(N):'"),
    ],
)
def test_refused(text: str, code: str, carets: str, help: str | None) -> None:
    found = read(text, "  x = q")[1] if text.startswith("for") else read(text)[1]
    first = found[0]
    assert first.code == code and first.span
    shown = text[first.span.column - 1 : first.span.end - 1]
    assert shown.startswith(carets), (shown, first)
    assert help is None or help in (first.help or ""), first.help
    assert len(found) == 1, found


def test_loops_are_refused_with_their_reason() -> None:
    assert only("for i in range(0, 2):", "  x = i").message == "range takes one argument here"
    assert only("for i in kk:", "  x = i").message == "a loop runs over a range"
    assert only("for i, j in range(2):", "  x = q").message == "a loop has one variable"
    assert only("for q in range(2):", "  x = q").code == "bad-loop"
    assert only("for i in range(2):", "  i = 1").code == "bad-target"
    assert (
        only("for i in range(2):", "  x = i", "y = i").help == "a loop variable ends with its loop"
    )
    assert only("for i in range(2):").message == "the loop has no body"
    assert only("for i in range(2): x = i").message.startswith("the body of a loop")
    assert only("for i in range(b):", "  x = i").code == "bad-loop"


def test_a_name_used_before_its_value() -> None:
    found = only("x = y", "y = q")
    assert found.help == "it is assigned on line 2, after its use"


def test_indentation() -> None:
    assert errors("x = q", "  y = q") == ["bad-indent"]
    assert errors("  x = q", "y = q") == ["bad-indent"]
    assert errors("for i in range(2):", "    x = i", "  y = q") == ["bad-indent"]
    assert errors("  x = q", "", "  # a comment", "  y = q") == []
