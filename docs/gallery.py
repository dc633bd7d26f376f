"""The gallery of shipped recurrences: what kvgen derives from each. Written by build.py."""

from __future__ import annotations

from collections.abc import Iterable

from kvgen import compiler
from kvgen.codegen import cost
from kvgen.explaining import explain
from kvgen.explaining.layout import count
from kvgen.shipped import Shipped, shipped

HEAD = """\
# The shipped recurrences

Each as its paper has it and in the form that kvgen derives from it; `python docs/build.py` writes
this page anew. Bytes are those of one token in one layer with a float32 state and float32
records: what a token leaves in the buffer (record), and what a decode moves with its share of a
fold, against the plain kernel, which reads and writes the whole state. L* is the buffer length
with the fewest bytes, buffer the power of two that kvgen takes. `kvgen explain NAME` has the
derivation with every proof, and `--set storage.state=split`, `--set sizes.HV=8` change what it is
derived from.
"""
COLUMNS = ("", "H", "HV", "K", "V", "record", "L*", "buffer", "decode", "plain", "ratio")


def page() -> str:
    """The text of the page."""
    entries = [(spec, compiler.analyse(spec.path)) for spec in shipped()]
    rows = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1))]
    rows += [(f"[{spec.name}](#{spec.name})", *numbers(analysis)) for spec, analysis in entries]
    parts = [HEAD, *("| " + " | ".join(row) + " |" for row in rows), ""]
    for spec, analysis in entries:
        parts += section(spec, analysis)
    return "\n".join(parts)


def numbers(analysis: compiler.Analysis) -> Iterable[str]:
    spec = analysis.spec
    total = cost.cost(analysis.form, analysis.records)
    buffer = cost.buffer_length(analysis.form, analysis.records)
    yield from (str(spec.size(axis)) for axis in ("H", "HV", "K", "V"))
    yield from (count(total.record), f"{total.best_buffer:.1f}", str(buffer))
    yield from (count(total.decode(buffer)), count(total.recurrent()))
    yield f"{total.gain(buffer):.2f}"


def section(spec: Shipped, analysis: compiler.Analysis) -> list[str]:
    sizes = ", ".join(f"{name} {size}" for name, size in analysis.spec.sizes)
    total = cost.cost(analysis.form, analysis.records)
    buffer = cost.buffer_length(analysis.form, analysis.records)
    saved = total.recurrent() - total.decode(buffer)
    return [
        f"## {spec.name}",
        "",
        f"{spec.title}. Source: {spec.source}. {sizes}.",
        "",
        "```",
        *(line.rstrip() for line in explain.form_text(analysis).splitlines()),
        "```",
        "",
        f"A record has {count(total.record)} bytes, L* is {total.best_buffer:.1f}; with a buffer "
        f"of {buffer} a token moves {count(total.decode(buffer))} bytes, {count(saved)} fewer "
        "than the plain kernel.",
        "",
    ]
