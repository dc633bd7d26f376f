"""The sections of `kvgen explain` on the derivation: its proofs, its records, its fold."""

from __future__ import annotations

from kvgen.codegen.levels import per_head
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.layout import count, cut, equations, indented, table, wrapped
from kvgen.explaining.notation import number
from kvgen.runtime.numbers import power_of_two


def renamed(d: Derivation) -> list[str]:
    """What stands for a tensor whose own name is assigned another value."""
    return [
        f"{name} is the input {tensor} as it came"
        if name.startswith("raw")
        else f"{name} is {tensor} before the token"
        for name, tensor in d.renamed
    ]


def fold_lines(d: Derivation) -> list[str]:
    end = d.fold_end()
    lines = [*equations(d.replayed, axes=False), d.fold_text()]
    return [*lines, end] if end else lines


def head(d: Derivation) -> list[str]:
    spec, storage = d.spec, d.spec.storage
    origin = f" ({spec.source})" if spec.source else ""
    title = f": {spec.title}" if spec.title and spec.title != spec.name else ""
    sizes = ", ".join(f"{name} = {size}" for name, size in spec.sizes)
    ratio = spec.ratio
    heads = f"; value head h uses key head h // {ratio}" if ratio > 1 else ""
    stored = ", ".join(f"{key} {value}" for key, value in storage.said.items())
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
    if d.spec.pasts:
        kept = ", ".join(f"{each.tensor.name} {each.count}" for each in d.spec.pasts)
        text = f"past        the last tokens of {kept}; as they came, once a row and layer"
        lines += wrapped(text, hang=12)
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
    waiting = (
        f"Tokens 1 … n, n < L, have come since and wait in the buffer{left}. The state before the "
        f"current token is {state}ₙ:"
    )
    if d.form.emptied:
        waiting = f"The end of every step folds its tokens: the state {state}ₙ before the next is"
    lines = wrapped(f"{state}₀ is the stored state. {waiting}")
    lines += ["", *indented([*d.sums(), d.state_text()]), ""]
    if d.form.factored:
        lines += wrapped(
            f"{d.running} is a running sum: the decay is proved to be bounded below, so that keys "
            f"are recorded before it, times exp(-{d.running}), in a buffer of at most "
            f"{d.form.factored.most} places. Its exp scales a column once for all places."
        )
        lines.append("")
    if d.sums() and any(not decay.log.is_const for decay in d.form.summed_decays):
        several = len(d.form.summed_decays) > 1
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
    parts = "is one part" if d.form.emptied else "takes one part from the pass and the rest"
    source = "of the pass" if d.form.emptied else "from the buffer"
    lines += wrapped(
        f"A read with {'one of them' if several else 'it'}, {d.vector}, {parts} {source}:"
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
    ratio = d.spec.ratio
    decoded, folded = set(d.records.decoded(d.form)), set(d.records.folded(d.form))
    rows = [("name", "axes", "shape", "dtype", "bytes", "")]
    for stored, value in zip(d.records.stored, d.stored_texts, strict=True):
        axes = stored.node.axes
        notes = [] if value == stored.name else [value]
        if axes.head == "H" and ratio > 1:
            notes.append(f"one for {ratio} value heads")
        if axes.head is None:
            notes.append("one for all heads")
        if d.form.factored and stored.node is d.form.factored.after:
            notes.append("only the newest is read")
        elif stored not in decoded:
            notes.append("for the fold only")
        elif stored not in folded:
            notes.append("for decodes only")
        shape = " × ".join(str(sizes[axis]) for axis in axes.names) or "1"
        size = count(stored.bytes(sizes))
        rows.append((stored.name, str(axes), shape, stored.dtype.said, size, "; ".join(notes)))
    total = d.records.bytes(sizes)
    each = f"{count(total / sizes['HV'])} for each value head"
    rows.append(("together", "", "", "", count(total), each))
    lines = [*wrapped("Of one row, in every layer:"), "", *indented(table(rows))]
    if any(s.as_given for s in d.records.stored):
        note = "cache is the dtype of the cache, which is its inputs'; here it has 2 bytes."
        lines += ["", *wrapped(note)]
    if d.derived:
        lines += ["", *wrapped("What follows from it when it is read back:"), ""]
        lines += indented(cut(equations(d.derived)))
    return lines


def fold(d: Derivation) -> list[str]:
    when = "At the end of every step" if d.form.emptied else "Once in L tokens"
    lines = wrapped(
        f"{when}, or when it is asked for, the records are applied to the stored state "
        "and the buffer is empty again; one launch does so for all layers. For j = 1 … n:"
    )
    lines += ["", *indented(cut(fold_lines(d)))]
    notes = [d.spec.storage.state.folded]
    if d.records.replay:
        kept = d.spec.storage.state
        anew = (
            f"What depends on the state is computed anew from "
            f"{'both planes' if kept.partial else f'{d.state}₀'} and from what is recorded of the "
            "inputs"
        )
        exactly = "" if kept.rounds else ", so that the state is the plain float32 kernel's"
        notes.append(f"{anew}{exactly}.")
    note = " ".join(filter(None, notes))
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


def kernels(d: Derivation) -> list[str]:
    sizes = dict(d.spec.sizes)
    ratio = d.spec.ratio
    found: list[str] = []
    if not per_head(d.form, d.records):
        shared = (
            "what its key gives is" if d.form.emptied else "the dots with the recorded keys are"
        )
        found.append(
            f"A decode program serves a key head: {shared} the same for its {ratio} value heads "
            "and computed once."
        )
    elif ratio > 1 and not d.form.emptied:
        found.append(
            "A decode program serves a value head: the dots with the records differ between the "
            "value heads of a key head."
        )
    else:
        found.append("A decode program serves a head.")
    if d.form.whole_v:
        found.append("A step sums over V, so that a program holds all value channels.")
    elif d.form.finish:
        found.append(
            "Only the output's end sums over V: it is left to a kernel of its own, but by a decode "
            "whose programs hold all value channels. All others split these into tiles."
        )
    else:
        found.append("No step sums over V, so that the value channels are split into tiles.")
    if any(decay.channel == "K" for decay in d.form.summed_decays):
        found.append("The decay over K takes an exponential for every key channel of a place.")
    for channel in ("K", "V"):
        padded = power_of_two(sizes[channel])
        if padded != sizes[channel]:
            found.append(f"{channel} = {sizes[channel]} is computed as {padded}, the rest masked.")
    return wrapped(" ".join(found))
