"""Tables of docs/servers.md from engines that took turns in one process."""

from __future__ import annotations

import statistics

from benchmarks.drafts_page import table
from benchmarks.servers.named import VLLM, Figures, machine
from benchmarks.servers.shares import shares
from benchmarks.servers.vllm_turns import over


def turns(*found: Figures) -> str:
    """Tokens a second over vLLM's own, by model and batch. found: a file for each set of arms."""
    parts = [f"Measured on {machine(found[0]['about'])}.\n"]
    for each in found:
        about = each["about"]
        counts = {len(run["steps_ms"]) for run in each["runs"]}
        own = VLLM.arm(about["stock"])
        share = shares("vLLM's", (run for run in each["runs"] if run["arm"] == about["stock"]))
        share += " " if share else ""
        parts.append(
            f"**Model `{about['model']}`, prompts of {about['prompt']} tokens, beside {own}**, "
            f"{' or '.join(map(str, sorted(counts)))} turns of {about['buffer']} steps each. "
            f"{share}Milliseconds a step, median of turns (functions that Python calls in "
            f"it), and tokens a second over {own} with the standard error:\n"
        )
        parts.append(by_batch(each))
    return "\n".join(parts)


def by_batch(found: Figures) -> str:
    stock = found["about"]["stock"]
    runs = {(run["arm"], run["batch"]): run for run in found["runs"]}
    arms, batches = (list(dict.fromkeys(key[at] for key in runs)) for at in (0, 1))
    rows = []
    for batch in batches:
        line, base = [str(batch)], runs[stock, batch]
        for arm in arms:
            run = runs[arm, batch]
            text = f"{statistics.median(run['steps_ms']):.2f}"
            if "calls" in run:
                text += f" ({run['calls']:,.0f})"
            if run is not base:
                ratio, error = over(base["steps_ms"], run["steps_ms"])
                text += f", **{ratio:.3f}** ± {error:.3f}"
            line.append(text)
        rows.append(line)
    return table(["batch", *map(VLLM.arm, arms)], rows)
