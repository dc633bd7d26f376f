"""A record from JSON that may come from anyone: what is not as it should be is refused, and named.

Every field is checked, since what is read here is baked into modules: a batch of 0 has no logarithm
there, and a GPU that is called as the rules of thumb are would take their place.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from kvgen.codegen.config import ANY_GPU
from kvgen.kernels.knobs import LIMITS
from kvgen.kernels.registry import subject
from kvgen.language.declarations import MAX_SIZE
from kvgen.wisdom.record import AT, DTYPES, EFFORTS, KERNELS, STORAGE, Key, Record, Shape, bucket

# rows, and tokens of a prompt, that anyone has; what is counted; microseconds; entries of a table
MOST_ROWS = 1 << 24
MOST = 1 << 40
LEAST_US, MOST_US = 1e-6, 1e12
MOST_ENTRIES = 32
# of a knob that this version does not know
MOST_OF_ANY = 1 << 20

FIELDS = (
    *("spec", "key", "config", "us", "floor_us", "error", "effort", "measured", "of"),
    *("runner_up", "at", "env", "date", "storage"),
)
NAME = r"[A-Za-z]\w{0,63}"


class RecordError(ValueError):
    """What should be a record is none; the message says why."""


def from_data(data: Any, spec: str | None = None) -> Record:
    """A record. spec: where `data` names none.

    Raises RecordError for whatever is not as `Record.data` writes it.
    """
    table = _table(data, "a record", FIELDS)
    named = table.get("spec", spec)
    name = _matched(named, NAME, "spec", "a letter, then up to 63 letters, digits, underscores")
    key = _key(_table(table.get("key"), "key", ("kernel", "form", "gpu", "dtype", "shape")))
    second = table.get("runner_up")
    if second is not None:
        second = _table(second, "runner_up", ("config", "us"))
        us = _number(second.get("us"), "runner_up us", LEAST_US)
        second = _config(second.get("config"), key.kernel, "runner_up config"), us
    at, env = _table(table.get("at", {}), "at", AT), _table(table.get("env", {}), "env")
    storage = _table(table.get("storage", {}), "storage", STORAGE)
    return Record(
        spec=name,
        key=key,
        config=_config(table.get("config"), key.kernel, "config"),
        us=_times(table.get("us")),
        floor_us=_number(table.get("floor_us"), "floor_us"),
        error=_number(table.get("error"), "error"),
        effort=_choice(table.get("effort"), EFFORTS, "effort"),
        measured=_count(table.get("measured"), "measured"),
        of=_count(table.get("of"), "of"),
        runner_up=second,
        at={name: _count(value, f"at {name}") for name, value in at.items()},
        env={_name(name, "env"): _name(value, f"env {name}") for name, value in env.items()},
        date=_matched(table.get("date", ""), r"[\w:.+ -]{0,40}", "date", "a date"),
        storage={
            name: _matched(value, "[a-z][a-z0-9]{0,15}", f"storage {name}", "a name")
            for name, value in storage.items()
        },
    )


def _key(table: Mapping[str, Any]) -> Key:
    kernel = _choice(table.get("kernel"), KERNELS, "kernel")
    form = _matched(table.get("form"), "[0-9a-f]{12}", "form", "12 hexadecimal digits")
    gpu = _name(table.get("gpu"), "gpu")
    if gpu == ANY_GPU:
        # in a module it stands for the rules of thumb
        raise RecordError(f"gpu is {gpu!r}, expected the name of a GPU, not what stands for any")
    dtype = _choice(table.get("dtype"), DTYPES, "dtype")
    return Key(kernel, form, gpu, dtype, _shape(table.get("shape"), kernel))


def _shape(data: Any, kernel: str) -> Shape:
    table = _table(data, "shape", ("B", "T", "H", "HV", "K", "V"))
    of = subject(kernel)
    batches = (0, 0) if of.every_batch else (1, MOST_ROWS)
    ranges = {"B": batches, "T": (1, of.most_tokens)}
    sizes = {
        name: _count(table.get(name), f"shape {name}", *ranges.get(name, (1, MAX_SIZE)))
        for name in ("B", "T", "H", "HV", "K", "V")
    }
    for name in ("B", "T"):
        if sizes[name] and bucket(sizes[name]) != sizes[name]:
            raise RecordError(f"shape {name} is {sizes[name]}, expected a power of two")
    if sizes["HV"] % sizes["H"]:
        text = f"shape HV is {sizes['HV']}, expected a multiple of H, which is {sizes['H']}"
        raise RecordError(text)
    return Shape(**sizes)


def _times(data: Any) -> tuple[float, float, float]:
    if not isinstance(data, list) or len(data) != 3:
        raise RecordError(f"us is {_shown(data)}, expected three times")
    low, median, high = (_number(each, "us") for each in data)
    if not LEAST_US <= low <= median <= high:
        raise RecordError(f"us is {_shown(data)}, expected positive times in order")
    return low, median, high


def _config(data: Any, kernel: str, what: str) -> dict[str, int]:
    """Knobs that another version had are kept: they say why its record is no answer here. Those
    that came later mean what was then."""
    table = _table(data, what)
    if not table:
        raise RecordError(f"{what} is empty, expected the constants of {kernel}")
    for name, value in table.items():
        _matched(name, r"[A-Za-z]\w{0,31}", f"a knob of {what}", "a name")
        limit = LIMITS.get(name)
        _count(value, f"{what} {name}", 0, MOST_OF_ANY if limit is None else MOST)
        if limit is not None and not limit.admits(value):
            raise RecordError(f"{what} {name} is {value}, expected {limit}")
    of = subject(kernel)
    lacking = {*of.knobs} - {*table}
    if not (lacking <= {*of.newer} and {*table} <= {*of.knobs}):
        return dict(table)
    return {**table, **{knob: value for knob, value in of.newer.items() if knob in lacking}}


def _table(data: Any, what: str, known: Collection[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise RecordError(f"{what} is {_shown(data)}, expected a table")
    if strange := [name for name in data if known is not None and name not in known]:
        names = ", ".join(known or ())
        raise RecordError(f"{what} has {_shown(strange[0])}, expected of {names} alone")
    if len(data) > MOST_ENTRIES:
        raise RecordError(f"{what} has {len(data)} entries, expected at most {MOST_ENTRIES}")
    return data


def _choice(data: Any, choices: tuple[str, ...], what: str) -> str:
    if data not in choices:
        raise RecordError(f"{what} is {_shown(data)}, expected one of {', '.join(choices)}")
    return data


def _matched(data: Any, pattern: str, what: str, expected: str) -> str:
    if not isinstance(data, str) or not re.fullmatch(pattern, data, re.ASCII):
        raise RecordError(f"{what} is {_shown(data)}, expected {expected}")
    return data


def _name(data: Any, what: str) -> str:
    if not isinstance(data, str) or not 0 < len(data) <= 200 or not data.isprintable():
        raise RecordError(f"{what} is {_shown(data)}, expected 1 to 200 printable characters")
    if data.isspace():
        raise RecordError(f"{what} is {_shown(data)}, expected more than spaces")
    return data


def _count(data: Any, what: str, least: int = 0, most: int = MOST) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or not least <= data <= most:
        expected = f"an integer from {least} to {most}" if least < most else f"{least}"
        raise RecordError(f"{what} is {_shown(data)}, expected {expected}")
    return data


def _number(data: Any, what: str, least: float = 0.0) -> float:
    if not isinstance(data, int | float) or isinstance(data, bool):
        raise RecordError(f"{what} is {_shown(data)}, expected a number")
    # an integer may be larger than any float, and of two nans none is less
    if not least <= data <= MOST_US:
        expected = f"a number >= {least:g} and <= {MOST_US:g}"
        raise RecordError(f"{what} is {_shown(data)}, expected {expected}")
    return float(data)


def _shown(data: Any) -> str:
    return "missing" if data is None else repr(data)[:60]
