"""What people write from habit, and how the language says it."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from kvgen.formats.dtypes import FLOATS

# functions of other libraries, by what to write instead; {0}, {1}: the arguments
FUNCTIONS = {
    "log1p": "log(1 + {0})",
    "expm1": "exp({0}) - 1",
    "exp2": "2 ** {0}",
    "log2": "log({0}) / log(2)",
    "rsqrt": "{0} ** -0.5",
    "square": "{0} ** 2",
    "pow": "{0} ** {1}",
    "power": "{0} ** {1}",
    "reciprocal": "1 / {0}",
    "relu6": "minimum(relu({0}), 6)",
    "leaky_relu": "maximum({0}, 0.01 * {0})",
    "elu": "relu({0}) + exp(minimum({0}, 0)) - 1",
    "softsign": "{0} / (1 + abs({0}))",
    "mish": "{0} * tanh(softplus({0}))",
    "gelu": "0.5 * {0} * (1 + tanh(0.79788456 * ({0} + 0.044715 * {0} ** 3)))",
    "hardtanh": "minimum(maximum({0}, -1), 1)",
    "hardsigmoid": "minimum(maximum({0} / 6 + 0.5, 0), 1)",
    "sign": "{0} / (abs({0}) + 1e-30)",
    "sinh": "(exp({0}) - exp(-{0})) / 2",
    "cosh": "(exp({0}) + exp(-{0})) / 2",
    "log10": "log({0}) / log(10)",
    "cosine_similarity": "l2norm({0}) @ l2norm({1})",
    "vdot": "{0} @ {1}",
    "fmax": "maximum({0}, {1})",
    "fmin": "minimum({0}, {1})",
    "clamp": "minimum(maximum({0}, low), high)",
    "clip": "minimum(maximum({0}, low), high)",
    "dot": "{0} @ {1}",
    "matmul": "{0} @ {1}",
    "mm": "{0} @ {1}",
    "bmm": "{0} @ {1}",
    "inner": "{0} @ {1}",
    "mul": "{0} * {1}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "negative": "-{0}",
    "swish": "silu({0})",
    "log_sigmoid": "logsigmoid({0})",
    "expit": "sigmoid({0})",
    "sigma": "sigmoid({0})",
    "normalize": "l2norm({0})",
    "norm": "sqrt(sum({0} ** 2))",
    "rms_norm": "rmsnorm({0})",
    "l2_norm": "l2norm({0})",
    "ger": "outer({0}, {1})",
}

# help on calls that no other call stands for; {0}: the argument
IDENTITY = "I is the identity: (I - outer(k, b * k)) @ S is S - outer(k, b * (k @ S))"
DIAGONAL = "a diagonal matrix is a vector that multiplies: w * S, or (w * I - outer(k, k)) @ S"
LAYERNORM = "write 'y = {0} - sum({0}) / K' and 'y / sqrt(sum(y * y) / K + 1e-5)'"
CHOOSING = "nothing is chosen or sorted: a value has the same form for every token"
INVERSE = "nothing is solved or inverted: a state is read, x @ S or S @ y, not divided by"
JOINING = "nothing is joined: what belongs together is one input, and its extra axis is indexed"
ADVICE = {
    "eye": IDENTITY,
    "identity": IDENTITY,
    "diag": DIAGONAL,
    "Diag": DIAGONAL,
    "std": "the square root of the variance: sqrt(sum(({0} - m) ** 2) / K) with m = sum({0}) / K",
    "var": "write 'sum(({0} - m) ** 2) / K' with 'm = sum({0}) / K', or '/ V' of vectors over V",
    "layernorm": LAYERNORM,
    "layer_norm": LAYERNORM,
    "prod": "nothing is multiplied over an axis; of what is above 0 it is 'exp(sum(log({0})))'",
    "cumsum": "tokens come one by one: a sum over them is a state, n = n + {0}",
    "cumprod": "tokens come one by one: a product over them is a state, n = n * {0}, with init: 1",
    "argmax": CHOOSING,
    "argmin": CHOOSING,
    "topk": CHOOSING,
    "sort": CHOOSING,
    "median": CHOOSING,
    "einsum": "x @ S and S @ y read the state, x @ y is a dot, outer(k, v) is a write",
    "inv": INVERSE,
    "inverse": INVERSE,
    "solve": INVERSE,
    "cat": JOINING,
    "concat": JOINING,
    "concatenate": JOINING,
    "stack": JOINING,
    "zeros": "a number stands for a value of any axes: write 0",
    "zeros_like": "a number stands for a value of any axes: write 0",
    "ones": "a number stands for a value of any axes: write 1",
    "ones_like": "a number stands for a value of any axes: write 1",
    "mean": "write 'sum({0}) / K', or '/ V' of a vector over V",
    "softmax": "over the channel of one token it is exp({0}) / sum(exp({0})); over the past it "
    "asks for every earlier key again, which no state of fixed size holds: `kvgen show mlstm` has "
    "exponential gates with a carried maximum in its place",
}

# calls that say nothing here: everything is float32, and axes carry names
NOTHING = {
    "float": "everything is computed in float32",
    "to": "everything is computed in float32",
    "astype": "everything is computed in float32",
    "type": "everything is computed in float32",
    **{dtype.name: "everything is computed in float32" for dtype in FLOATS},
    "contiguous": "layouts are the compiler's business",
    "clone": "names may be reassigned, nothing is updated in place",
    "detach": "there are no gradients",
    "unsqueeze": "axes carry names: a factor without an axis is broadcast along it",
    "squeeze": "axes carry names: a factor without an axis is broadcast along it",
    "expand": "axes carry names: a factor without an axis is broadcast along it",
    "reshape": "axes carry names: a factor without an axis is broadcast along it",
    "view": "axes carry names: a factor without an axis is broadcast along it",
    "repeat_interleave": "H meets HV by grouping",
}

TRANSPOSES = ("T", "mT", "H", "mH", "t", "transpose", "swapaxes", "permute")
TRANSPOSE_HELP = "`x @ S` reads with a key-side vector, `S @ y` with a value-side one"

MODULES = ("torch", "np", "numpy", "jnp", "jax", "tl", "triton", "math", "F", "nn", "sympy")

CHOICE = "maximum(x, y), minimum(x, y) or relu(x) can stand in for a choice"


# operators that are not of the language; {0}, {1}: the sides
OPERATORS: dict[type[ast.operator], tuple[str, str | None]] = {
    ast.BitXor: ("^", "a power is written '{0} ** {1}'"),
    ast.FloorDiv: ("//", "write '{0} / {1}'"),
    ast.Mod: ("%", None),
    ast.LShift: ("<<", None),
    ast.RShift: (">>", None),
    ast.BitAnd: ("&", None),
    ast.BitOr: ("|", None),
}
# what else an expression of Python can be made of
PARTS: dict[type[ast.expr], tuple[str, str | None]] = {
    ast.Compare: ("a comparison", CHOICE),
    ast.BoolOp: ("a condition", CHOICE),
    ast.IfExp: ("a condition", CHOICE),
    ast.Lambda: ("a lambda", None),
    ast.NamedExpr: ("':='", "assign in a statement of its own"),
    ast.ListComp: ("a comprehension", "loops are statements: for i in range(N):"),
    ast.SetComp: ("a comprehension", "loops are statements: for i in range(N):"),
    ast.DictComp: ("a comprehension", "loops are statements: for i in range(N):"),
    ast.GeneratorExp: ("a comprehension", "loops are statements: for i in range(N):"),
    ast.Tuple: ("a comma", "one expression a statement"),
    ast.List: ("a list", None),
    ast.Set: ("a set", None),
    ast.Dict: ("a dict", None),
    ast.JoinedStr: ("text", None),
    ast.Starred: ("a star", None),
    ast.Await: ("await", None),
    ast.Yield: ("yield", None),
    ast.YieldFrom: ("yield", None),
}


# the largest or the least: of several values, or over an axis
CHOICES = {
    **dict.fromkeys(("max", "amax", "nanmax"), ("maximum", "largest")),
    **dict.fromkeys(("min", "amin", "nanmin"), ("minimum", "least")),
}
# arguments that say over which axis
AXIS = ("dim", "axis", "keepdim", "keepdims")


# where an argument stands in a template
_PLACE = re.compile(r"(?<!\{)\{([01])\}")


def filled(template: str, arguments: Sequence[str]) -> str:
    """The template with its arguments, in brackets where its operators would part them."""

    def put(place: re.Match[str]) -> str:
        text = arguments[int(place[1])]
        before, after = template[: place.start()].rstrip(), template[place.end() :]
        alone = before.endswith(("(", ",")) and after.startswith((")", ","))
        return text if alone or _whole(text) else f"({text})"

    return _PLACE.sub(put, template)


def _whole(text: str) -> bool:
    """Whether no operator beside it would take only a part of it."""
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    plain = ast.Name | ast.Constant | ast.Call | ast.Subscript | ast.Attribute
    return isinstance(node, plain)


def instead(
    function: str, arguments: list[str], keywords: Sequence[str] = (), alone: bool = True
) -> str | None:
    """How to write a call of another library's function. alone: whether no operator stands beside
    the call."""
    shown = [each if len(each) <= 40 and "\n" not in each else "x" for each in arguments]
    if function == "logsumexp":
        if len(shown) == 2:
            return f"write 'logaddexp({shown[0]}, {shown[1]})'"
        return f"write 'log(sum(exp({shown[0] if shown else 'x'})))'"
    if function in CHOICES:
        name, what = CHOICES[function]
        if len(shown) < 2 or set(keywords) & set(AXIS):
            return (
                f"nothing takes the {what} over K or V; '{name}(x, y)' is of two values, and takes "
                f"it over an extra axis in a loop: m = {name}(m, x[i])"
            )
        nested = shown[0]
        for each in shown[1:4]:
            nested = f"{name}({nested}, {each})"
        return f"write '{nested}'"
    if function in ADVICE:
        return filled(ADVICE[function], shown[:1] or ["x"])
    if function not in FUNCTIONS:
        return None
    given = shown[:2]
    written = filled(FUNCTIONS[function], [*given, *"xy"[len(given) :]])
    return f"write '{written}'" if alone or _whole(written) else f"write '({written})'"
