"""Tables of docs/servers.md from engines that took turns in one process."""

from __future__ import annotations

import statistics
from itertools import chain

from benchmarks.drafts_page import table
from benchmarks.servers.named import VLLM, Figures, machine
from benchmarks.servers.shares import shares
from benchmarks.servers.vllm_turns import kind, of_arm, ratio


def turns(*found: Figures) -> str:
    """Tokens a second over vLLM's own, by model and batch. found: a file for each set of arms."""
    parts = [f"Measured on {machine(found[0]['about'])}.\n"]
    for each in found:
        about = each["about"]
        # they were taken in another order
        runs = sorted(each["runs"], key=lambda run: run["batch"])
        counts = {len(run["steps_ms"]) for run in runs}
        own = VLLM.arm(about["stock"])
        share = shares("vLLM's", (run for run in runs if run["arm"] == about["stock"]))
        share += " " if share else ""
        drafts = f", drafts of {about['drafts']}, all kept" if about.get("drafts") else ""
        text = (
            f"**Model `{about['model']}`, prompts of {about['prompt']} tokens{drafts}, beside "
            f"{own}**, "
            f"{' or '.join(map(str, sorted(counts)))} turns of {about['buffer']} steps each. "
            f"{share}Milliseconds a step, median of turns (functions that Python calls in "
            f"it), and tokens a second over {own} with the standard error"
        )
        if any(run["arm"] == f"{about['stock']}#2" for run in runs):
            text += f"; {own} has two engines, and beside it stands its second's over its first"
        parts += [f"{text}:\n", by_batch(each)]
        if all("gpu" in run for run in runs if run["arm"] == kind(run["arm"])):
            parts += [
                "Linear attention, with convolution and norm, on the GPU, microseconds a step, "
                f"and over {own}:\n",
                linear_by_batch(each),
            ]
    return "\n".join(parts)


def by_batch(found: Figures) -> str:
    stock = found["about"]["stock"]
    runs = {(run["arm"], run["batch"]): run for run in found["runs"]}
    engines = list(dict.fromkeys(engine for engine, _ in runs))
    batches = sorted({batch for _, batch in runs})
    arms = list(dict.fromkeys(map(kind, engines)))
    rows = []
    for batch in batches:
        line, times = [str(batch)], {name: runs[name, batch]["steps_ms"] for name in engines}
        for arm in arms:
            median = statistics.median(chain.from_iterable(of_arm(times, arm)))
            text = f"{median:.2f}"
            if "calls" in runs[arm, batch]:
                text += f" ({runs[arm, batch]['calls']:,.0f})"
            if found_ratio := ratio(times, arm, stock):
                text += ", **{:.3f}** ± {:.3f}".format(*found_ratio)
            elif arm == stock and (second := ratio(times, f"{stock}#2", stock)):
                text += ", {:.3f} ± {:.3f}".format(*second)
            line.append(text)
        rows.append(line)
    return table(["batch", *map(VLLM.arm, arms)], rows)


def linear_by_batch(found: Figures) -> str:
    """What linear attention takes of a step on the GPU: of an arm's first engine alone."""
    stock = found["about"]["stock"]
    taken = {
        (run["arm"], run["batch"]): run["gpu"]["linear_us"] for run in found["runs"] if "gpu" in run
    }
    arms = list(dict.fromkeys(arm for arm, _ in taken))
    rows = []
    for batch in sorted({batch for _, batch in taken}):
        own = taken[stock, batch]
        line = [str(batch)]
        for arm in arms:
            text = f"{taken[arm, batch]:.0f}"
            line.append(text if arm == stock else f"{text} ({taken[arm, batch] / own:.2f})")
        rows.append(line)
    return table(["batch", *map(VLLM.arm, arms)], rows)
