"""Tables of docs/servers.md that are SGLang's alone."""

from __future__ import annotations

from benchmarks.drafts_page import table
from benchmarks.servers.named import MIB, SGLANG, STOCK, Figures, machine


def soak(found: Figures) -> str:
    """A soak of SGLang's: an arm and stock, both beside stock's requests alone."""
    about, stock = found["about"], found["stock"]
    rows = []
    for arm, each in ((STOCK, stock), (about["arm"], found)):
        back = f"{each['preempted']} ({each['preemptions']} times)"
        lost = len(each["lost"]) + each.get("left", 0)
        rows.append(
            [SGLANG.arm(arm), str(each["aborted"]), back, str(each["known"]), str(lost),
             str(each["parted"]), f"{each['gap']:.1e}"]
        )  # fmt: skip
    head = ["arm", "aborted", "put back", "with a known prefix", "lost",
            "other tokens than SGLang's alone", "largest gap there"]  # fmt: skip
    return f"{about['requests']} requests, on {machine(about)}.\n\n{table(head, rows, 1)}"


def drafts(found: Figures) -> str:
    """What fits in SGLang with windows of drafts and without, and whether the text stays."""
    about, fits = found["about"], found["fit"]
    base = {each["drafts"]: each["requests"] for each in fits if each["arm"] == STOCK}
    rows = []
    for each in sorted(fits, key=lambda each: (each["drafts"], SGLANG.order(each["arm"]))):
        same = found["same"].get(each["arm"]) if each["drafts"] else None
        over = f"{each['requests'] / base[each['drafts']]:.2f}" if each["drafts"] in base else "–"
        rows.append(
            [SGLANG.arm(each["arm"]), str(each["drafts"]), f"{each['state_bytes'] / MIB:.1f}",
             str(each["requests"]), over, f"{each['tokens_a_step']:.2f}",
             f"{same['parted']} of {same['requests']} ({same['gap']:.1e})" if same else "–"]
        )  # fmt: skip
    head = ["arm", "drafts", "MiB of states a request", "requests that fit",
            "over SGLang float32", "tokens a step",
            "part from the text without (largest gap)"]  # fmt: skip
    return (
        f"{about['memory_bytes'] / (1 << 30):.0f} GiB for states and keys, requests of "
        f"{about['longest']} tokens, on {machine(about)}.\n\n{table(head, rows, 1)}"
    )
