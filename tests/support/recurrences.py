"""Random recurrences that the language allows, and the language on plain arrays as their oracle.

The oracle executes a spec's `step` as the Python it looks like, on arrays that always have the five
dimensions [rows, extra, HV, K, V], of length 1 where an axis is missing. It shares nothing with
kvgen, neither a parser nor axes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

PLACES = {"rows": 0, "N": 1, "H": 2, "HV": 2, "K": 3, "V": 4}
MATRIX = ("HV", "K", "V")


# the oracle -------------------------------------------------------------------------------------


class Value:
    """An array [rows, extra, HV, K, V] under the operators of the language."""

    __array_priority__ = 1

    def __init__(self, array) -> None:
        self.array = np.asarray(array, dtype=np.float64)
        if self.array.ndim == 0:
            self.array = self.array.reshape(1, 1, 1, 1, 1)

    def __getitem__(self, place: int) -> Value:
        return Value(self.array[:, place : place + 1])

    def __neg__(self) -> Value:
        return Value(-self.array)

    def __matmul__(self, other: Value) -> Value:
        left, right = self.array.shape, other.array.shape
        # a matrix on the left is contracted over V, one on the right over K
        over = 4 if left[3] > 1 and left[4] > 1 else 3
        if not (left[3] > 1 and left[4] > 1) and not (right[3] > 1 and right[4] > 1):
            over = 3 if left[3] > 1 else 4
        return Value((self.array * other.array).sum(over, keepdims=True))


def _operator(name: str, function) -> None:
    setattr(Value, f"__{name}__", lambda x, y: Value(function(x.array, _array(y))))
    setattr(Value, f"__r{name}__", lambda x, y: Value(function(_array(y), x.array)))


def _array(value) -> np.ndarray:
    return value.array if isinstance(value, Value) else Value(value).array


for _name, _function in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.divide,
    "pow": np.power,
}.items():
    _operator(_name, _function)


def _channel(x: Value) -> int:
    return 3 if x.array.shape[3] > 1 else 4


def _softplus(x):
    return np.logaddexp(x, 0.0)


def _norm(x: Value, eps: float, mean: bool) -> Value:
    squares = (x.array**2).sum(_channel(x), keepdims=True)
    squares = squares / (x.array.shape[_channel(x)] if mean else 1)
    return Value(x.array / np.sqrt(squares + eps))


def _lifted(function):
    return lambda *args: Value(function(*map(_array, args)))


FUNCTIONS = {
    name: _lifted(function)
    for name, function in {
        "exp": np.exp,
        "log": np.log,
        "sqrt": np.sqrt,
        "tanh": np.tanh,
        "abs": np.abs,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "silu": lambda x: x / (1 + np.exp(-x)),
        "relu": lambda x: np.maximum(x, 0.0),
        "softplus": _softplus,
        "logsigmoid": lambda x: -_softplus(-x),
        "logaddexp": np.logaddexp,
        "minimum": np.minimum,
        "maximum": np.maximum,
        "outer": np.multiply,
    }.items()
} | {
    "sum": lambda x: Value(x.array.sum(_channel(x), keepdims=True)),
    "l2norm": lambda x, eps=1e-6: _norm(x, eps, False),
    "rmsnorm": lambda x, eps=1e-6: _norm(x, eps, True),
    "range": range,
}


def value_of(array, axes: tuple[str, ...], ratio: int) -> Value:
    """A tensor with its rows in front ([rows, *axes]), heads repeated for the value heads."""
    shape = [1] * 5
    array = np.asarray(array, dtype=np.float64)
    for place, axis in enumerate(axes, 1):
        if axis == "H":
            array = array.repeat(ratio, place)
        shape[PLACES[axis]] = array.shape[place]
    shape[0] = array.shape[0]
    return Value(array.reshape(shape))


def step(recurrence: Recurrence, tensors: dict, state: dict) -> tuple[np.ndarray, dict]:
    """One token: inputs and parameters [rows, *axes] and states -> o [rows, HV, V], new states."""
    ratio = recurrence.sizes["HV"] // recurrence.sizes["H"]
    axes = {**recurrence.inputs, **recurrence.params, **recurrence.states}
    names = {n: value_of(x, axes[n], ratio) for n, x in {**tensors, **state}.items()}
    names |= {name: size for name, size in recurrence.sizes.items() if name not in names}
    code = "\n".join(recurrence.step)
    exec(code, {**FUNCTIONS, "__builtins__": {}}, names)
    rows = max(len(x) for x in tensors.values())
    new = {}
    for name, wanted in recurrence.states.items():
        shape = [rows, 1, 1, 1, 1]
        for axis in wanted:
            shape[PLACES[axis]] = recurrence.sizes["HV" if axis == "H" else axis]
        full = np.broadcast_to(_array(names[name]), shape)
        full = full[:, :, ::ratio] if "H" in wanted else full
        kept = [rows, *(recurrence.sizes[axis] for axis in wanted)]
        new[name] = full.reshape(kept)
    shape = [rows, 1, recurrence.sizes["HV"], 1, recurrence.sizes["V"]]
    return np.broadcast_to(_array(names["o"]), shape).reshape(rows, shape[2], shape[4]), new


# random recurrences -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What the generator knows of a name: its axes, and whether it depends on a read."""

    extra: bool
    head: str | None
    channel: str
    reads: bool


@dataclass
class Recurrence:
    """A random spec in parts."""

    sizes: dict[str, int]
    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    params: dict[str, tuple[str, ...]] = field(default_factory=dict)
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: dict[str, str] = field(default_factory=dict)
    inits: dict[str, float] = field(default_factory=dict)
    step: list[str] = field(default_factory=list)
    storage: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        lines = ["kvgen: 1", "name: random_recurrence"]
        lines += [f"sizes: {{{', '.join(f'{n}: {s}' for n, s in self.sizes.items())}}}"]
        for section in ("inputs", "params", "states"):
            tensors = getattr(self, section)
            if tensors:
                lines.append("state:" if section == "states" else f"{section}:")
            for name, axes in tensors.items():
                entry = f"axes: [{', '.join(axes)}]"
                entry += f", range: {self.ranges[name]}" if name in self.ranges else ""
                entry += f", init: {self.inits[name]}" if name in self.inits else ""
                lines.append(f"  {name}: {{{entry}}}")
        lines += ["step: |", *(f"  {line}" for line in self.step)]
        storage = ", ".join(f"{key}: {value}" for key, value in self.storage.items())
        return "\n".join([*lines, f"storage: {{{storage}}}", ""])


class Generator:
    """Draws one recurrence; every state stays bounded, so that errors are of rounding only."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        draw = self.draw
        heads = draw.choice([1, 1, 2])
        sizes = {"H": heads, "HV": heads * draw.choice([1, 2, 3] if heads == 1 else [1, 2])}
        sizes |= {"K": draw.randint(3, 20), "V": draw.randint(3, 20)}
        self.extra = draw.randint(1, 3) if draw.random() < 0.4 else 0
        sizes |= {"N": self.extra} if self.extra else {}
        self.made = Recurrence(sizes)
        self.names: dict[str, Known] = {}
        self.count = 0
        self.indent = ""
        self.loop: str | None = None

    def chance(self, probability: float) -> bool:
        return self.draw.random() < probability

    def fresh(self, prefix: str = "x") -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # -- declarations

    def tensor(self, section: str, name: str, channel: str, heads=(None, "H", "HV", "HV")) -> None:
        extra = bool(self.extra) and section == "inputs" and self.chance(0.35)
        head = self.draw.choice(heads)
        axes = (*(["N"] if extra else []), *([head] if head else []), *channel)
        getattr(self.made, section)[name] = axes
        if section != "states" and not channel and self.chance(0.25):
            self.made.ranges[name] = "[0, 1]"
        self.names[name] = Known(extra, head, channel, False)

    def declare(self) -> None:
        for name, channel in (("q", "K"), ("k", "K"), ("v", "V")):
            self.tensor("inputs", name, channel)
        self.tensor("inputs", "g", "", ("HV",))
        for name in ("a", "b", "r", "w", "u", "f"):
            if self.chance(0.5):
                self.tensor("inputs", name, self.draw.choice(["", "", "K", "V"]))
        for name in ("A_log", "bias", "D"):
            if self.chance(0.4):
                self.tensor("params", name, self.draw.choice(["", "K", "V"]))
        self.made.states["S"] = MATRIX
        allowed = [(), ("H",), ("HV",), ("K",), ("H", "K"), ("HV", "K"), ("HV", "V")]
        for name in ("n", "m"):
            if self.chance(0.45):
                axes = self.draw.choice(allowed)
                self.made.states[name] = axes
                head = next((axis for axis in axes if axis[0] == "H"), None)
                channel = next((axis for axis in axes if axis in "KV"), "")
                self.names[name] = Known(False, head, channel, False)
                if self.chance(0.3):
                    self.made.inits[name] = 0.5
        if self.chance(0.2):
            self.made.inits["S"] = 0.25

    # -- expressions: every value is of the order of 1

    def leaf(self, channel: str, reads: bool, heads=(None, "H", "HV")) -> str | None:
        found = []
        for name, known in self.names.items():
            if known.channel == channel and (reads or not known.reads) and known.head in heads:
                if not known.extra:
                    found.append(name)
                elif self.loop is not None:
                    found.append(f"{name}[{self.loop}]")
                else:
                    found.append(f"{name}[{self.draw.randrange(self.extra)}]")
        return self.draw.choice(found) if found else None

    def vector(self, channel: str, reads: bool = True, depth: int = 2, heads=(None, "H", "HV")):
        """A vector over the channel, or None where no name has one."""
        x = self.leaf(channel, reads, heads)
        if x is None or depth == 0 or self.chance(0.25):
            return x
        x = self.vector(channel, reads, depth - 1, heads)
        kind = self.draw.randrange(14)
        if kind < 4:
            y = self.vector(channel, reads, depth - 1, heads)
            forms = ("tanh({x} + {y})", "tanh({x}) * sigmoid({y})", "{x} - 0.5 * {y}")
            forms += ("maximum({x}, {y})", "{x} / (1 + abs({y}))", "minimum({x}, {y} + 0.5)")
            return "(" + self.draw.choice(forms).format(x=x, y=y) + ")"
        if kind < 7:
            sign = self.draw.choice(["*", "*", "+", "-"])
            return f"({self.scalar(reads, depth - 1, heads)} {sign} {x})"
        forms = ("l2norm({x})", "rmsnorm({x}, eps=1e-3)", "-{x}", "silu({x})", "relu({x})")
        forms += ("l2norm({x} + 0.5)", "({x} + 0.25)", "tanh({x})**2", "softplus({x})")
        forms += ("logsigmoid({x})", "exp(-{x}**2)", "sqrt(abs({x}) + 0.01)", "abs({x})**0.5")
        forms += ("logaddexp({x}, 0.3)", "cut({x})")
        form = self.draw.choice(forms).replace("cut({x})", "minimum(maximum({x}, -0.7), 0.8)")
        return form.format(x=x)

    def scalar(self, reads: bool = True, depth: int = 2, heads=(None, "H", "HV")) -> str:
        kind = self.draw.randrange(5) if depth else 0
        channel = self.draw.choice("KV")
        x = self.vector(channel, reads, depth - 1, heads) if kind in (1, 2) else None
        if x is not None:
            y = self.vector(channel, reads, depth - 1, heads)
            if kind == 1:
                return f"tanh({x} @ {y})"
            return self.draw.choice(["tanh(sum({x}) / 4)", "sigmoid(sum({x}**2) - 3)"]).format(x=x)
        x = self.leaf("", reads, heads) or "0.7"
        return self.draw.choice(["{x}", "tanh({x})", "silu({x})", "sigmoid({x})"]).format(x=x)

    def gate(self, channel: str, reads: bool, heads=(None, "H", "HV"), depth: int = 2) -> str:
        """A value in (0, 1) that is proved to be >= 0."""
        x = self.vector(channel, reads, 1, heads) if channel else self.scalar(reads, 1, heads)
        if x is None:
            return "0.9"
        if depth and self.chance(0.25):
            first, second = (self.gate(channel, reads, heads, depth - 1) for _ in range(2))
            forms = ("{x} * {y}", "minimum({x}, {y})", "maximum({x}, {y})", "(0.5 * ({x} + {y}))")
            forms += ("(1 - {x} * {y} / 2)", "({x} / (1 + {y}))", "{x}**0.5", "({x}**2)")
            return "(" + self.draw.choice(forms).format(x=first, y=second) + ")"
        forms = ("sigmoid({x} + 2)", "exp(-softplus({x}))", "exp(-0.3 * abs({x}))", "0.875")
        forms += ("(1 - sigmoid({x}))", "exp(-exp(tanh({x}) - 2))", "exp(logsigmoid({x} + 1))")
        forms += ("(1 - 0.5 * sigmoid({x}))", "sqrt(sigmoid({x}))", "sigmoid({x})**0.5")
        forms += ("exp(-relu({x}))", "(tanh({x})**2)", "exp({x} - maximum({x}, 0.4))")
        forms += ("(1 / (1 + exp({x})))", "exp({x} - logaddexp({x}, -0.5))", "abs(tanh({x}))")
        return self.draw.choice(forms).format(x=x)

    # -- statements

    def line(self, target: str, text: str, channel: str = "", head="HV", reads=True) -> None:
        self.made.step.append(f"{self.indent}{target} = {text}")
        if target not in ("S", "o"):
            self.names[target] = Known(False, head, channel, reads)

    def assign(self) -> None:
        """A new name, or an old one anew."""
        channel, reads = self.draw.choice(["K", "K", "V", "V", ""]), self.chance(0.5)
        text = self.vector(channel, reads) if channel else self.scalar(reads)
        if text is None:
            return
        old = [
            name
            for name, known in self.names.items()
            if known.channel == channel
            and name not in self.made.states
            and (reads or not known.reads)
            # a gate keeps its axes, as carried states of fewer axes are made of it
            and known.head == "HV"
        ]
        name = self.draw.choice(old) if old and self.chance(0.5) else self.fresh()
        self.line(name, text, channel, reads=reads and self.tainted)

    @property
    def tainted(self) -> bool:
        return any(known.reads for known in self.names.values())

    def decay(self) -> None:
        channel = self.draw.choice(["", "", "K", "V", "KV"])
        parts = [self.gate(each, reads=False) for each in channel or [""]]
        self.line("S", " * ".join([*parts, "S"]) if self.chance(0.8) else f"S * ({parts[0]})")

    def key(self, reads: bool) -> str:
        return f"l2norm({self.vector('K', reads)})"

    def read(self, source: str = "S") -> str | None:
        """A read gets a name, whose channel is the other one of the vector's."""
        over = self.draw.choice(["K", "K", "K", "V"])
        vector = self.vector(over, reads=False)
        if vector is None:
            return None
        name, text = self.fresh("read"), f"tanh(l2norm({vector}) @ {source})"
        if over == "V":
            text = f"tanh({source} @ l2norm({vector}))"
        self.line(name, text, "V" if over == "K" else "K")
        return name

    def write(self) -> None:
        scale = self.gate("", reads=True, depth=0)
        kind = self.draw.randrange(5)
        if kind == 0:
            # the delta rule: erase with the vector that writes
            k = self.fresh("k")
            self.line(k, self.key(reads=False), "K", reads=False)
            text = f"outer({k}, {scale} * (0.3 * {self.vector('V')} - {k} @ S))"
        elif kind == 1:
            # erase with another vector, or with a read of long ago
            text = f"0.2 * outer({self.key(True)}, {self.vector('V')} - {self.key(False)} @ S)"
        elif kind == 2:
            text = f"{scale} * outer(0.3 * {self.key(True)}, {self.vector('V')})"
        elif kind == 3:
            y = f"l2norm({self.vector('V', reads=False)})"
            text = f"0.2 * outer(S @ {y}, l2norm({self.vector('V')}))"
        else:
            text = f"outer({self.key(True)} * {self.gate('K', True, depth=0)}, 0.2 * "
            text += f"{self.vector('V')})"
        minus = self.chance(0.2) and kind in (2, 4)
        self.line("S", f"S - {text}" if minus else f"S + {text}")

    def named_matrix(self) -> None:
        """A matrix with a name of its own, read and forgotten."""
        name = self.fresh("M")
        text = f"{self.gate('', False)} * S + outer({self.key(True)}, {self.vector('V')})"
        self.made.step.append(f"{self.indent}{name} = {text}")
        self.read(name)

    def carry(self, name: str) -> None:
        before = self.names[name]
        heads = {None: (None,), "H": (None, "H"), "HV": (None, "H", "HV")}[before.head]
        channel = before.channel
        x = self.vector(channel, True, 2, heads) if channel else self.scalar(True, 2, heads)
        if before.channel and x is None:
            x = "0.5"
        gate = self.gate(channel if self.chance(0.5) else "", True, heads, 0)
        forms = ("{g} * {n} + 0.5 * {x}", "tanh({n} + {x})", "maximum({n} - 0.1, tanh({x}))")
        forms += ("minimum(0.5 * {n} + {x}, 1)", "logaddexp(-abs({n}), {x})")
        text = self.draw.choice(forms).format(g=gate, n=name, x=x)
        tainted = any(known.reads for known in self.names.values())
        self.line(name, text, channel, before.head, tainted)

    def body(self) -> None:
        kinds = [self.assign] * 3 + [self.decay, self.read, self.write, self.named_matrix]
        for _ in range(self.draw.randint(1, 4)):
            self.draw.choice(kinds)()

    def recurrence(self) -> Recurrence:
        self.declare()
        carried = [name for name in self.made.states if name != "S"]
        for _ in range(self.draw.randint(0, 3)):
            self.assign()
        for name in carried:
            if self.chance(0.5):
                self.carry(name)
        if self.chance(0.85):
            self.decay()
        self.body()
        if self.extra and self.chance(0.8):
            self.made.step.append("for i in range(N):")
            before = dict(self.names)
            self.indent, self.loop = "    ", "i"
            if self.chance(0.3):
                self.decay()
            self.write()
            self.indent, self.loop = "", None
            # what the body read in one turn is older in the next
            self.names = before | {
                name: known for name, known in self.names.items() if name not in before
            }
        self.write()
        if self.chance(0.5):
            self.body()
        for name in carried:
            self.carry(name)
        self.output()
        self.storage()
        return self.made

    def output(self) -> None:
        q = self.vector("K", reads=False)
        text = f"{q} @ S" if self.chance(0.7) else f"({q} * K**-0.5) @ S"
        extra = self.vector("V") if self.chance(0.6) else self.scalar()
        forms = ("{r} + {x}", "({r}) / (1 + abs({x}))", "{r}", "({r}) * sigmoid({x})")
        self.line("o", self.draw.choice(forms).format(r=text, x=extra))

    def storage(self) -> None:
        draw, chosen = self.draw, self.made.storage
        chosen["state"] = draw.choice(["float32", "float32", "split"])
        chosen["records"] = draw.choice(["float32", "input"])
        chosen["layout"] = draw.choice(["kv", "vk"])


def recurrence(seed: int) -> Recurrence:
    return Generator(seed).recurrence()
