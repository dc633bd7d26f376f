"""docs/performance-drafts.md from its figures: what drafts.py has measured, in tables."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.pages import level, method, report_of, wrapped
from kvgen.bench import Report
from kvgen.timing.drafts import PROMPT, PROMPT_ROWS, DraftRow
from kvgen.timing.short import ShortRow

SERVED = "gated_deltanet"
WINDOWS = (4, 8)
BATCHES = (1, 4, 16, 64, 256)
# of verify over decode, alone, by tokens and batch
GOALS = {4: {1: 1.6, 4: 1.6, 16: 1.3, 64: 1.15, 256: 1.15}, 8: {64: 1.35, 256: 1.35}}
# of verify + accept for each token over decode + advance
TOKEN_GOALS = {4: 0.40}
# measured earlier on the same kind of GPU: microseconds of 4 tokens, by batch
PEERS: dict[str, dict[int, float]] = {
    "SGLang 0.5.23, a state for each token, float32": {1: 6.53, 16: 63.8, 64: 251},
    "SGLang 0.5.23, a state for each token, bfloat16": {1: 5.47, 16: 42.2, 64: 144},
    "FlashInfer 0.7.2, a state for each token, bfloat16": {
        1: 5.36, 4: 10.2, 16: 38.3, 64: 136, 256: 512,
    },
    "FlashInfer 0.7.2, u-cache, bfloat16, no row folds": {
        1: 5.17, 4: 6.57, 16: 10.5, 64: 33.8, 256: 120,
    },
    "FlashInfer 0.7.2, u-cache, bfloat16, one row in four folds": {
        1: 5.24, 4: 10.2, 16: 17.2, 64: 45.6, 256: 158,
    },
}  # fmt: skip
# of a decode without a state over one with it, by the state's format and batch
SHORT_GOALS = {("bfloat16", 128): 0.6}
# FLA 0.6.0's chunk_gated_delta_rule, likewise: microseconds of the same prompt
CHUNK_US = 1100


ALONE = ("decode alone", "verify alone")
ENDS = ("decode + advance", "verify + accept")
Pairs = dict[tuple[int, int], tuple[DraftRow, DraftRow]]


@dataclass(frozen=True)
class Memory:
    """How many requests fit into a budget, all layers: a cache's; those with a state for each token
    of the window beside the same cache; and those with such states and no records at all."""

    storage: str
    window: int
    layers: int
    budget_gib: float
    mib: float
    requests: int
    beside: int
    states_only: int


@dataclass
class Found:
    """All that is measured."""

    reports: list[Report] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    short: list[ShortRow] = field(default_factory=list)

    @property
    def timed(self) -> set[tuple[str, str]]:
        """Specs with their states."""
        return {(report.spec, report.storage) for report in self.reports}

    def data(self) -> dict[str, Any]:
        reports = [report.data() for report in self.reports]
        memory, short = ([asdict(row) for row in rows] for rows in (self.memory, self.short))
        return {"reports": reports, "memory": memory, "short": short}


def read(path: Path) -> Found:
    """Figures as `--json` has written them."""
    data = json.loads(path.read_text(encoding="utf-8"))
    reports = [report_of(report) for report in data["reports"]]
    memory = [Memory(**row) for row in data["memory"]]
    return Found(reports, memory, [ShortRow(**row) for row in data["short"]])


HEADER = """# Performance of drafts and prompts

`verify` takes several tokens of a row in one pass over the state, `accept` keeps some of them,
`extend` takes in a prompt. Times of single tokens are in [performance.md](performance.md).

![time of verify over that of decode against batch, with the goals](figures/drafts.svg)

{method}- Records are kept as the inputs came (`storage.records: input`). In whole steps all T
  tokens are accepted, and `decode` + `advance` is on the same buffer without a window, as a server
  without drafts runs it.
- **Configurations are rules of thumb**, chosen by batch; nothing has been tuned.
- **Figures of other libraries were measured earlier**, on the same kind of GPU and by the same
  method, **not in this run**: read them as ratios.
"""


def page(found: Found, out: Path, kept: Path | None) -> str:
    reports = level(found.reports)
    served = [report for report in reports if report.spec == SERVED]
    others = [report for report in reports if report.spec != SERVED]
    parts = [heading(found.reports, out, kept)]
    parts += [served_tables(report) for report in served]
    parts += [beside_others(served), prompts(served)]
    if found.memory:
        parts.append(memory(found.memory))
    if found.short:
        parts.append(short_contexts(found.short))
    if others:
        parts.append(other_table(others))
    return "\n".join(parts)


def heading(reports: Sequence[Report], out: Path, kept: Path | None) -> str:
    first = reports[0]
    rows = [row for report in reports for row in report.drafts if row.kernel in (*ALONE, *ENDS)]
    least = min(row.layers for row in rows)
    command = ["python benchmarks/drafts.py --warm 12 --out", str(out)]
    command += ["--json", str(kept)] if kept else []
    return HEADER.format(
        method=method(
            device=first.device,
            versions=first.versions,
            once="once",
            command=wrapped(command),
            layers=first.layers,
            least=least,
            copy=max(report.copy_gbs for report in reports),
        )
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """A table, its first columns flush left."""
    marks = [" --- " if column < left else " ---: " for column in range(len(head))]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(marks)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def pairs(report: Report, end: bool) -> Pairs:
    """By tokens and batch the rows of decode and verify, alone or with the end of the step."""
    first, second = ENDS if end else ALONE
    decode = None
    found: Pairs = {}
    for row in report.drafts:
        if row.kernel == first:
            # it was timed just before what it is compared with
            decode = row
        elif row.kernel == second and decode is not None:
            found[row.tokens, row.batch] = (decode, row)
    return found


def served_tables(report: Report) -> str:
    """For every number of tokens a table of the calls alone and one of whole steps."""
    parts = [f"## {report.spec}, {report.storage} state, buffer {report.buffer}\n"]
    alone, ends = pairs(report, end=False), pairs(report, end=True)
    for tokens in dict.fromkeys(tokens for tokens, _ in alone):
        parts += [f"{tokens} tokens, alone:\n", alone_table(tokens, alone)]
        goal = f" (goal for the ratio: {TOKEN_GOALS[tokens]:.2f})" if tokens in TOKEN_GOALS else ""
        parts += [f"{tokens} tokens, whole steps{goal}:\n", ends_table(tokens, ends)]
    return "\n".join(parts)


def alone_table(tokens: int, found: Pairs) -> str:
    rows = [
        (str(batch), *timed(decode), f"{decode.error:.1e}", *timed(verify), f"{verify.error:.1e}",
         f"{verify.us / decode.us:.2f}", number(GOALS.get(tokens, {}).get(batch)))
        for (count, batch), (decode, verify) in found.items()
        if count == tokens
    ]  # fmt: skip
    head = ("batch", "decode", "floor", "share", "error", "verify", "floor", "share", "error",
            "ratio", "goal")  # fmt: skip
    return table(head, rows)


def ends_table(tokens: int, found: Pairs) -> str:
    rows = [
        (str(batch), *timed(decode), *timed(verify), number(verify.worst_us),
         f"{verify.token_us:.2f}", f"{verify.token_us / decode.us:.2f}")
        for (count, batch), (decode, verify) in found.items()
        if count == tokens
    ]  # fmt: skip
    head = ("batch", "decode + advance", "floor", "share", "verify + accept", "floor", "share",
            "worst", "a token", "ratio")  # fmt: skip
    return table(head, rows)


def timed(row: DraftRow) -> tuple[str, str, str]:
    """Time, floor and share."""
    return f"{row.us:.2f} ± {row.spread:.2f}", f"{row.floor_us:.2f}", f"{row.share:.0%}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def beside_others(served: Sequence[Report]) -> str:
    tokens = WINDOWS[0]
    rows: list[Sequence[str]] = []
    for kernel, end in (("alone", False), ("with accept, folds included", True)):
        for report in served:
            us = {b: v.us for (count, b), (_, v) in pairs(report, end).items() if count == tokens}
            cells = [number(us.get(batch)) for batch in BATCHES]
            rows.append((f"kvgen, {report.storage}, {kernel}", "this one", *cells))
    for name, us in PEERS.items():
        cells = [f"{us[batch]:g}" if batch in us else "–" for batch in BATCHES]
        rows.append((name, "earlier", *cells))
    return section(
        f"{tokens} tokens of {SERVED} beside other libraries",
        """Microseconds for one layer. Those that keep a state for each token write one for every
        draft and fold nothing later; kvgen and the u-cache only read the state. *no row folds* is
        to be read beside kvgen alone, *one row in four folds* beside its whole steps with a buffer
        of 16.""",
        table(("", "run", *(f"batch {batch}" for batch in BATCHES)), rows, left=2),
    )


def prompts(served: Sequence[Report]) -> str:
    rows = [
        (report.storage, *timed(row), f"{row.token_us:.3f}", f"{row.error:.1e}",
         f"{row.state_error or 0:.1e}", f"{row.us / CHUNK_US:.2f}")
        for report in served
        for row in report.drafts
        if row.kernel == "extend + accept"
    ]  # fmt: skip
    head = ("state", "time", "floor", "share", "a token", "error", "its state's", "of FLA's time")
    return section(
        f"A prompt: {PROMPT} tokens for {PROMPT_ROWS} rows of {SERVED}",
        f"""`extend` and `accept` of one layer, called from the host while the GPU is idle, launches
        included, on fresh rows. *error* is that of the worst output of all tokens of one row, *its
        state's* that of the state after them. The last column is this time over
        {CHUNK_US / 1000:.1f} ms: FLA 0.6.0's `chunk_gated_delta_rule` took that to 1.3 ms, called
        from the host too, on the same kind of GPU, earlier and not in this run.""",
        table(head, rows, left=1),
    )


def memory(rows: Sequence[Memory]) -> str:
    first = rows[0]
    cells = [
        (row.storage, f"{row.mib:.1f}", str(row.requests), str(row.beside),
         f"{row.requests / row.beside:.2f}", str(row.states_only),
         f"{row.requests / row.states_only:.2f}")
        for row in rows
    ]  # fmt: skip
    states = f"{first.window} states beside it", "gain", f"{first.window + 1} states alone", "gain"
    return section(
        "Memory of a window",
        f"""How many requests of {SERVED}, {first.layers} layers, were allocated on this GPU until
        {first.budget_gib:g} GiB were full: in caches with `window={first.window}`; in the same
        caches, with a state for each token of the window beside them; and as the committed state
        and {first.window} more without any records. *gain* is the first number over the one before
        it.""",
        table(("state", "MiB a request", "requests", *states), cells, left=1),
    )


def short_contexts(rows: Sequence[ShortRow]) -> str:
    first = rows[0]
    cells = [
        (row.storage, str(row.batch), f"{row.stateful_us:.2f} ± {row.stateful_spread:.2f}",
         f"{row.us:.2f} ± {row.spread:.2f}", f"{row.floor_us:.2f}", f"{row.share:.0%}",
         f"{row.error:.1e}", f"{row.us / row.stateful_us:.2f}",
         number(SHORT_GOALS.get((row.storage, row.batch))))
        for row in rows
    ]  # fmt: skip
    head = ("state", "batch", "with a state", "without", "floor", "share", "error", "ratio",
            "goal")  # fmt: skip
    return section(
        f"{first.tokens} tokens and no state",
        f"""`decode` of {SERVED} alone, {first.layers} layers, on a cache with
        `short_context={first.context}` whose rows hold {first.tokens} tokens each and no state,
        beside `decode` on a cache of states with rows at all fill levels of their buffers. The two
        take turns. *floor*, *share* and *error* are those of the decode without states, *ratio* is
        its time over the other's.""",
        table(head, cells, left=1),
    )


def other_table(reports: Sequence[Report]) -> str:
    rows: list[Sequence[str]] = []
    for report in reports:
        alone, ends = pairs(report, end=False), pairs(report, end=True)
        for key, (decode, verify) in alone.items():
            plain, whole = ends[key]
            rows.append(
                (report.spec, str(report.buffer), str(verify.batch), *timed(decode), *timed(verify),
                 f"{verify.error:.1e}", f"{verify.us / decode.us:.2f}",
                 f"{plain.us:.2f} ± {plain.spread:.2f}", f"{whole.token_us:.2f}",
                 f"{whole.token_us / plain.us:.2f}")
            )  # fmt: skip
    head = ("spec", "buffer", "batch", "decode", "floor", "share", "verify", "floor", "share",
            "error", "ratio", "decode + advance", "a token", "ratio")  # fmt: skip
    return section(
        f"Other recurrences, {reports[0].storage} state, {WINDOWS[0]} tokens",
        "Alone up to the first *ratio*; after it whole steps.",
        table(head, rows, left=1),
    )


def section(title: str, text: str, body: str) -> str:
    return f"## {title}\n\n{textwrap.fill(' '.join(text.split()), 100)}\n\n{body}"
