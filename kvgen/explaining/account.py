"""The section of `kvgen explain` on bytes, operations and the buffer length."""

from __future__ import annotations

from collections.abc import Mapping

from kvgen.codegen import cost
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.formulas import Formula
from kvgen.explaining.layout import count, indented, table, wrapped


def places(buffer: int) -> str:
    return "1 place" if buffer == 1 else f"{buffer} places"


def account(d: Derivation, found: Mapping[str, Formula]) -> list[str]:
    """Bytes and operations, and the buffer length that follows from them."""
    total = cost.cost(d.form, d.records)
    buffer = cost.buffer_length(d.form, d.records)
    lines = wrapped(
        "For one token of one row, in one layer. An element of the inputs, the output and the "
        "cache's dtype has 2 bytes; parameters are read once for all rows and not counted."
    )
    parts = quantities(total)
    first = {name: found[key] for key, name in reversed(parts.items())}
    known = [(name, first[name].text, count(first[name].value)) for name in _unique(parts)]
    lines += ["", *indented(table([("bytes of", "", ""), *known], right=(2,))), ""]
    lines += indented(_decode_account(total, parts, buffer))
    lines += ["", *(_emptied(total) if d.form.emptied else _lengths(d, total, buffer))]
    rows = [("operations, a multiply-add being two", "", "")]
    for label, key in (
        ("decode, over all L places", "operations_decode"),
        ("plain kernel", "operations_recurrent"),
        ("fold, for each record", "operations_fold"),
        ("exponentials of a decode's channel decays", "exponentials"),
    ):
        if found[key].value:
            rows.append((label, found[key].text, count(found[key].value)))
    return [*lines, "", *indented(table(rows, right=(2,)))]


def _emptied(total: cost.Cost) -> list[str]:
    """Where every step folds."""
    return wrapped(
        "The fold is a launch of its own, which reads the state and writes it, at the end of every "
        f"step. By bytes a decode of one token is {total.gain(1):.2f} times as fast as the plain "
        "kernel: these records are for windows of several tokens, of which all that a decode reads "
        "of a record need not be kept."
    )


def _lengths(d: Derivation, total: cost.Cost, buffer: int) -> list[str]:
    """What a decode moves with a buffer of each length, and which of them is taken."""
    moved = "(2·state + 2·carried)" if total.carried else "2·state"
    lines = wrapped(_best(total, moved, quantities(total)["record_read"]))
    lengths = sorted({*cost.LENGTHS, buffer})
    trial = [
        ("L", *map(str, lengths)),
        ("bytes", *(count(total.decode(length)) for length in lengths)),
        ("gain", *(f"{total.gain(length):.2f}" for length in lengths)),
    ]
    right = tuple(range(1, len(lengths) + 1))
    lines += ["", *indented(table(trial, right=right)), ""]
    why = "as the spec says" if d.spec.buffer else "the power of two with the fewest bytes"
    if not d.spec.buffer and buffer == cost.held(d.form) < cost.LENGTHS[-1]:
        why += " among those whose keys one program can hold"
    return lines + wrapped(
        f"The buffer has {places(buffer)}, {why}. By bytes alone a decode is then "
        f"{total.gain(buffer):.2f} times as fast as the plain kernel."
    )


def quantities(total: cost.Cost) -> dict[str, str]:
    """Keys of the quantities that a decode's bytes consist of, and what they are called."""
    parts = {"state": "state"}
    parts["read"] = "state" if total.read == total.state else "upper plane"
    parts["record"] = "record"
    parts["record_read"] = "record" if total.record_read == total.record else "record, as decoded"
    parts["record_fold"] = "record" if total.record_fold == total.record else "record, as folded"
    if total.carried:
        parts["carried"] = "carried"
    parts["io"] = "inputs, output"
    return parts


def _unique(parts: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(parts.values()))


def _decode_account(total: cost.Cost, parts: Mapping[str, str], buffer: int) -> list[str]:
    """Where the bytes of a decode go, and the two figures it is compared with."""
    read, fold_read = parts["record_read"], parts["record_fold"]
    mean = total.record_read * (buffer - 1) / 2
    both = 2 * total.carried
    more = " + 2·carried" if both else ""
    rows = [
        (f"decode, L = {buffer}", "", ""),
        ("  the state, read", parts["read"], total.read),
        ("  records, read at their mean number", f"(L - 1)/2 · {read}", mean),
        ("  a record, written", "record", total.record),
        *([("  carried states", "2·carried", both)] if both else []),
        ("  inputs, output", "", total.io),
        (
            "  its share of a fold, state",
            "(2·state + 2·carried)/L" if both else "2·state/L",
            total.moved / buffer,
        ),
        ("  its share of a fold, records", fold_read, total.record_fold),
        ("  together", "", total.decode(buffer)),
        ("plain kernel", f"2·state{more} + inputs, output", total.recurrent()),
        ("floor", "decode with state/L for its share", total.floor(buffer)),
    ]
    texts = [
        (label, text, "" if value == "" else count(float(value))) for label, text, value in rows
    ]
    return table(texts, right=(2,))


def _best(total: cost.Cost, moved: str, read: str) -> str:
    return (
        "The fold is a launch of its own, which reads the state and writes it; the floor has it "
        "written once. A decode moves the fewest bytes at L* = sqrt(2 · state bytes a fold moves / "
        f"record bytes a decode reads) = sqrt(2 · {moved} / {read}) = "
        f"sqrt(2 · {count(total.moved)} / {count(total.record_read)}) = {total.best_buffer:.1f}."
    )
