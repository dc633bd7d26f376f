"""The sections of `kvgen explain`: the derivation with its proofs, its records and its cost."""

from __future__ import annotations

from collections.abc import Mapping

from kvgen import cost
from kvgen.derivation import Derivation
from kvgen.formulas import Formula
from kvgen.kernels import per_head
from kvgen.layout import count, cut, equations, indented, table, wrapped
from kvgen.notation import number

FOLDED_AS = {
    "float32": "",
    "bfloat16": "The sum is float32 and is rounded to bfloat16 once, at the end.",
    "float16": "The sum is float32 and is rounded to float16 once, at the end.",
    "split": "The state is float32, in two planes of 16 bits: a decode reads the upper one, a "
    "bfloat16; a fold reads and writes both.",
}


def dtype(name: str) -> str:
    return "cache" if name == "input" else name


def places(buffer: int) -> str:
    return "1 place" if buffer == 1 else f"{buffer} places"


def renamed(d: Derivation) -> list[str]:
    """What stands for a tensor whose own name is assigned another value."""
    return [
        f"{name} is the input {tensor} as it came"
        if name.startswith("raw")
        else f"{name} is {tensor} before the token"
        for name, tensor in d.renamed
    ]


def fold_lines(d: Derivation) -> list[str]:
    return [*equations(d.replayed, axes=False), d.fold_text()]


def head(d: Derivation) -> list[str]:
    spec, storage = d.spec, d.spec.storage
    origin = f" ({spec.source})" if spec.source else ""
    title = f": {spec.title}" if spec.title and spec.title != spec.name else ""
    sizes = ", ".join(f"{name} = {size}" for name, size in spec.sizes)
    ratio = spec.size("HV") // spec.size("H")
    heads = f"; value head h uses key head h // {ratio}" if ratio > 1 else ""
    stored = f"state {storage.state}, records {storage.records}, layout {storage.layout}"
    return [f"{spec.name}{title}{origin}", f"{sizes}{heads}", stored]


def recurrence(d: Derivation) -> list[str]:
    lines = [*indented(cut(d.recurrence)), ""]
    for what, tensors in (
        ("inputs", d.spec.inputs),
        ("parameters", d.spec.params),
        ("states", d.spec.states),
    ):
        if tensors:
            listed = ", ".join(f"{t.name} [{', '.join(t.axes)}]" for t in tensors)
            lines += wrapped(f"{what:<12}{listed}", hang=12)
    lines += wrapped("output      o [HV, V]")
    notes = renamed(d)
    return [*lines, "", *wrapped(f"Below, {', '.join(notes)}.")] if notes else lines


def decays(d: Derivation) -> list[str]:
    """Each log decay, written without cancellation, and what is proved of it."""
    if not d.form.decays:
        return wrapped("None: what is stored stays as it is.")
    lines = [*indented(cut(equations(d.decay_lines))), ""]
    for decay in d.form.decays:
        facts = "; ".join(d.facts(decay))
        lines += wrapped(f"{d.name(decay.log)} {decay.log.axes}: {facts}.", hang=3)
    return lines


def one_pass(d: Derivation) -> list[str]:
    """The state before a token, its reads, and the token."""
    state = d.state
    kept = d.records.stored
    left = f"; {kept[0].name}ⱼ is what token j has left of {kept[0].name}" if kept else ""
    lines = wrapped(
        f"{state}₀ is the stored state. Tokens 1 … n, n < L, have come since and wait in the "
        f"buffer{left}. The state before the current token is {state}ₙ:"
    )
    lines += ["", *indented([*d.sums(), d.state_text()]), ""]
    if any(not decay.log.is_const for decay in d.form.decays):
        several = len(d.form.decays) > 1
        lines += wrapped(
            f"{'These sums are' if several else 'Γ is'} summed newest first from every token's own "
            "logarithm; a weight is never the difference of two running sums."
        )
        lines.append("")
    if not d.form.columns:
        return [*lines, *wrapped("Nothing reads it.")]
    last = d.columns[-1].name
    several, writes = len(d.columns) > 1, d.form.writes
    names = " and ".join(filter(None, (", ".join(c.name for c in d.columns[:-1]), last)))
    lines += wrapped(
        f"It is read with {names}. All are known before the pass, so that one pass over {state}₀ "
        "serves them:"
        if several
        else f"It is read with {names}, which is known before the pass over {state}₀:"
    )
    shown = {line.name for line in d.column_lines}
    plain = [(c.name, str(c.node.axes)) for c in d.columns if c.name not in shown]
    lines += ["", *indented([*cut(equations(d.column_lines)), *cut(table(plain))]), ""]
    lines += wrapped(
        f"A read with {'one of them' if several else 'it'}, {d.vector}, takes one part from the "
        "pass and the rest from the buffer:"
    )
    lines += ["", *indented(d.read_text(side) for side in d.sides_read), ""]
    own = " What it has itself written enters by dots of vectors:" if writes else ""
    lines += wrapped(f"The token, from these reads.{own}")
    lines += ["", *indented(cut(equations(d.token_lines)))]
    if d.output != "o":
        lines += indented([f"o = {d.output}"])
    return lines


def records(d: Derivation) -> list[str]:
    """What is stored, who reads it, and what is computed from it."""
    sizes = dict(d.spec.sizes)
    ratio = sizes["HV"] // sizes["H"]
    decoded, folded = set(d.records.decoded(d.form)), set(d.records.folded(d.form))
    rows = [("name", "axes", "shape", "dtype", "bytes", "")]
    for stored, value in zip(d.records.stored, d.stored_texts, strict=True):
        axes = stored.node.axes
        notes = [] if value == stored.name else [value]
        if axes.head == "H" and ratio > 1:
            notes.append(f"one for {ratio} value heads")
        if axes.head is None:
            notes.append("one for all heads")
        if stored not in decoded:
            notes.append("for the fold only")
        if stored not in folded:
            notes.append("for decodes only")
        shape = " × ".join(str(sizes[axis]) for axis in axes.names) or "1"
        size = count(stored.bytes(sizes))
        rows.append((stored.name, str(axes), shape, dtype(stored.dtype), size, "; ".join(notes)))
    total = d.records.bytes(sizes)
    each = f"{count(total / sizes['HV'])} for each value head"
    rows.append(("together", "", "", "", count(total), each))
    lines = [*wrapped("Of one row, in every layer:"), "", *indented(table(rows))]
    if any(s.dtype == "input" for s in d.records.stored):
        note = "cache is the dtype of the cache, which is its inputs'; here it has 2 bytes."
        lines += ["", *wrapped(note)]
    if d.derived:
        lines += ["", *wrapped("What follows from it when it is read back:"), ""]
        lines += indented(cut(equations(d.derived)))
    return lines


def fold(d: Derivation) -> list[str]:
    lines = wrapped(
        "Once in L tokens, or when it is asked for, the records are applied to the stored state "
        "and the buffer is empty again; one launch does so for all layers. For j = 1 … n:"
    )
    lines += ["", *indented(cut(fold_lines(d)))]
    note = FOLDED_AS[d.spec.storage.state]
    if d.records.replay:
        note += (
            " What depends on the state is computed anew from both planes and from what is "
            "recorded of the inputs, so that the state is the plain float32 kernel's."
        )
    return [*lines, *(["", *wrapped(note)] if note else [])]


def carried(d: Derivation) -> list[str]:
    sizes = dict(d.spec.sizes)
    rows = [("name", "axes", "bytes", "at first", "before a token", "after it")]
    for carry in d.form.carries:
        size = 4
        for axis in carry.tensor.axes:
            size *= sizes[axis]
        axes = f"[{', '.join(carry.tensor.axes)}]"
        first = number(carry.tensor.init)
        rows.append((carry.tensor.name, axes, count(size), first, *d.carried(carry)))
    lines = wrapped(
        "Small, float32 and not buffered. Each record has their values beside it, so that a token "
        "updates nothing in place."
    )
    return [*lines, "", *indented(table(rows))]


def account(d: Derivation, found: Mapping[str, Formula]) -> list[str]:
    """Bytes and operations, and the buffer length that follows from them."""
    total = cost.cost(d.form, d.records)
    buffer = cost.buffer_length(d.form, d.records)
    lines = wrapped(
        "For one token of one row, in one layer. An element of the inputs, the output and the "
        "cache's dtype has 2 bytes; parameters are read once for all rows and not counted."
    )
    parts = _parts(total)
    first = {name: found[key] for key, name in reversed(parts.items())}
    known = [(name, first[name].text, count(first[name].value)) for name in _unique(parts)]
    lines += ["", *indented(table([("bytes of", "", ""), *known], right=(2,))), ""]
    lines += indented(_decode_account(total, parts, buffer))
    moved = "(2·state + 2·carried)" if total.carried else "2·state"
    lines += ["", *wrapped(_best(total, moved, parts["record_read"]))]
    lengths = sorted({*cost.LENGTHS, buffer})
    trial = [
        ("L", *map(str, lengths)),
        ("bytes", *(count(total.decode(length)) for length in lengths)),
        ("gain", *(f"{total.gain(length):.2f}" for length in lengths)),
    ]
    right = tuple(range(1, len(lengths) + 1))
    lines += ["", *indented(table(trial, right=right)), ""]
    why = "as the spec says" if d.spec.buffer else "the power of two with the fewest bytes"
    lines += wrapped(
        f"The buffer has {places(buffer)}, {why}. By bytes alone a decode is then "
        f"{total.gain(buffer):.2f} times as fast as the plain kernel."
    )
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


def _parts(total: cost.Cost) -> dict[str, str]:
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


def kernels(d: Derivation) -> list[str]:
    sizes = dict(d.spec.sizes)
    ratio = sizes["HV"] // sizes["H"]
    found: list[str] = []
    if not per_head(d.form, d.records):
        found.append(
            f"A decode program serves a key head: the dots with the recorded keys are the same "
            f"for its {ratio} value heads and computed once."
        )
    elif ratio > 1:
        found.append(
            "A decode program serves a value head: the dots with the records differ between the "
            "value heads of a key head."
        )
    else:
        found.append("A decode program serves a head.")
    if d.form.whole_v:
        found.append("A step sums over V, so that a program holds all value channels.")
    else:
        found.append("No step sums over V, so that the value channels are split into tiles.")
    if any(decay.channel == "K" for decay in d.form.decays):
        found.append("The decay over K takes an exponential for every key channel of a place.")
    for channel in ("K", "V"):
        padded = 1 << (sizes[channel] - 1).bit_length()
        if padded != sizes[channel]:
            found.append(f"{channel} = {sizes[channel]} is computed as {padded}, the rest masked.")
    return wrapped(" ".join(found))
