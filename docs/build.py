"""Write the pages that are kvgen's own output: docs/walkthrough.md, one spec through every stage,
docs/gallery.md, every shipped spec, docs/errors.md, every diagnostic, and docs/tuned.md, what ships
tuned.

python docs/build.py            write the pages
python docs/build.py --check    say whether they are current; exit status 1 if not
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvgen.compiler import Analysis

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SPEC = "gated_deltanet"
# each needs one small module, and together they decode, fold, copy and fold after every token
CASES = ("flush, copy, recycled slots", "buffer of 1")
STORAGE = (("float32", "float32"), ("float32", "input"), ("split", "input"), ("bfloat16", "input"))

TEMPLATE = """\
# From a recurrence to a kernel

Gated DeltaNet through every stage of kvgen. Each block below is what kvgen itself gives;
`python docs/build.py` writes this page anew. [architecture.md](architecture.md) says which part of
the compiler does what.

The idea first. A linear-attention layer keeps a matrix S for each head, and a token changes it by
a factor (the decay) and an outer product of two vectors (the write). Reading and writing S for
every token is what decoding costs. But a token's effect on S is known from a few vectors: so keep
those in a small buffer, leave S as it is, and correct what is read from it. Every L tokens the
buffer is folded into S.

## 1. The spec

`kvgen/specs/gated_deltanet.yaml` says what a token does, as the paper does, and nothing of how.

{spec}

## 2. The walk

`step` is walked once with the state as a symbol. Every value becomes one node of a graph, equal
nodes being one, with named axes and a proved range: a factor on the state must be proved ≥ 0, and
what is proved ≤ 1 cannot make the state grow. Sₙ is the state before the token, and `read` and
`read_2` are what two vectors read of it: `k`, for the delta rule, and `query`, the scaled q.
Reads and the write are all taken back to Sₙ. That is why the output reads Sₙ too and not the new
state: `o` adds the token's own write by the dot `k @ query`. `raw_k` is the input `k`, whose name
the step assigns anew.

{walk}

## 3. The form

The state before a token is one decayed copy of the stored state S₀ and the outer products that
the n tokens since have left in the buffer. So a read is one pass over S₀ and dots with the
buffer, and no token but the last of L has to write S₀. A small j marks what token j has left; Γⱼ
is the sum of the log decays of the tokens after it. This text also heads the generated module.

{form}

`kvgen explain gated_deltanet` has the same with every proof.

## 4. The records

What a token has to leave in the buffer follows from the form. Storing inputs as they came instead
takes fewer bytes, and what is derived from them is computed again when it is read back. With
`storage.state=split` a decode reads half of the state's bytes, and a fold computes again what was
read from that half. Gain is by bytes alone: those of the plain kernel with such a state, over
those of a decode and its share of a fold.

{records}

## 5. The plan

A longer buffer folds more rarely and reads more records. The bytes of a decode have their minimum
near L* = {best:.1f}; kvgen takes the power of two with the fewest.

{lengths}

Tile sizes and warps do not change what is computed. Nothing has been tuned yet: they are chosen by
rule, here for a batch of 1 and one of 64. TILE is the value channels that are worked on at once,
TILES how many such tiles a program goes over, EARLY whether a tile is loaded before all else, so
that its latency is hidden, KEYS how many keys of a row lie along threads, 0 for all, where the
others are in their registers: a key has two numbers in the lines below, one for either:

{configs}

## 6. The module

`kvgen compile gated_deltanet` writes one file, which needs torch and triton only. Its decode
kernel has the spec's names; `count` is the slot's cursor, `place` the places in the buffer, `held`
those below the cursor, and names with `_cache_at` are addresses of this slot's part of the cache.
A program serves one key head. First come the token's vectors and
their dots with the recorded keys, which all value heads of the group share:

{shared}

Then, for each tile of value channels, the pass over the stored state, with the state loaded once
for both reads:

{tile}

The fold applies the records to the state, oldest first; one launch does so for all layers:

{fold}

## 7. The check

`kvgen check gated_deltanet` runs the module against the recurrence in float64, through folds,
copies, padding and odd sizes. Two of its cases, in Triton's interpreter on a CPU:

{check}

A buffer of one place folds after every token, so it must agree with the plain kernel; and does,
but for the last bits of float32. [performance-family.md](performance-family.md) has its times on a
GPU, [drift.md](drift.md) its errors after thousands of tokens.
"""


def page() -> str:
    """The text of the page."""
    # read by triton when it is first imported
    os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(ROOT))
    from kvgen import compiler, shipped
    from kvgen.codegen import cost
    from kvgen.explaining import explain

    path = Path(shipped.resolve(SPEC))
    analysis = compiler.analyse(path)
    module = compiler.emit(analysis)
    decode = between(module, "def _decode_kernel(", "\n\n# ")
    fold = between(module, "def _fold_kernel(", "\n@triton.jit")
    return TEMPLATE.format(
        spec=block(path.read_text(encoding="utf-8").splitlines(), "yaml"),
        walk=block(walk(analysis)),
        form=block(explain.form_text(analysis).splitlines()),
        records=block(records(path)),
        best=cost.cost(analysis.form, analysis.records).best_buffer,
        lengths=block(lengths(analysis)),
        configs=block(configs(analysis)),
        shared=python(decode, "    raw_k = tl.load(", "    tl.store(k_cache_at"),
        tile=python(decode, "        if not EARLY:", None),
        fold=python(fold, "        state = tl.load(", "        item += "),
        check=block(check(analysis)),
    )


def walk(analysis: Analysis) -> list[str]:
    """The named values of a token with their axes and ranges."""
    from kvgen.explaining.derivation import Derivation
    from kvgen.explaining.layout import table
    from kvgen.explaining.notation import number

    derivation = Derivation(analysis)
    nodes = {term.text: node for node, term in derivation.notation.known.items()}
    rows = [("name", "axes", "range", "value")]
    for line in (*derivation.decay_lines, *derivation.column_lines, *derivation.token_lines):
        bounds = nodes[line.name].bounds
        span = f"[{number(bounds.lo)}, {number(bounds.hi)}]"
        rows.append((line.name, str(line.axes), span, line.text))
    return table(rows)


def records(path: Path) -> list[str]:
    """What a token leaves under several storage options."""
    from kvgen import compiler
    from kvgen.codegen import cost
    from kvgen.explaining.layout import count, table

    rows = [("state", "records", "a token leaves", "bytes", "gain")]
    for state, kept in STORAGE:
        overrides = {"storage.state": state, "storage.records": kept}
        analysis = compiler.analyse(path, overrides)
        total = cost.cost(analysis.form, analysis.records)
        buffer = cost.buffer_length(analysis.form, analysis.records)
        names = ", ".join(stored.name for stored in analysis.records.stored)
        rows.append((state, kept, names, count(total.record), f"{total.gain(buffer):.2f}"))
    return table(rows)


def lengths(analysis: Analysis) -> list[str]:
    from kvgen.codegen import cost
    from kvgen.explaining.layout import count, table

    total = cost.cost(analysis.form, analysis.records)
    rows = [
        ("L", *map(str, cost.LENGTHS)),
        ("bytes", *(count(total.decode(length)) for length in cost.LENGTHS)),
        ("gain", *(f"{total.gain(length):.2f}" for length in cost.LENGTHS)),
    ]
    return table(rows, right=range(1, len(rows[0])))


def configs(analysis: Analysis) -> list[str]:
    from kvgen.explaining.layout import table
    from kvgen.kernels.untuned import configurations, waiting

    untuned = configurations(analysis.form, analysis.records)
    left_out = waiting(analysis.form, untuned)
    rows: list[tuple[str, str, str]] = [("kernel", "batch", "configuration")]
    for kernel, batches in untuned["default"].items():
        if kernel in left_out:
            continue
        for batch, values in batches.items():
            if batch in (1, 64):
                text = ", ".join(f"{name} {value}" for name, value in values.items())
                rows.append((kernel, str(batch), text))
    return table(rows)


def check(analysis: Analysis) -> list[str]:
    """Two cases, without the errors' digits, which are the machine's."""
    from kvgen.checking import check as checks
    from kvgen.explaining.layout import table

    report = checks.check(analysis, "cpu", only=CASES)
    rows = [("case", "quantity", "bound", "")]
    rows += [
        (
            row.case,
            row.quantity,
            f"{row.bound:.0e}" if row.bound else "0",
            "within" if row.ok else "beyond",
        )
        for row in report.rows
    ]
    return table(rows)


# text


def between(text: str, start: str, end: str) -> str:
    """From the start marker up to the next end marker."""
    _, found, rest = text.partition(start)
    if not found:
        raise LookupError(f"the module has no {start!r}")
    return rest.partition(end)[0].rstrip()


def python(text: str, first: str, last: str | None) -> str:
    """The lines from the one that begins with `first` up to the one that begins with `last`."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(first)), None)
    stops = [i for i, line in enumerate(lines) if last and line.startswith(last)]
    if start is None or (last and not stops):
        raise LookupError(f"the module has no line {first if start is None else last!r}")
    chosen = lines[start : stops[-1] if stops else None]
    indent = len(first) - len(first.lstrip())
    return block([line[indent:] for line in chosen], "python")


def block(lines: Sequence[str] | Iterable[str], language: str = "") -> str:
    return "\n".join([f"```{language}", *(line.rstrip() for line in lines), "```"])


def main(arguments: list[str]) -> int:
    walkthrough = page()
    import errors
    import gallery
    import ships

    pages = {
        "walkthrough.md": walkthrough,
        "gallery.md": gallery.page(),
        "errors.md": errors.page(),
        "tuned.md": ships.page(),
    }
    stale = False
    for name, text in pages.items():
        path = DOCS / name
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if arguments != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif old != text:
            stale = True
            lines = (each.splitlines(keepends=True) for each in (old, text))
            sys.stderr.writelines(difflib.unified_diff(*lines, "page", "now"))
            sys.stderr.write(f"docs/{name} is not current: run python docs/build.py\n")
    return int(stale)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
