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

Each as its paper has it and in the form that kvgen derives from it, and three layers as models have
them, from the projections in front to those behind; `python docs/build.py` writes
this page anew. `kvgen explain NAME` has the derivation with every proof, `kvgen show NAME` the
spec; [performance-family.md](performance-family.md) has times.

How to read the forms:

- H query/key heads, HV value heads, K key and V value channels; `x @ S` reads the state with a
  key-side vector, `S @ y` with a value-side one.
- S₀ is the stored state. Tokens 1 … n came since it was last written and wait in the buffer; Sₙ is
  the state that they have made of it, the one that the current token finds.
- A name with a small j is what token j has left of it: its *record*. Γⱼ is the sum of the
  logarithms of the decays of all tokens after j, so that exp(Γⱼ) is what is left of j's write.
- A *fold* applies the records to S₀, oldest first, and empties the buffer.

And the table, all bytes being those of one token of one row in one layer, with a float32 state and
float32 records:

- **record**: bytes that a token leaves in the buffer. **L\\***: the buffer length that moves the
  fewest bytes. **buffer**: the power of two that kvgen takes.
- **decode**: bytes that a buffered decode moves, with its share of a fold. **plain**: those of a
  kernel that reads and writes the whole state. **ratio**: plain over decode, which is what a GPU
  bound by bytes would gain.
"""
COLUMNS = ("recurrence", "H", "HV", "K", "V", "record", "L*", "buffer", "decode", "plain", "ratio")


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
        f"A record has {count(total.record)} bytes, L\\* is {total.best_buffer:.1f}; with a buffer "
        f"of {buffer} a token moves {count(total.decode(buffer))} bytes, {count(saved)} fewer "
        "than the plain kernel.",
        "",
    ]
