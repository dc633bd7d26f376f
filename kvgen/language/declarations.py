"""The sizes and tensors that a spec declares, and the rules for their names and axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvgen.diagnostics import Span, did_you_mean, quote
from kvgen.language.names import STRIDES, refusal
from kvgen.language.overrides import place_of
from kvgen.language.schema import Reader
from kvgen.language.source import Where

Kind: TypeAlias = Literal["input", "param", "state"]

MAX_SIZE = 65536
MAX_NAMES = 64
STANDARD = {"H": "heads", "HV": "value heads", "K": "key channels", "V": "value channels"}
HEADS = ("H", "HV")
CHANNELS = ("K", "V")
MATRIX = ("HV", "K", "V")
SECTIONS: dict[str, Kind] = {"inputs": "input", "params": "param", "state": "state"}

_CALLED = {"sizes": "a size", "inputs": "an input", "params": "a parameter", "state": "a state"}
_CARRIED = ((), ("H",), ("HV",), ("K",), ("H", "K"), ("HV", "K"), ("HV", "V"))

# why a state or a tensor cannot be, and what could be done
SECOND = (
    "a token passes over one stored state: states that do not feed each other are two specs, the "
    "output of one an input of the next, as in gated slot attention; a momentum, a second state "
    "that is added to the first (Titans), is not served"
)
SEVERAL = (
    "a token passes over one stored state: several that are merged as tokens come, as in "
    "log-linear attention, are not served; several writes into one state are: for i in range(N):"
)
SLOTS = (
    "a matrix state is [HV, K, V]. Slots, as in gated slot attention, are two specs: one whose V "
    "are the slots, S = a * S + outer(k, 1 - a) and o = q @ S; one whose K are the slots, "
    "S = a * S + outer(1 - a, v), read with a softmax of the first's output"
)
TWICE = (
    "a state over keys alone that is solved with, as in MesaNet, is not served; one that is only "
    "read, q @ S, is a spec of its own whose V is as large as K, and a diagonal is [HV, K]"
)
BOTH = (
    "only the matrix state has both. A decay with a number for every place of the state, as in "
    "Mamba-1, is not served; one over K times one over V is: a: [HV, K], c: [HV, V], "
    "exp(a) * exp(c) * S"
)
VECTORS = (
    "such as S: [HV, K, V]; of a recurrence of vectors alone, as RWKV-4, there is nothing to "
    "buffer: its state is no larger than what a token would leave"
)


@dataclass(frozen=True)
class Tensor:
    """A declared input, parameter or state."""

    name: str
    kind: Kind
    axes: tuple[str, ...]
    init: float
    range: tuple[float, float] | None
    span: Span


class Declarations:
    """Reads `sizes`, `inputs`, `params` and `state`; what could not be used is in `broken`."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.sizes: dict[str, int] = {}
        self.tensors: dict[str, Tensor] = {}
        self.broken: set[str] = set()
        # whether a state is among what could not be used
        self.lost_state = False
        # False where `sizes` could not be read: any axis may then be one
        self.all_sizes = True
        # every declared name -> where it stands
        self.where: dict[str, Where] = {}

    def read(self, sections: Mapping[str, object]) -> None:
        if "sizes" in sections and self.reader.table(("sizes",), "names to integers"):
            self._sizes()
        else:
            self.broken.update(STANDARD)
            self.all_sizes = False
        for section in SECTIONS:
            if section in sections and self.reader.table((section,), "names to lists of axes"):
                for name in self.reader.value((section,)):
                    self._tensor(section, name)
        if "state" in sections:
            self._matrix_state()
        if "inputs" in sections and self.reader.value(("inputs",)) == {}:
            self.reader.report("bad-value", "there are no inputs", ("inputs",), key=True)

    def _declare(self, section: str, name: str) -> bool:
        """Whether the name may be used for this."""
        where = (section, name)
        if len(self.where) == MAX_NAMES:
            message = f"the spec declares more than {MAX_NAMES} names"
            self.reader.report("too-many", message, where, key=True)
            return False
        if refused := refusal(name):
            code, message, help = refused
            self.reader.report(code, message, where, help, key=True)
        elif name in STRIDES and section in ("inputs", "params"):
            message = f"'{name}' is reserved for generated modules"
            help = f"write '{name}_' or 'x_{name}'"
            self.reader.report("reserved-name", message, where, help, key=True)
        elif name == "o":
            message, help = "'o' is the output", "write 'o_' or 'x_o'"
            self.reader.report("reserved-name", message, where, help, key=True)
        elif section != "sizes" and name in STANDARD:
            message, help = f"'{name}' is a standard size", f"write '{name}_' or 'x_{name}'"
            self.reader.report("reserved-name", message, where, help, key=True)
        elif name in self.where:
            first = self.where[name]
            note = f"'{name}' is declared as {_CALLED[str(first[0])]}"
            span = self.reader.span(first)
            notes = ((note, span),) if span else ()
            message = f"'{name}' is declared twice"
            self.reader.report("duplicate-name", message, where, key=True, notes=notes)
            return False
        else:
            self.where[name] = where
            return True
        self.where.setdefault(name, where)
        return False

    def _sizes(self) -> None:
        for name in self.reader.value(("sizes",)):
            where = ("sizes", name)
            fine = self._declare("sizes", name)
            value = self.reader.integer(where, 1, MAX_SIZE, "bad-size")
            if fine and value is not None:
                self.sizes[name] = value
            else:
                self.broken.add(name)
        for name, other in (("H", "HV"), ("HV", "H")):
            if name in self.where or other not in self.where:
                continue
            if name.lower() in self.where:
                self._missing(name)
                continue
            self.where[name] = self.where[other]
            if other in self.sizes:
                self.sizes[name] = self.sizes[other]
            else:
                self.broken.add(name)
        for name in ("H", "K", "V"):
            if name not in self.where:
                self._missing(name)
        heads, values = self.sizes.get("H"), self.sizes.get("HV")
        if heads and values and values % heads:
            span = self.reader.span(("sizes", "H"))
            notes = ((f"H is {heads}", span),) if span else ()
            message = f"HV ({values}) is not a multiple of H ({heads})"
            self.reader.report("bad-size", message, ("sizes", "HV"), notes=notes)

    def _missing(self, name: str) -> None:
        message, where = f"the size '{name}' ({STANDARD[name]}) is missing", ("sizes",)
        help, slip = None, name.lower()
        if slip in self.where:
            help = f"did you mean '{name}'?"
            where = self.where[name] = self.where.pop(slip)
        self.reader.report("missing-key", message, where, help, key=True)
        self.broken.update({"H", "HV"} if name == "H" else {name})

    def _tensor(self, section: str, name: str) -> None:
        where: Where = (section, name)
        before = len(self.reader.found)
        fine = self._declare(section, name)
        entry, kind = self.reader.value(where), SECTIONS[section]
        init, bounds = 0.0, None
        axes_at = where
        if isinstance(entry, dict):
            axes_at = (*where, "axes")
            keys = self.reader.keys(where, ["axes"], ["init" if kind == "state" else "range"])
            entry = keys.get("axes")
            if "init" in keys:
                init = self._init((*where, "init"), entry)
            if "range" in keys:
                bounds = self._range((*where, "range"))
            axes = self._axes(axes_at, entry) if "axes" in keys else None
        else:
            axes = self._axes(axes_at, entry)
        if axes is not None and (kind == "state" or self._ordered(axes_at, axes)):
            axes = axes if kind != "state" or self._state(axes_at, axes) else None
        usable = axes is not None and all(axis in self.sizes for axis in axes)
        if axes is None or not usable or not fine or len(self.reader.found) > before:
            self.broken.add(name)
            self.lost_state = self.lost_state or kind == "state"
            return
        place = place_of(self.reader.document, where)
        span = place.key if place else Span(1, 1, 2)
        self.tensors[name] = Tensor(name, kind, axes, init, bounds, span)

    def _axes(self, where: Where, entry: object) -> tuple[str, ...] | None:
        """The declared axes, all of them sizes, none twice."""
        if not isinstance(entry, list):
            message, help = "axes are a list of sizes", "such as [HV, K], or [] for a scalar"
            self.reader.report("bad-type", message, where, help)
            return None
        known, fine = {*self.where, *self.broken}, True
        for at, axis in enumerate(entry):
            here = (*where, at)
            if not isinstance(axis, str):
                help = "declare it: sizes: {N: 2, ...}"
                self.reader.report("bad-type", "an axis is the name of a size", here, help)
            elif axis in entry[:at]:
                help = TWICE if axis in CHANNELS and where[0] == "state" else None
                self.reader.report("bad-axes", f"the axis '{axis}' stands here twice", here, help)
            elif not self.all_sizes or (axis in known and self._is_size(axis)):
                continue
            else:
                sizes = [each for each in self.where if self._is_size(each)]
                help = did_you_mean(axis, sizes) or "declare it under sizes"
                self.reader.report("unknown-axis", f"{quote(axis)} is not a size", here, help)
            fine = False
        return tuple(entry) if fine else None

    def _is_size(self, name: str) -> bool:
        return name in STANDARD or self.where.get(name, ("",))[0] == "sizes"

    def _ordered(self, where: Where, axes: tuple[str, ...]) -> bool:
        """At most one extra size, then one head axis, then one channel axis."""
        extra = [axis for axis in axes if axis not in STANDARD]
        heads = [axis for axis in axes if axis in HEADS]
        channels = [axis for axis in axes if axis in CHANNELS]
        for kind, what in ((extra, "extra size"), (heads, "head axis"), (channels, "channel axis")):
            if len(kind) > 1:
                message = f"'{kind[0]}' and '{kind[1]}' in one tensor: at most one {what}"
                help = BOTH if set(kind) == set(CHANNELS) else None
                self.reader.report("bad-axes", message, where, help)
                return False
        right = [*extra, *heads, *channels]
        if list(axes) != right:
            message = "axes come in the order extra size, head, channel"
            help = f"write [{', '.join(right)}]"
            self.reader.report("bad-axes", message, where, help)
            return False
        return True

    def _state(self, where: Where, axes: tuple[str, ...]) -> bool:
        if axes == MATRIX or axes in _CARRIED:
            return True
        shown = f"[{', '.join(axes)}]"
        extra = [axis for axis in axes if axis not in STANDARD]
        if {"K", "V"} <= set(axes) and extra:
            message, help = f"a matrix state is [HV, K, V], not {shown}", SEVERAL
        elif extra and set(axes) & set(CHANNELS):
            message, help = f"a state cannot have the axes {shown}", SLOTS
        elif {"K", "V"} <= set(axes):
            message, help = f"a matrix state is [HV, K, V], not {shown}", "write [HV, K, V]"
            if sorted(axes) == sorted(MATRIX):
                help += "; 'storage: {layout: vk}' turns it in memory"
        else:
            message = f"a state cannot have the axes {shown}"
            help = "a carried state is [], [H], [HV], [K], [H, K], [HV, K] or [HV, V]"
        self.reader.report("bad-state", message, where, help)
        return False

    def _matrix_state(self) -> None:
        matrices = [t for t in self.tensors.values() if t.kind == "state" and t.axes == MATRIX]
        if not matrices and not self.lost_state:
            message, help = "there is no matrix state", VECTORS
            self.reader.report("bad-state", message, ("state",), help, key=True)
        for second in matrices[1:]:
            message = f"a second matrix state '{second.name}': only one is supported"
            first = self.reader.span(("state", matrices[0].name))
            notes = ((f"'{matrices[0].name}' is declared", first),) if first else ()
            where = ("state", second.name)
            self.reader.report("bad-state", message, where, SECOND, key=True, notes=notes)

    def _init(self, where: Where, axes: object) -> float:
        value = self.reader.number(where)
        if value is not None and math.isinf(value) and axes == list(MATRIX):
            self.reader.report("bad-value", "a matrix state begins with finite values", where)
        return value if value is not None else 0.0

    def _range(self, where: Where) -> tuple[float, float] | None:
        value = self.reader.value(where)
        if not isinstance(value, list) or len(value) != 2:
            message, help = "a range is [low, high]", "such as [0, 1] or [0, inf]"
            self.reader.report("bad-type", message, where, help)
            return None
        low, high = self.reader.number((*where, 0)), self.reader.number((*where, 1))
        if low is None or high is None:
            return None
        if low >= high:
            self.reader.report("bad-range", "the range is empty", where, "low comes first")
            return None
        return low, high
