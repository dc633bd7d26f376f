"""A record: the fastest known configuration of one kernel, for one form, GPU and shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from kvgen.formats.dtypes import FLOATS
from kvgen.kernels.registry import SUBJECTS, subject

KERNELS = tuple(each.name for each in SUBJECTS)
EFFORTS = ("quick", "full")
DTYPES = tuple(dtype.name for dtype in FLOATS)
# the order in which a record has what it was measured at, with and for
AT = ("batch", "buffer", "layers", "cut")
ENV = ("triton", "torch", "cuda", "driver")
STORAGE = ("state", "records", "layout")

T = TypeVar("T")


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
    storage: how the form keeps its state and records, for people; what counts is in the key.

    Equal records are alike to the last byte of their text: their tables have one order, and their
    times one type, whoever made them.
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
    storage: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        knobs = subject(self.key.kernel).knobs
        tables = ("config", knobs), ("at", AT), ("env", ENV), ("storage", STORAGE)
        alike: dict[str, Any] = {
            name: _sorted(getattr(self, name), order) for name, order in tables
        }
        alike["us"] = tuple(map(_float, self.us))
        alike |= {name: _float(getattr(self, name)) for name in ("floor_us", "error")}
        if self.runner_up is not None:
            config, us = self.runner_up
            alike["runner_up"] = _sorted(config, knobs), _float(us)
        for name, value in alike.items():
            object.__setattr__(self, name, value)

    @property
    def batch(self) -> int:
        """The batch that was timed, of all that its key stands for; 0 for all batches."""
        batch, rows = self.at.get("batch", 0), self.key.shape.B
        return batch if rows and batch and bucket(batch) == rows else rows

    @property
    def median(self) -> float:
        return self.us[1]

    @property
    def is_cut(self) -> bool:
        """Whether the search was cut short."""
        return bool(self.at.get("cut"))

    def data(self) -> dict[str, Any]:
        """As JSON has it, without the spec."""
        data = asdict(self)
        del data["spec"]
        if not self.storage:
            del data["storage"]
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


def _sorted(table: Mapping[str, T], order: Sequence[str]) -> dict[str, T]:
    """Known names in their order, then all others in theirs."""
    places = {name: place for place, name in enumerate(order)}
    names = sorted(table, key=lambda name: (places.get(name, len(places)), name))
    return {name: table[name] for name in names}


def _float(number: float) -> float:
    """Of both zeros the positive one."""
    return float(number) + 0.0
