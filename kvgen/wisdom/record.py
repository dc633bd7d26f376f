"""A record: the fastest known configuration of one kernel, for one form, GPU and shape."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kvgen.codegen.config import KNOBS

KERNELS = tuple(KNOBS)
EFFORTS = ("estimate", "probe", "quick", "full")
DTYPES = ("bfloat16", "float16", "float32")
AXES = ("B", "T", "H", "HV", "K", "V")
# from here on a record has been measured on its GPU
MEASURED = EFFORTS.index("quick")
# no count of anything is larger
MOST = 1 << 40
# knobs that Triton takes powers of two for
POWERS = ("TILE", "TOKENS", "num_warps")


class RecordError(ValueError):
    """What should be a record is none; the message says why."""


@dataclass(frozen=True, order=True)
class Shape:
    """For what a kernel is tuned: rows, tokens of each, heads and channels.

    B and T are powers of two (`bucket`); B = 0 stands for all batches, T = 1 for single tokens.
    """

    B: int
    T: int
    H: int
    HV: int
    K: int
    V: int


@dataclass(frozen=True)
class Key:
    """What a record answers for. dtype: of inputs and records. gpu: the product's name."""

    kernel: str
    form: str
    gpu: str
    dtype: str
    shape: Shape

    @property
    def order(self) -> tuple[Any, ...]:
        """Where its record stands in a file."""
        kernel = KERNELS.index(self.kernel)
        heads = (self.shape.HV, self.shape.H, self.shape.K, self.shape.V)
        return (self.gpu, self.form, self.dtype, heads, kernel, self.shape.T, self.shape.B)


@dataclass(frozen=True)
class Record:
    """A configuration and how it was found.

    spec: the name of the spec it was tuned for, which only says where it is kept.
    us: microseconds per layer and model step at the 20th, 50th and 80th percentile; floor_us: the
    time of the fewest bytes. error: of the outputs against float64. measured, of: configurations
    that were timed, and that are legal. runner_up: the next best configuration and its median.
    at: the exact batch, buffer and layers; `cut` where the search was cut short: the seconds of a
    full effort whose time was up, else 1. env: versions of triton, torch, cuda and the driver.
    """

    spec: str
    key: Key
    config: dict[str, int]
    us: tuple[float, float, float]
    floor_us: float
    error: float
    effort: str
    measured: int
    of: int
    runner_up: tuple[dict[str, int], float] | None = None
    at: dict[str, int] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def median(self) -> float:
        return self.us[1]

    @property
    def is_measured(self) -> bool:
        return EFFORTS.index(self.effort) >= MEASURED

    @property
    def is_cut(self) -> bool:
        """Whether the search was cut short."""
        return bool(self.at.get("cut"))

    def data(self) -> dict[str, Any]:
        """As JSON has it, without the spec."""
        data = asdict(self)
        del data["spec"]
        if self.runner_up is not None:
            data["runner_up"] = {"config": self.runner_up[0], "us": self.runner_up[1]}
        return data | {"us": list(self.us)}


def bucket(count: int) -> int:
    """A batch or a number of tokens, rounded up to a power of two."""
    return 1 << max(0, count - 1).bit_length()


def version(text: str | None) -> tuple[int, int, int]:
    """The leading numbers of a version, as in 3.6.0+git1; zeros for those that are missing."""
    found = re.match(r"(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?", text or "")
    return tuple(int(part or 0) for part in found.groups()) if found else (0, 0, 0)  # type: ignore[return-value]


def merge(a: Iterable[Record], b: Iterable[Record]) -> list[Record]:
    """Of each key the better record, in order: commutative, associative and idempotent.

    Better is, in this order: more effort, one that was not cut short, a newer triton, the larger of
    two batches that share a key, a lower median; what is left is decided by the text of the
    configuration and of the record, so that no two records are equally good.
    """
    best: dict[Key, Record] = {}
    for record in (*a, *b):
        known = best.get(record.key)
        if known is None or _rank(record) < _rank(known):
            best[record.key] = record
    return sorted(best.values(), key=lambda record: record.key.order)


def _rank(record: Record) -> tuple[Any, ...]:
    """Less is better."""
    effort = EFFORTS.index(record.effort)
    newest = tuple(-part for part in version(record.env.get("triton")))
    batch = record.at.get("batch", 0)
    texts = (_text(record.config), _text({"spec": record.spec, **record.data()}))
    return (-effort, record.is_cut, newest, -batch, record.median, *texts)


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True)


# reading -----------------------------------------------------------------------------------------


def from_data(data: Any, spec: str | None = None) -> Record:
    """A record from JSON that may come from anyone. spec: where `data` names none.

    Raises RecordError for whatever is not as `Record.data` writes it.
    """
    table = _table(data, "a record")
    spec = _matched(table.get("spec", spec), r"[A-Za-z]\w{0,63}", "spec")
    key = _table(table.get("key"), "key")
    shape = _table(key.get("shape"), "shape")
    sizes = {name: _count(shape.get(name), f"shape {name}") for name in AXES}
    for name in ("B", "T"):
        if sizes[name] and bucket(sizes[name]) != sizes[name]:
            raise RecordError(f"shape {name} is {sizes[name]}, expected a power of two")
    kernel = _choice(key.get("kernel"), KERNELS, "kernel")
    times = table.get("us")
    if not isinstance(times, list) or len(times) != 3:
        raise RecordError(f"us is {_shown(times)}, expected three times")
    low, median, high = (_number(each, "us") for each in times)
    if not 0 < low <= median <= high:
        raise RecordError(f"us is {_shown(times)}, expected positive times in order")
    second = table.get("runner_up")
    runner_up = None
    if second is not None:
        second = _table(second, "runner_up")
        runner_up = _config(second.get("config"), kernel), _number(second.get("us"), "runner_up us")
    at, env = _table(table.get("at", {}), "at"), _table(table.get("env", {}), "env")
    return Record(
        spec=spec,
        key=Key(
            kernel,
            _matched(key.get("form"), "[0-9a-f]{12}", "form"),
            _name(key.get("gpu"), "gpu"),
            _choice(key.get("dtype"), DTYPES, "dtype"),
            Shape(**sizes),
        ),
        config=_config(table.get("config"), kernel),
        us=(low, median, high),
        floor_us=_number(table.get("floor_us"), "floor_us"),
        error=_number(table.get("error"), "error"),
        effort=_choice(table.get("effort"), EFFORTS, "effort"),
        measured=_count(table.get("measured"), "measured"),
        of=_count(table.get("of"), "of"),
        runner_up=runner_up,
        at={_name(name, "at"): _count(value, name) for name, value in at.items()},
        env={_name(name, "env"): _name(value, name) for name, value in env.items()},
        date=_matched(table.get("date", ""), r"[\w:.+ -]{0,40}", "date"),
    )


def _config(data: Any, kernel: str) -> dict[str, int]:
    """In the order of the kernel's knobs, however the file has them: equal records are alike."""
    table = _table(data, "config")
    if not table:
        raise RecordError("config is empty")
    for name, value in table.items():
        _matched(name, r"[A-Za-z]\w{0,31}", "a knob of config")
        if _count(value, f"config {name}") > 1 << 20:
            raise RecordError(f"config {name} is {value}, expected at most {1 << 20}")
        if name in POWERS and (not value or bucket(value) != value):
            raise RecordError(f"config {name} is {value}, expected a power of two")
    order = {knob: place for place, knob in enumerate(KNOBS[kernel])}
    return {name: table[name] for name in sorted(table, key=lambda n: (order.get(n, 99), n))}


def _table(data: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise RecordError(f"{what} is {_shown(data)}, expected a table")
    return data


def _choice(data: Any, choices: tuple[str, ...], what: str) -> str:
    if data not in choices:
        raise RecordError(f"{what} is {_shown(data)}, expected one of {', '.join(choices)}")
    return data


def _matched(data: Any, pattern: str, what: str) -> str:
    if not isinstance(data, str) or not re.fullmatch(pattern, data, re.ASCII):
        raise RecordError(f"{what} is {_shown(data)}, which is none")
    return data


def _name(data: Any, what: str) -> str:
    if not isinstance(data, str) or not 0 < len(data) <= 200 or not data.isprintable():
        raise RecordError(f"{what} is {_shown(data)}, expected a name")
    return data


def _count(data: Any, what: str) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or not 0 <= data <= MOST:
        raise RecordError(f"{what} is {_shown(data)}, expected an integer from 0 to {MOST}")
    return data


def _number(data: Any, what: str) -> float:
    if not isinstance(data, int | float) or isinstance(data, bool):
        raise RecordError(f"{what} is {_shown(data)}, expected a number")
    # an integer may be larger than any float
    if not 0 <= data <= sys.float_info.max:
        raise RecordError(f"{what} is {_shown(data)}, expected a number >= 0")
    return float(data)


def _shown(data: Any) -> str:
    return "missing" if data is None else repr(data)[:60]
