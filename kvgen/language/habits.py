"""What people write from habit, and how the language says it."""

from __future__ import annotations

import ast

from kvgen.formats.dtypes import BFLOAT16, FLOATS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


GELU = "0.5 * {0} * (1 + tanh(0.79788456 * ({0} + 0.044715 * {0} ** 3)))"

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
    "celu": "relu({0}) + exp(minimum({0}, 0)) - 1",
    "selu": "1.0507010 * relu({0}) + 1.7580993 * (exp(minimum({0}, 0)) - 1)",
    "relu2": "relu({0}) ** 2",
    "sqrelu": "relu({0}) ** 2",
    "relu_squared": "relu({0}) ** 2",
    "squared_relu": "relu({0}) ** 2",
    "softsign": "{0} / (1 + abs({0}))",
    "mish": "{0} * tanh(softplus({0}))",
    "gelu_tanh": GELU,
    "quick_gelu": "{0} * sigmoid(1.702 * {0})",
    "hardswish": "{0} * minimum(maximum({0} / 6 + 0.5, 0), 1)",
    "hard_sigmoid": "minimum(maximum({0} / 6 + 0.5, 0), 1)",
    "hardtanh": "minimum(maximum({0}, -1), 1)",
    "hardsigmoid": "minimum(maximum({0} / 6 + 0.5, 0), 1)",
    "sign": "{0} / (abs({0}) + 1e-30)",
    "sgn": "{0} / (abs({0}) + 1e-30)",
    "tan": "sin({0}) / cos({0})",
    "atanh": "log((1 + {0}) / (1 - {0})) / 2",
    "arctanh": "log((1 + {0}) / (1 - {0})) / 2",
    "logit": "log({0} / (1 - {0}))",
    "exp10": "10 ** {0}",
    "fabs": "abs({0})",
    "absolute": "abs({0})",
    "sinh": "(exp({0}) - exp(-{0})) / 2",
    "cosh": "(exp({0}) + exp(-{0})) / 2",
    "log10": "log({0}) / log(10)",
    "cosine_similarity": "l2norm({0}, eps=1e-16) @ l2norm({1}, eps=1e-16)",
    "vdot": "{0} @ {1}",
    "fmax": "maximum({0}, {1})",
    "fmin": "minimum({0}, {1})",
    "clamp_min": "maximum({0}, {1})",
    "clamp_max": "minimum({0}, {1})",
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
    "norm": "sqrt(sum({0} ** 2))",
    "rms_norm": "rmsnorm({0})",
    "l2_norm": "l2norm({0})",
    "ger": "outer({0}, {1})",
    "logsumexp": "log(sum(exp({0})))",
}

# the same with arguments that are often left out: their names, and what to write with all of them
WITH = {
    "leaky_relu": (("negative_slope",), "relu({0}) - {1} * relu(-{0})"),
    "elu": (("alpha",), "relu({0}) + {1} * (exp(minimum({0}, 0)) - 1)"),
    "celu": (("alpha",), "relu({0}) + {1} * (exp(minimum({0} / {1}, 0)) - 1)"),
    "hardtanh": (("min_val", "max_val"), "minimum(maximum({0}, {1}), {2})"),
    "l2_norm": (("eps",), "l2norm({0}, eps={1})"),
    "rms_norm": (("eps",), "rmsnorm({0}, eps={1})"),
}

# arguments that change nothing of a value here, by their texts; None: whatever they are
PLAIN: dict[str, tuple[str, ...] | None] = {
    "dim": ("-1",),
    "axis": ("-1",),
    "keepdim": None,
    "keepdims": None,
    "inplace": None,
    "dtype": None,
    "threshold": None,
    "p": ("2", "2.0"),
    "ord": ("2", "2.0"),
    "beta": ("1", "1.0"),
    "unbiased": ("False",),
    "correction": ("0",),
    "ddof": ("0",),
}
# functions that go over an axis, and what they may be given first that says nothing here
OVER: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        _words("""
        sum mean prod std var softmax logsumexp max min amax amin nanmax nanmin cumsum cumprod
        argmax argmin topk sort median
    """),
        ("-1",),
    ),
    **dict.fromkeys(("norm", "normalize"), ("2", "2.0")),
}

# help on calls that no other call stands for; {0}: the argument
IDENTITY = "I is the identity: (I - outer(k, b * k)) @ S is S - outer(k, b * (k @ S))"
DIAGONAL = "a diagonal matrix is a vector that multiplies: w * S, or (w * I - outer(k, k)) @ S"
OF_VALUES = "or '/ V' of vectors over V"
LAYERNORM = f"write 'y = {{0}} - sum({{0}}) / K' and 'y / sqrt(sum(y * y) / K + 1e-5)', {OF_VALUES}"
VARIANCE = "sum(({0} - m) ** 2) / K"
UNBIASED = "torch divides by K - 1 unless it is told otherwise"
UNIT = (
    "write 'l2norm({0})', which adds 1e-6 to the sum of squares, or as torch has it "
    "'{0} / maximum(sqrt(sum({0} ** 2)), 1e-12)'"
)
CONVOLVED = (
    "the convolution over a token and those before it is 'conv({0}, w)', with w: [W, *axes of {0}] "
    "as a parameter, the oldest first, or 'conv({0}, w, bias)'"
)
SHIFTED = "an input as it was a token ago is 'x[-1]', two tokens ago 'x[-2]'"
GROUPED = (
    "a norm is over K or V of one head: 'rmsnorm({0})', or layernorm written out; one that several "
    "heads share stays the model's, behind 'o'"
)
CHOOSING = "nothing is chosen or sorted: a value has the same form for every token"
INVERSE = "nothing is solved or inverted: a state is read, x @ S or S @ y, not divided by"
JOINING = "nothing is joined: what belongs together is one input, and its extra axis is indexed"
ADVICE = {
    "eye": IDENTITY,
    "identity": IDENTITY,
    "diag": DIAGONAL,
    "Diag": DIAGONAL,
    "std": f"write 'sqrt({VARIANCE})' with 'm = sum({{0}}) / K', {OF_VALUES}; {UNBIASED}",
    "var": f"write '{VARIANCE}' with 'm = sum({{0}}) / K', {OF_VALUES}; {UNBIASED}",
    "layernorm": LAYERNORM,
    "layer_norm": LAYERNORM,
    "normalize": UNIT,
    "gelu": f"the exact one has erf, which is not of the language; within 5e-4 of it is '{GELU}'",
    "prod": "nothing is multiplied over an axis; of what is above 0 it is 'exp(sum(log({0})))'",
    "cumsum": "tokens come one by one: a sum over them is a state, n = n + {0}",
    "cumprod": "tokens come one by one: a product over them is a state, n = n * {0}, with init: 1",
    "conv1d": CONVOLVED,
    "causal_conv1d": CONVOLVED,
    "causal_conv1d_fn": CONVOLVED,
    "causal_conv1d_update": CONVOLVED,
    **dict.fromkeys(("shift", "roll", "token_shift", "prev", "previous", "delay", "lag"), SHIFTED),
    "group_norm": GROUPED,
    "groupnorm": GROUPED,
    "round": "nothing is rounded to an integer; to a bfloat16 it is 'rounded({0})'",
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

# of these the help says how they are written, of what they are given alone
SPELT = ("mean", "std", "var", "prod", "layernorm", "layer_norm", "normalize", "softmax", "gelu")

# functions that the language has nothing for, so that no name of it is a slip of theirs
NOWHERE = _words("""
    acos acosh arccos arccosh arcsin arcsinh arctan arctan2 asin asinh atan atan2 batchnorm
    cos_sim cosec cot cov cross divmod erf fmod frexp geglu glu groupnorm hypot imag
    instancenorm isin isqrt l1norm ldexp linf_norm logaddexp2 logcosh logdet lu mod msort
    nansum norm1 norm2 prelu psi qr ravel real reduce reglu remainder renorm rnn_relu
    rnn_tanh rrelu sec signbit sinc slogdet softmin sq sqr sqrtm sumexp sumsq swiglu
    tanhshrink xlog1py xlogy
""")

# calls that say nothing here: everything is float32, and axes carry names
SINGLE = "everything is computed in float32"
ROUNDED = f"{SINGLE}; where a model rounds on its way, write 'rounded(x)'"
NOTHING = {
    **dict.fromkeys(("float", "to", "astype", "type", "cast"), SINGLE),
    **{dtype.name: SINGLE for dtype in FLOATS},
    **dict.fromkeys((BFLOAT16.name, "bf16"), ROUNDED),
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

# numbers that have names elsewhere, and what is said of them
NUMBERS = {
    "pi": "write 3.141592653589793",
    "tau": "write 6.283185307179586",
    "e": "write 'exp(1)', and 'exp(x)' for a power of it",
    **dict.fromkeys(("inf", "nan"), "inf stands only in 'init' and 'range'"),
}

TRANSPOSES = ("T", "mT", "H", "mH", "t", "transpose", "swapaxes", "permute")
TRANSPOSE_HELP = "`x @ S` reads with a key-side vector, `S @ y` with a value-side one"

MODULES = ("torch", "np", "numpy", "jnp", "jax", "tl", "triton", "math", "F", "nn", "sympy")

CHOICE = "maximum(x, y), minimum(x, y) or relu(x) can stand in for a choice"


# operators that are not of the language; {0}, {1}: the sides
OPERATORS: dict[type[ast.operator], tuple[str, str | None]] = {
    ast.BitXor: ("^", "a power is written '{0} ** {1}'"),
    ast.FloorDiv: ("//", "nothing is rounded down: for the quotient itself write '{0} / {1}'"),
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
