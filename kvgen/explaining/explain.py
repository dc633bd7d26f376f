"""The derived form, its records and their cost: for people, for programs, for a module's head."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from kvgen.analysis import Analysis
from kvgen.codegen import cost, features
from kvgen.codegen.levels import per_head
from kvgen.explaining import account, appendix, short, windows
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.formulas import formulas
from kvgen.explaining.layout import count, cut, equations, indented, tidy
from kvgen.explaining.notation import Line, number
from kvgen.kernels.fold import FOLD
from kvgen.kernels.short import SHORT

HEADER_LINES = 24


def form_text(analysis: Analysis) -> str:
    """The recurrence as written and in its buffered form, for the head of a module."""
    d = Derivation(analysis)
    state = d.state
    shrinks = {d.name(decay.log) for decay in d.form.decays if decay.nonpositive}
    body = appendix.renamed(d)
    for line in (*d.decay_lines, *d.column_lines):
        proved = "    (≤ 0)" if line.name in shrinks else ""
        body += [equation + proved for equation in equations([line], axes=False)]
    body += d.sums()
    body += [d.read_text(side) for side in d.sides_read] or [d.state_text()]
    body += equations(d.token_lines, axes=False)
    body += [f"o = {d.output}"] if d.output != "o" else []
    kept = ", ".join(cut([f"{s.name} {s.node.axes}" for s in d.records.stored], HEADER_LINES))
    waiting = "" if d.form.emptied else "tokens 1 … n wait in the buffer, "
    lines = [
        "One token:",
        *indented(cut(d.recurrence, HEADER_LINES), 2),
        f"Buffered: {state}₀ is the stored state, {waiting}{state}ₙ is the state before this one.",
        *indented(cut(body, HEADER_LINES), 2),
        *indented([f"A token leaves {kept or 'nothing'}. A fold, for j = 1 … n:"], 0),
        *indented(cut(appendix.fold_lines(d), HEADER_LINES), 2),
    ]
    return "\n".join(tidy(lines))


def text(analysis: Analysis, times: Sequence[short.Timed] = ()) -> str:
    """All that was derived from a spec, as the appendix of a paper would have it. times: those of
    short contexts that have been tuned."""
    d = Derivation(analysis)
    found = {each.key: each for each in formulas(analysis)}
    sections = {
        "The recurrence": appendix.recurrence(d),
        "The decay": appendix.decays(d),
        "One pass over the stored state": appendix.one_pass(d),
        "The record of a token": appendix.records(d),
        "The fold": appendix.fold(d),
        "Carried states": appendix.carried(d) if d.form.carries else [],
        "Several tokens at once": windows.section(d),
        "Bytes and operations": account.account(d, found),
        "Short contexts": short.section(d, times),
        "The kernels": appendix.kernels(d),
    }
    lines = appendix.head(d)
    for place, (title, body) in enumerate(((t, b) for t, b in sections.items() if b), 1):
        lines += ["", f"{place}  {title}", "", *body]
    return "\n".join(tidy(lines)) + "\n"


def summary(
    analysis: Analysis, tuned: bool = False, asked: Collection[str] = features.USUAL
) -> list[tuple[str, str]]:
    """What `kvgen compile` says of a module: records, bytes, the buffer and L*, the decays,
    and the tokens that a call takes. tuned: whether it has another buffer on some GPUs. asked:
    its features."""
    d = Derivation(analysis)
    form, records = analysis.form, analysis.records
    total = cost.cost(form, records)
    buffer = cost.buffer_length(form, records)
    kept = [f"{s.name} {s.node.axes} {s.dtype.said}" for s in records.stored]
    decays = [f"{d.name(each.log)}: {'; '.join(d.facts(each))}" for each in form.decays]
    chosen = ", chosen by the spec" if form.spec.buffer else ""
    chosen = chosen or (" where its length is not tuned" if tuned else "")
    best = f"L* = {total.best_buffer:.1f}"
    if form.emptied:
        best = "or as many as a step has tokens, as rows fold at its end"
    rows = [
        (
            "records",
            f"{', '.join(cut(kept, HEADER_LINES))}: {count(total.record)} bytes a token"
            if kept
            else "none",
        ),
        (
            "bytes per token",
            f"{count(total.decode(buffer))} in a layer; the plain kernel "
            f"{count(total.recurrent())}, {total.gain(buffer):.2f} times as many",
        ),
        ("buffer", f"{account.places(buffer)}{chosen}; {best}"),
        ("decay", "\n".join(cut(decays, HEADER_LINES)) or "none"),
        ("tokens at once", windows.summary(d, asked)),
    ]
    return [(name, "\n".join(tidy(row.split("\n")))) for name, row in rows]


def data(analysis: Analysis, times: Sequence[short.Timed] = ()) -> dict[str, Any]:
    """The same as `text`, for programs."""
    d = Derivation(analysis)
    form, spec = d.form, d.spec
    total = cost.cost(form, d.records)
    return {
        "name": spec.name,
        "title": spec.title,
        "source": spec.source,
        "sizes": dict(spec.sizes),
        "storage": spec.storage.said,
        "recurrence": d.recurrence,
        "renamed": dict(d.renamed),
        "past": {each.tensor.name: each.count for each in spec.pasts},
        "decays": [
            {
                "name": d.name(decay.log),
                "axes": list(decay.log.axes.names),
                "constant": decay.constant,
                "nonpositive": decay.nonpositive,
                "lower": decay.lower,
            }
            for decay in form.decays
        ],
        "definitions": _lines([*d.decay_lines, *d.column_lines]),
        "sums": d.sums(),
        "state": d.state_text(),
        "columns": [
            {"name": c.name, "axes": list(c.node.axes.names), "contracts": c.node.axes.channels}
            for c in d.columns
        ],
        "reads": [d.read_text(side) for side in d.sides_read],
        "token": _lines(d.token_lines),
        "output": d.output,
        "records": _records(d),
        "derived": _lines(d.derived),
        FOLD.name: {"replay": d.records.replay, "lines": appendix.fold_lines(d)},
        "carried": [
            {
                "name": carry.tensor.name,
                "axes": list(carry.tensor.axes),
                "init": number(carry.tensor.init),
                "before": d.carried(carry)[0],
                "after": d.carried(carry)[1],
            }
            for carry in form.carries
        ],
        "windows": windows.data(d),
        "cost": {f.key: {"formula": f.text, "value": f.value} for f in formulas(analysis)},
        "buffer": {
            "best": total.best_buffer,
            "places": cost.buffer_length(form, d.records),
            "given": spec.buffer is not None,
        },
        "gain": total.gain(cost.buffer_length(form, d.records)),
        SHORT.name: short.data(d, times),
        "kernels": {
            "per_head": per_head(form, d.records),
            "whole_v": form.whole_v,
            "finish": form.finish is not None,
        },
    }


def _records(d: Derivation) -> list[dict[str, Any]]:
    sizes = dict(d.spec.sizes)
    decoded, folded = set(d.records.decoded(d.form)), set(d.records.folded(d.form))
    return [
        {
            "name": stored.name,
            "value": value,
            "axes": list(stored.node.axes.names),
            "shape": [sizes[axis] for axis in stored.node.axes.names],
            "dtype": stored.dtype.said,
            "bytes": stored.bytes(sizes),
            "decoded": stored in decoded,
            "folded": stored in folded,
        }
        for stored, value in zip(d.records.stored, d.stored_texts, strict=True)
    ]


def _lines(lines: Iterable[Line]) -> list[dict[str, Any]]:
    return [{"name": e.name, "text": e.text, "axes": list(e.axes.names)} for e in lines]
