"""Fill the tables of docs/servers.md from the figures in docs/data.

    python benchmarks/servers/page.py            write the page
    python benchmarks/servers/page.py --check    say whether it is current; exit status 1 if not

The page is written by hand but for what stands between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.drafts_page import table
from benchmarks.servers import sglang_page, turns_page
from benchmarks.servers.named import MIB, STOCK, VLLM, Figures, machine, served
from benchmarks.servers.shares import shares

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "servers.md"
DATA = ROOT / "docs" / "data"
BLOCK = re.compile(r"(<!-- (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.S)


def main(arguments: list[str]) -> int:
    old = PAGE.read_text(encoding="utf-8")
    new = filled(old, DATA)
    if arguments != ["--check"]:
        PAGE.write_text(new, encoding="utf-8")
        return 0
    if old != new:
        sys.stderr.write("docs/servers.md is not current: run python benchmarks/servers/page.py\n")
    return int(old != new)


def filled(text: str, data: Path) -> str:
    """The page with each block written anew; one without figures says so."""

    def block(match: re.Match[str]) -> str:
        render, *files = BLOCKS[match["name"]]
        paths = [data / file for file in files if (data / file).is_file()]
        if not paths:
            return f"{match[1]}\nNot measured yet.\n\n{match[3]}"
        figures = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return f"{match[1]}\n{render(*figures)}\n{match[3]}"

    return BLOCK.sub(block, text)


# speed -------------------------------------------------------------------------------------------


def speed(found: Figures) -> str:
    """A table of tokens a second, one of times between tokens and one of linear attention, for
    every model and kind of prompts."""
    groups: dict[tuple[str, bool, bool], list[Figures]] = {}
    for run in found["runs"]:
        said = run["about"]
        kind = said["model"], said["staggered"], said.get("overlap", False)
        groups.setdefault(kind, []).append(run)
    about = found["runs"][0]["about"]
    server = served(about)
    place = about.get("timed_at", "vLLM's front end, which ran in the same process")
    rounds = [row["rounds"] for run in found["runs"] for row in run["rows"]]
    spread = max(worst(each) / best(each)["median_ms"] for each in rounds)
    parts = [
        f"Measured on {machine(about)}; time between tokens at {place}. The best of an arm's "
        f"{max(map(len, rounds))} rounds is shown, as what else the host does can only add; the "
        f"worst took up to {spread:.1f} times as long.\n"
    ]
    for (model, staggered, overlap), runs in groups.items():
        runs.sort(key=lambda run: server.order(run["arm"]))
        lengths = "of many lengths" if staggered else f"of {runs[0]['about']['prompt']} tokens"
        lengths += ", overlap schedule" if overlap else ""
        parts.append(f"**Model `{model}`, prompts {lengths}.** {share(runs)}\n")
        stock = stock_of(runs)
        state = stock["arm"].partition("-")[2] if stock else "float32"
        own = f"{server.name}'s own with {state} states"
        parts.append(f"Tokens a second, and over {own}:\n")
        parts.append(by_batch(runs, rate))
        parts.append("Milliseconds between tokens, median and 99th percentile:\n")
        parts.append(by_batch(runs, between))
        if all("gpu" in row for run in runs for row in run["rows"]):
            parts += of_kernels(runs, own, stock_of)
    return "\n".join(parts)


def on_gpu(found: Figures) -> str:
    """What kernels take alone, each arm beside the server's own with states of the same type."""
    runs, about = found["runs"], found["runs"][0]["about"]
    server = served(about)
    runs.sort(key=lambda run: server.order(run["arm"]))
    head = (
        f"Measured on {machine(about)}, model `{about['model']}`, prompts of {about['prompt']} "
        f"tokens. {share(runs)}\n"
    )
    own = f"{server.name}'s own with the same states"
    parts = [head, *of_kernels(runs, own, stock_alike)]
    laps = max(len(row["rounds"]) for run in runs for row in run["rows"])
    if laps > 1:
        parts.append(
            f"Tokens a second, mean of {laps} rounds and its standard error, and over {own}:\n"
        )
        parts.append(by_batch(runs, rate_with_error, stock_alike))
    return "\n".join(parts)


def of_kernels(runs: Sequence[Figures], own: str, stock: Stock) -> list[str]:
    server = served(runs[0]["about"])
    return [
        "Linear attention on the GPU, microseconds a step: the recurrence alone, with "
        f"convolution and norm, and this over {own}:\n",
        by_batch(runs, linear, stock),
        f"All kernels of a step, microseconds, and over {server.name}'s own likewise:\n",
        by_batch(runs, busy, stock),
    ]


Cell = Callable[[Figures, "Figures | None"], str]
# which of some runs one of them is compared with
Stock = Callable[[Sequence[Figures], Figures], "Figures | None"]


def stock_of(runs: Sequence[Figures], run: Figures | None = None) -> Figures | None:
    """What the others are compared with: the server's own with float32 states, where it ran."""
    named = {each["arm"]: each for each in runs}
    return named.get(STOCK) or next((named[arm] for arm in named if arm.startswith("stock-")), None)


def stock_alike(runs: Sequence[Figures], run: Figures) -> Figures | None:
    """The server's own with states of the same type; a split one is a float32."""
    state = run["arm"].partition("-")[2].replace("split", "float32")
    return next((each for each in runs if each["arm"] == f"stock-{state}"), None)


def by_batch(runs: Sequence[Figures], cell: Cell, stock: Stock = stock_of) -> str:
    """cell: of an arm's row, and stock's of the same batch where it was measured."""
    batches = list(dict.fromkeys(row["batch"] for run in runs for row in run["rows"]))
    rows = []
    for batch in batches:
        line = [str(batch)]
        for run in runs:
            base = stock(runs, run)
            row, other = (of_batch(each, batch) if each else None for each in (run, base))
            line.append(cell(row, other) if row else "–")
        rows.append(line)
    server = served(runs[0]["about"])
    return table(["batch", *(server.arm(run["arm"]) for run in runs)], rows)


def of_batch(run: Figures, batch: int) -> Figures | None:
    return next((row for row in run["rows"] if row["batch"] == batch), None)


def middle(row: Figures, key: str) -> float:
    return statistics.median(each[key] for each in row["rounds"])


def best(rounds: Sequence[Figures]) -> Figures:
    return min(rounds, key=lambda each: each["median_ms"])


def worst(rounds: Sequence[Figures]) -> float:
    return max(each["median_ms"] for each in rounds)


def most(rounds: Sequence[Figures]) -> float:
    return max(each["tokens_s"] for each in rounds)


def rate(row: Figures, stock: Figures | None) -> str:
    own = most(row["rounds"])
    if stock is None or stock is row:
        return f"{own:,.0f}"
    return f"{own:,.0f} ({own / most(stock['rounds']):.2f})"


def rate_with_error(row: Figures, stock: Figures | None, more: str = "") -> str:
    """more: what stands behind the ratio."""
    if len(row["rounds"]) == 1:
        return "–"
    own, error = mean_of(row["rounds"])
    told = f"{own:,.0f} ± {error:,.0f}"
    if stock is None or stock is row:
        return told
    other, of_other = mean_of(stock["rounds"])
    ratio = own / other
    of_ratio = ratio * math.hypot(error / own, of_other / other)
    return f"{told} ({ratio:.2f} ± {of_ratio:.2f}{more})"


def mean_of(rounds: Sequence[Figures]) -> tuple[float, float]:
    """Tokens a second, and the standard error of that."""
    found = [each["tokens_s"] for each in rounds]
    return statistics.mean(found), statistics.stdev(found) / math.sqrt(len(found))


def between(row: Figures, stock: Figures | None) -> str:
    fastest = best(row["rounds"])
    return f"{fastest['median_ms']:.2f} / {fastest['p99_ms']:.2f}"


def linear(row: Figures, stock: Figures | None) -> str:
    gpu = row["gpu"]
    told = f"{gpu['parts_us']['recurrence']:.0f} / {gpu['linear_us']:.0f}"
    if stock is None or stock is row or not stock["gpu"]["linear_us"]:
        return told
    return f"{told} ({gpu['linear_us'] / stock['gpu']['linear_us']:.2f})"


def busy(row: Figures, stock: Figures | None) -> str:
    own = row["gpu"]["total_us"]
    if stock is None or stock is row or not stock["gpu"]["total_us"]:
        return f"{own:.0f}"
    return f"{own:.0f} ({own / stock['gpu']['total_us']:.2f})"


def share(runs: Sequence[Figures]) -> str:
    """What part of stock's time its linear attention is."""
    stock = stock_of(runs)
    return shares("stock's", stock["rows"]) if stock else ""


# equality ----------------------------------------------------------------------------------------


def equal(found: Figures) -> str:
    about, stock = found["about"], found["stock"]
    server = served(about)
    own = server.arm(STOCK)
    rows = [equal_row(f"{own}, one prompt at a time", stock, None)]
    for arm, each in found["arms"].items():
        rows.append(equal_row(server.arm(arm), each, stock))
        if arm.startswith("kvgen-") and "from one GPU" in each:
            rows.append(equal_row(f"{server.arm(arm)}, beside one", each["from one GPU"], stock))
    head = [f"beside {own}, 64 prompts together", "largest", "over D", "mean", "over D",
            "prompts that part", "largest gap there"]  # fmt: skip
    head[0] = head[0].replace("64", str(about["prompts"]))
    return (
        f"{about['prompts']} prompts, {about['tokens']} tokens each, model `{about['model']}` in "
        f"{about['dtype']}, on {machine(about)}. D is the first row.\n\n" + table(head, rows, 1)
    )


def equal_row(name: str, each: Figures, stock: Figures | None) -> list[str]:
    def over(key: str) -> str:
        return f"{each[key] / stock[key]:.2f}" if stock and stock[key] else "–"

    return [name, f"{each['largest']:.2e}", over("largest"), f"{each['mean']:.2e}", over("mean"),
            str(each["parted"]), f"{each['gap']:.2e}"]  # fmt: skip


# soak --------------------------------------------------------------------------------------------


def soak(*found: Figures) -> str:
    rows = []
    for each in found:
        about, looks = each["about"], each["memory"]
        grown = (looks[-1]["gpu_bytes"] - looks[0]["gpu_bytes"]) / MIB
        host = (looks[-1]["host_bytes"] - looks[0]["host_bytes"]) / MIB
        rows.append(
            [f"{about['arm']}, {about['dtype']}", str(about["requests"]), f"{each['tokens']:,}",
             str(each["aborted"]), f"{each['preempted']} ({each['preemptions']} times)",
             str(len(each["lost"]) + each["left"]), str(each["parted"]), f"{each['gap']:.1e}",
             f"{grown:+.0f} / {host:+.0f} MiB"]
        )  # fmt: skip
    head = ["arm", "requests", "tokens", "aborted", "preempted", "lost", "other tokens than alone",
            "largest gap there", "memory grown, GPU / host"]  # fmt: skip
    return f"On {machine(found[0]['about'])}.\n\n{table(head, rows, 1)}"


# drafts ------------------------------------------------------------------------------------------


def fitting(found: Figures) -> str:
    about, fits = found["about"], found["fit"]
    return (
        f"{about['memory_bytes'] / (1 << 30):.0f} GiB for states and keys, requests of up to "
        f"{fits[0]['tokens']} tokens, on {machine(fits[0])}:\n\n{fit_table(fits)}"
    )


def drafted(*found: Figures) -> str:
    """found: a file for each set of arms that took turns."""
    runs = [run for each in found for run in each["speed"]]
    laps = len(runs[0]["rows"][0]["rounds"])
    return (
        f"Text that repeats, drafts of {found[0]['about']['drafts']} tokens looked up in it, on "
        f"{machine(runs[0])}; tokens a second, mean of {laps} rounds and its standard error, over "
        "the same arm without drafts, and tokens a step and request:\n\n" + speed_table(runs)
    )


def fit_table(fits: Sequence[Figures]) -> str:
    rows = []
    for each in fits:
        stock = next(x for x in fits if x["arm"] == STOCK and x["drafts"] == each["drafts"])
        states = of_states(each)
        blocks = sum(x["blocks_a_request"] for x in each["groups"])
        linear = state_bytes(stock) / state_bytes(each)
        rows.append(
            [VLLM.arm(each["arm"]), str(each["drafts"]), str(each["blocks"]),
             f"{states[0]['page_bytes'] / MIB:.2f}",
             f"{sum(x['blocks_a_request'] for x in states)} + "
             f"{blocks - sum(x['blocks_a_request'] for x in states)}",
             f"{each['requests']:.0f}", f"{each['requests'] / stock['requests']:.2f}",
             f"{linear:.2f}"]
        )  # fmt: skip
    head = ["arm", "drafts", "blocks", "MiB a page", "blocks a request, linear + attention",
            "requests that fit", "over vLLM float32", "by the linear layers alone"]  # fmt: skip
    return table(head, rows, 1)


def of_states(each: Figures) -> list[Figures]:
    """Groups of layers that keep states; the kind of their pages is vLLM's, or kvgen's own."""
    return [group for group in each["groups"] if "Attention" not in group["kind"]]


def state_bytes(each: Figures) -> int:
    """What a request's linear layers take."""
    return sum(x["blocks_a_request"] * x["page_bytes"] * x["layers"] for x in of_states(each))


def speed_table(runs: Sequence[Figures]) -> str:
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    rows: list[list[str]] = []
    for batch in [row["batch"] for row in runs[0]["rows"]]:
        line = [str(batch)]
        for arm in arms:
            both = {run["drafts"]: at(run, batch) for run in runs if run["arm"] == arm}
            kept = middle(both[max(both)], "tokens_a_step")
            line.append(rate_with_error(both[max(both)], both[0], f", {kept:.2f}"))
        rows.append(line)
    return table(["batch", *(VLLM.arm(arm) for arm in arms)], rows)


def at(run: Figures, batch: int) -> Figures:
    return next(row for row in run["rows"] if row["batch"] == batch)


# decodes between other kernels -------------------------------------------------------------------


def decodes(found: Figures) -> str:
    """What a decode takes now, and over what it took, by recurrence and rows."""
    rows = [row for row in found["rows"] if row["call"] == "decode between"]
    specs = list(dict.fromkeys(row["spec"] for row in rows))
    cells = {(row["spec"], row["batch"]): f"{row['new']:.2f} ({row['ratio']:.2f})" for row in rows}
    batches = sorted({row["batch"] for row in rows})
    lines = [[str(each), *(cells.get((spec, each), "–") for spec in specs)] for each in batches]
    return f"On {found['about']['gpu']}.\n\n" + table(["rows", *specs], lines)


# Transformers ------------------------------------------------------------------------------------


def generating(found: Figures) -> str:
    about = found["about"]
    stock = {row["rows"]: row["tokens_s"] for row in found["rows"] if row["arm"] == "stock"}
    rows = []
    for row in found["rows"]:
        shares = [f"{row[name]:.0%}" if name in row else "–" for name in ("linear", "busy")]
        same = min(row["as_stock"])
        rows.append(
            [row["arm"], str(row["rows"]), f"{row['tokens_s']:,.0f}",
             f"{row['tokens_s'] / stock[row['rows']]:.2f}", f"{row['tokens_a_pass']:.2f}", *shares,
             "all" if same == about["new"] else str(same)]
        )  # fmt: skip
    head = ["arm", "rows", "tokens a second", "over stock", "tokens a pass",
            "linear attention of the GPU's time", "GPU at work", "tokens as stock's"]  # fmt: skip
    kernels = " and ".join(about["stock_kernels"]) or "torch alone"
    return (
        f"{about['prompt']} tokens and {about['new']} more, in {about['dtype'].split('.')[-1]}, "
        f"states in {about['state']}, drafts of {about['drafts']} tokens, on "
        f"{machine(about, 'transformers')}; stock with kernels of {kernels}.\n\n"
        + table(head, rows, 1)
    )


BLOCKS: dict[str, tuple[Any, ...]] = {
    "between": (decodes, "h200-between.json"),
    "vllm-speed": (speed, "h200-vllm-speed.json"),
    "vllm-speed-conv": (on_gpu, "h200-vllm-speed-conv.json"),
    "vllm-turns-deep": (
        turns_page.turns,
        "h200-vllm-turns-deep-float32.json",
        "h200-vllm-turns-deep-bfloat16.json",
    ),
    "vllm-turns": (
        turns_page.turns,
        "h200-vllm-turns-float32.json",
        "h200-vllm-turns-float32-longer.json",
        "h200-vllm-turns-bfloat16.json",
    ),
    "vllm-turns-before": (turns_page.turns, "h200-vllm-turns-before-float32.json"),
    "vllm-speed-deep": (on_gpu, "h200-vllm-speed-deep.json"),
    "vllm-equal": (equal, "h200-vllm-equal.json"),
    "vllm-equal-float32": (equal, "h200-vllm-equal-float32.json"),
    "vllm-equal-olmo": (equal, "h200-vllm-equal-olmo.json"),
    "vllm-equal-kimi": (equal, "h200-vllm-equal-kimi.json"),
    "vllm-speed-kimi": (on_gpu, "h200-vllm-speed-kimi.json"),
    "vllm-speed-olmo": (on_gpu, "h200-vllm-speed-olmo.json"),
    "vllm-ranks-dense": (equal, "h200-vllm-ranks-dense.json"),
    "vllm-ranks-float32": (equal, "h200-vllm-ranks-float32.json"),
    "vllm-soak": (soak, "h200-vllm-soak.json", "h200-vllm-soak-float32.json"),
    "vllm-drafts": (fitting, "h200-vllm-drafts.json"),
    "vllm-drafts-speed": (
        drafted,
        "h200-vllm-drafts-speed-float32.json",
        "h200-vllm-drafts-speed-bfloat16.json",
    ),
    "vllm-turns-drafts": (
        turns_page.turns,
        "h200-vllm-turns-drafts-float32.json",
        "h200-vllm-turns-drafts-bfloat16.json",
    ),
    "vllm-turns-wide": (
        turns_page.turns,
        "h200-vllm-turns-wide-float32.json",
        "h200-vllm-turns-wide-one.json",
        "h200-vllm-turns-wide-bfloat16.json",
    ),
    "transformers-speed": (generating, "h200-transformers.json"),
    "sglang-speed": (speed, "h200-sglang-speed.json"),
    "sglang-speed-few": (speed, "h200-sglang-speed-few.json"),
    "sglang-speed-bfloat16": (speed, "h200-sglang-speed-bfloat16.json"),
    "sglang-speed-overlap": (speed, "h200-sglang-speed-overlap.json"),
    "sglang-equal": (equal, "h200-sglang-equal.json"),
    "sglang-soak": (sglang_page.soak, "h200-sglang-soak.json"),
    "sglang-drafts": (sglang_page.drafts, "h200-sglang-drafts.json"),
    "sglang-trees": (sglang_page.drafts, "h200-sglang-trees.json"),
}

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
