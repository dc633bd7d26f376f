"""Bytes and operations of a token as formulas in the sizes and the buffer length L."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvgen.analysis import Analysis
from kvgen.codegen import cost
from kvgen.explaining.quantity import Quantity
from kvgen.kernels.decode import DECODE
from kvgen.kernels.fold import FOLD
from kvgen.kernels.recurrent import RECURRENT


@dataclass(frozen=True)
class Formula:
    """A quantity of one token, one layer and one row; its value at the spec's sizes."""

    key: str
    text: str
    value: float


def formulas(analysis: Analysis) -> list[Formula]:
    """Every quantity of the cost model, in a fixed order."""
    form, records = analysis.form, analysis.records
    numbers = dict(form.spec.sizes)
    symbols = {name: Quantity.named(name) for name in numbers}
    # a size of the spec may be called L too
    length = "L" if "L" not in numbers else "places"
    buffer = cost.buffer_length(form, records)

    def evaluated(sizes: Any, places: Any) -> dict[str, Any]:
        cost_ = cost.cost(form, records, sizes=sizes)
        operations = cost.operations(form, records, places, sizes)
        return {
            "state": cost_.state,
            "read": cost_.read,
            "record": cost_.record,
            "record_read": cost_.record_read,
            "record_fold": cost_.record_fold,
            "carried": cost_.carried,
            "io": cost_.io,
            DECODE.name: cost_.decode(places),
            FOLD.name: cost_.fold(places),
            RECURRENT.name: cost_.recurrent(),
            "floor": cost_.floor(places),
            "operations_decode": operations.decode,
            "operations_fold": operations.fold,
            "operations_recurrent": operations.recurrent,
            "exponentials": operations.exponentials,
        }

    values = evaluated(numbers, buffer)
    expressions = evaluated(symbols, Quantity.named(length))
    return [
        Formula(key, _text(Quantity.of(expressions[key]), length), values[key]) for key in values
    ]


def _text(quantity: Quantity, length: str) -> str:
    """Ordered by powers of L, so that one sees what a longer buffer costs and saves."""
    found: list[str] = []
    for power in (0, 1, -1):
        part = quantity.with_power(length, power)
        text = str(part)
        if not part.terms:
            continue
        if power:
            text = f"({text})" if " " in text else text
            text = f"{text}·{length}" if power > 0 else f"{text}/{length}"
        found.append(f"+ {text}" if found else text)
    return " ".join(found).replace("+ -", "- ") or "0"
