"""The past of an input: `x[-1]`, and `conv`, which is written out as a sum over it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kvgen.diagnostics import Diagnostic, Span
from kvgen.language.namespace import Scope
from kvgen.language.syntax import Bad, Bin, Call, Expr, Index, Name, Neg, Num, Stmt
from kvgen.values.axes import CHANNELS

# how many tokens an input goes back at most
MOST = 16
# what names of it begin or end with elsewhere
BEFORE = ("past", "prev", "previous", "last", "old", "before", "shifted", "lag", "tm1")

Report = Callable[[str, str, Span, str | None], Bad]


def past_name(name: str) -> str:
    """What the past of an input is called among a row's states."""
    return f"past_{name}"


def index(scope: Scope, base: Name, place: int, span: Span, at: Span, report: Report) -> Expr:
    """`base[place]` of a place below 0. at: where the place stands."""
    if refused := _refused(scope, base.id, f"{base.id}[{place}]"):
        message = f"a negative index is the past of an input, and {refused[0]}"
        return report("bad-index", message, at, refused[1])
    if place < -MOST:
        message = f"'{base.id}' goes back {-place} tokens, at most {MOST} are kept"
        return report("bad-index", message, at, "what reaches further back is a state")
    return Index(base, place, span)


def convolution(scope: Scope, args: Sequence[Expr], span: Span, report: Report) -> Expr:
    """conv(x, w) and conv(x, w, bias): w[W-1] * x + w[W-2] * x[-1] + … + bias."""
    x, weights = args[:2]
    if any(isinstance(each, Bad) for each in args):
        return Bad(span)
    if not isinstance(x, Name) or not isinstance(weights, Name):
        wrong = weights if isinstance(x, Name) else x
        message = "conv takes the names of an input and of its weights"
        help = "activations and factors come after it: silu(conv(x, w))"
        if isinstance(wrong, Num):
            help = "both are declared; weights have the axes of the input, a size of your own first"
        return report("bad-call", message, wrong.span, help)
    if refused := _refused(scope, x.id, f"conv({x.id}, {weights.id})"):
        message = f"conv goes over the past of an input, and {refused[0]}"
        help = refused[1]
        if x.id not in scope.inputs and _refused(scope, weights.id) is None:
            help = f"the input comes first: conv({weights.id}, {x.id})"
        return report("bad-call", message, x.span, help)
    axes, own = scope.axes[x.id], scope.axes.get(weights.id, ())
    width = None if weights.id in scope.assigned else scope.extras.get(weights.id)
    if width is None or own[1:] != axes:
        wanted = ", ".join(("W", *axes))
        message = f"the weights of '{x.id}' have the axes [{wanted}], W a size of your own"
        return report("bad-call", message, weights.span, f"declare them so: w: [{wanted}]")
    if width > MOST + 1:
        message = f"'{weights.id}' has {width} places: it goes back {width - 1} tokens"
        return report("bad-call", message, weights.span, f"at most {MOST} are kept")
    found: Expr | None = None
    for age in range(width):
        token = Index(x, -age, span) if age else x
        term = Bin("*", Index(weights, width - 1 - age, span), token, span)
        found = term if found is None else Bin("+", found, term, span)
    assert found is not None
    if len(args) == 2:
        return found
    bias = args[2]
    sides = {axis for axis in (*axes, *_declared(scope, bias)) if axis in CHANNELS}
    if len(sides) > 1:
        message = f"the bias of '{x.id}' has the axes [{', '.join(axes)}] or fewer"
        return report("bad-call", message, bias.span, f"declare it so: [{', '.join(axes)}]")
    return Bin("+", found, bias, span)


def meant(scope: Scope, name: str) -> str | None:
    """The help on a name that may stand for the past of an input, such as k_prev."""
    for word in BEFORE:
        for base in (name.removesuffix(f"_{word}"), name.removeprefix(f"{word}_")):
            if base in scope.inputs and _refused(scope, base) is None:
                return f"'{base}' as it was a token ago is '{base}[-1]'"
    return None


def _declared(scope: Scope, expr: Expr) -> tuple[str, ...]:
    """The axes of a name as it is declared, as far as that says what it is."""
    if not isinstance(expr, Name) or expr.id in scope.assigned:
        return ()
    return scope.axes.get(expr.id, ())


def _refused(scope: Scope, name: str, wanted: str = "") -> tuple[str, str] | None:
    """Why a name has no past, and what to do; None for an input that has one. wanted: what of its
    past is asked for, as it stands."""
    if name in scope.loops:
        return f"'{name}' is the variable of a loop", "name an input"
    if name in scope.assigned and name in scope.inputs:
        help = f"name it before '{name}' is assigned: before = {wanted}"
        return f"'{name}' is assigned by a statement", help
    if name in scope.sizes:
        return f"'{name}' is a size", "name an input"
    if name in scope.assigned and name not in scope.tensors:
        help = (
            "take the past of the inputs that it is made of, silu(x[-1]) of silu(x); what follows "
            "from more than the last tokens is a carried state"
        )
        return f"'{name}' is no input", help
    if name not in scope.inputs:
        help = (
            "inputs have one; a state is, until it is assigned, as the token before left it, and a "
            "carried one keeps what else the next token needs"
        )
        return f"'{name}' is no input", help
    if scope.extras.get(name) is not None:
        extra = scope.axes[name][0]
        help = "an index counts from 0; a past have inputs without a size of their own"
        return f"'{name}' has the extra size {extra}", help
    return None


def counts(statements: Iterable[Stmt]) -> dict[str, int]:
    """How many tokens each input goes back, by name, of those that do."""
    found: dict[str, int] = {}
    for name, place in _indices(each.value for each in statements):
        if place < 0:
            found[name] = max(found.get(name, 0), -place)
    return found


def _indices(values: Iterable[Expr]) -> Iterator[tuple[str, int]]:
    pending = list(values)
    while pending:
        match pending.pop():
            case Index(base=Name(id=name), index=place):
                yield name, place
            case Neg(value=inner):
                pending.append(inner)
            case Bin(left=left, right=right):
                pending += (left, right)
            case Call(args=args):
                pending += args


def clashes(
    kept: Iterable[str], spans: Mapping[str, Span], statements: Iterable[Stmt]
) -> Iterator[Diagnostic]:
    """Names that the past of an input has already. spans: where names are declared."""
    assigned = {each.target: each.target_span for each in statements}
    for name in kept:
        taken = past_name(name)
        span = spans.get(taken) or assigned.get(taken)
        if span:
            message = f"'{taken}' is what the past of '{name}' is called"
            yield Diagnostic("duplicate-name", message, span, "choose another name")
