"""What a step's time on the GPU goes to, by the kernels' names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

# in order: a kernel is of the first that knows it
PARTS: Mapping[str, re.Pattern[str]] = {
    "conv": re.compile(r"causal_conv1d"),
    # those of servers and those of a generated module
    "recurrence": re.compile(
        r"gated_delta|replayssm|fused_sigmoid_gating|fused_gdn|_gdn_|chunk_fwd_kernel|"
        r"chunk_scaled_dot|recompute_w_u|solve_tril|chunk_local_cumsum|merge_16x16|"
        r"_kda_|kda_gate|chunk_gla_fwd|olmo_hybrid_gdn|"
        r"^_(decode|fold|advance|turn|accept|verify|chain|recurrent|extend|move|fill|seek)\w*_kernel"
    ),
    "norm": re.compile(r"layer_norm_(gated_)?fwd|rms_norm_gated|rmsnorm_gated"),
}
LINEAR = tuple(PARTS)
KEPT = 40


def part(name: str) -> str:
    for found, pattern in PARTS.items():
        if pattern.search(name):
            return found
    return "other"


def summed(kernels: Iterable[tuple[str, float, float]], steps: int) -> dict[str, Any]:
    """kernels: name, start and end in microseconds of each that ran in so many steps. Microseconds
    a step, by part and by name, the longest first. While two run, it is the earlier one's time: a
    kernel that is launched early waits for the one before it."""
    parts: dict[str, float] = dict.fromkeys((*LINEAR, "other"), 0.0)
    names: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    free = float("-inf")
    for name, start, end in sorted(kernels, key=lambda each: each[1:]):
        us = max(0.0, end - max(start, free)) / steps
        free = max(free, end)
        parts[part(name)] += us
        names[name][0] += us
        names[name][1] += 1 / steps
    longest = sorted(names.items(), key=lambda item: -item[1][0])[:KEPT]
    return {
        "steps": steps,
        "parts_us": {name: round(us, 2) for name, us in parts.items()},
        "linear_us": round(sum(parts[name] for name in LINEAR), 2),
        "total_us": round(sum(parts.values()), 2),
        "kernels": [
            {"name": name[:120], "part": part(name), "us": round(us, 2), "calls": round(calls, 2)}
            for name, (us, calls) in longest
        ],
    }


def events(profile: Any) -> Iterable[tuple[str, float, float]]:
    """Every kernel that torch's profiler has seen on the GPU."""
    for event in profile.events():
        if "cuda" in str(event.device_type).lower():
            yield event.name, event.time_range.start, event.time_range.end
