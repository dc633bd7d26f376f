"""The section of `kvgen explain` on short contexts: from which length on a state pays, in bytes and
by the times that have been tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvgen.algebra.records import plan_records
from kvgen.codegen import cost
from kvgen.codegen.config import PAGE
from kvgen.explaining.account import quantities
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.layout import count, indented, table, wrapped
from kvgen.kernels.short import SHORT


@dataclass(frozen=True)
class Short:
    """Where a row's records take as much as its state, in one layer.

    total: bytes with the records of a paged cache. pages: the most that take no more memory than a
    state. read: the length at which a decode reads as much in records as in a state and the mean
    number of records beside it; buffer: of how many places.
    """

    total: cost.Cost
    buffer: int
    pages: int
    read: float

    @property
    def tokens(self) -> int:
        return self.pages * PAGE


@dataclass(frozen=True)
class Timed:
    """Decodes of one batch on a GPU, in microseconds of a layer.

    us: of rows that hold `tokens` tokens and no state. stateful_us: of rows on states, with their
    share of folds.
    """

    gpu: str
    batch: int
    tokens: int
    us: float
    stateful_us: float


def crossing(found: Short, timed: Timed) -> int:
    """The most tokens of which a decode without a state takes no longer than one with it, if its
    time goes with its bytes."""
    total = found.total
    moved = total.short(timed.tokens) * timed.stateful_us / timed.us
    return max(0, int((moved - total.short(0)) / total.record_read))


def short(d: Derivation) -> Short | None:
    """None where there are no paged caches."""
    if not SHORT.exists(d.form):
        return None
    # in pages keys are never factored, as a row may hold more of them than is safe for that
    form = replace(d.form, factored=None)
    records = plan_records(form)
    total, buffer = cost.cost(form, records), cost.buffer_length(form, records)
    if not total.record_read:
        return None
    read = total.read / total.record_read + (buffer - 1) / 2
    return Short(total, buffer, total.state // (PAGE * total.record), read)


def section(d: Derivation, times: Sequence[Timed] = ()) -> list[str]:
    found = short(d)
    if found is None:
        return []
    total, parts = found.total, quantities(found.total)
    lines = wrapped(
        "In a cache with short_context = N a row has no state until it is N tokens long: its "
        f"records lie in pages of {PAGE}, and a decode reads all of them. By bytes it is better "
        "off so up to these lengths, and with a state beyond them:"
    )
    read, record = parts["read"], parts["record_read"]
    rows = [
        ("memory", "state / record, in whole pages", _tokens(found.tokens)),
        (
            f"bytes read by a decode, L = {found.buffer}",
            f"{read} / {record}{' + (L - 1)/2' if found.buffer > 1 else ''}",
            _tokens(int(found.read)),
        ),
    ]
    lines += ["", *indented(table(rows, right=(2,)))]
    if times:
        tokens = times[0].tokens
        text = (
            f"By tuned times, of a decode whose rows hold {tokens} tokens and no state and of a "
            "step on states with its share of folds, in microseconds of a layer; the first goes "
            "with the bytes that it moves:"
        )
        lines += ["", *wrapped(text), "", *indented(_timed(found, times))]
    if d.form.factored:
        text = (
            "In pages keys are recorded as they are, beside each token's own decay, as a row may "
            "hold more of them than a running sum is safe for: a record has "
            f"{count(total.record)} bytes."
        )
        lines += ["", *wrapped(text)]
    return lines


def _timed(found: Short, times: Sequence[Timed]) -> list[str]:
    rows = [("GPU", "batch", "no state", "on states", "up to")]
    rows += [
        (
            each.gpu,
            str(each.batch),
            f"{each.us:.3g}",
            f"{each.stateful_us:.3g}",
            _tokens(crossing(found, each)),
        )
        for each in times
    ]
    return table(rows, right=(1, 2, 3, 4))


def data(d: Derivation, times: Sequence[Timed] = ()) -> dict[str, Any] | None:
    """The same as `section`, for programs."""
    found = short(d)
    if found is None:
        return None
    return {
        "page": PAGE,
        "record": found.total.record,
        "record_read": found.total.record_read,
        "buffer": found.buffer,
        "memory": {"pages": found.pages, "tokens": found.tokens},
        "read": {"tokens": found.read},
        "times": [{**asdict(each), "most_tokens": crossing(found, each)} for each in times],
    }


def _tokens(number: int) -> str:
    return "1 token" if number == 1 else f"{count(number)} tokens"
