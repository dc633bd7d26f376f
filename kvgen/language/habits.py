"""What people write from habit, and how the language says it."""

from __future__ import annotations

import ast

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
    "max": "maximum({0}, {1})",
    "min": "minimum({0}, {1})",
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
    "logsumexp": "logaddexp({0}, {1})",
}

# help on calls that no other call stands for; {0}: the argument
IDENTITY = "I is the identity: (I - outer(k, b * k)) @ S is S - outer(k, b * (k @ S))"
DIAGONAL = "a diagonal matrix is a vector that multiplies: w * S, or (w * I - outer(k, k)) @ S"
ADVICE = {
    "eye": IDENTITY,
    "identity": IDENTITY,
    "diag": DIAGONAL,
    "Diag": DIAGONAL,
    "mean": "write 'sum({0}) / K', or '/ V' of a vector over V",
    "softmax": "a softmax over the past asks for every earlier key again, which no state of fixed "
    "size holds; `kvgen show mlstm` has exponential gates with a carried maximum in its place",
}

# calls that say nothing here: everything is float32, and axes carry names
NOTHING = {
    "float": "everything is computed in float32",
    "to": "everything is computed in float32",
    "astype": "everything is computed in float32",
    "type": "everything is computed in float32",
    "float32": "everything is computed in float32",
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


def instead(function: str, arguments: list[str]) -> str | None:
    """How to write a call of another library's function."""
    shown = [each if len(each) <= 40 and "\n" not in each else "x" for each in arguments[:2]]
    if function in ADVICE:
        return ADVICE[function].format(*(shown or "x"))
    if function not in FUNCTIONS:
        return None
    return f"write '{FUNCTIONS[function].format(*shown, *'xy'[len(shown) :])}'"
