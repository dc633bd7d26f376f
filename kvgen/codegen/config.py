"""What a kernel's configuration is: its constants, what they mean, which are safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvgen.algebra.form import Form
from kvgen.codegen.columns import offered
from kvgen.codegen.kernels import power_of_two
from kvgen.language.spec import MAX_BUFFER

# kernel -> the constants that its configuration has, all of them; "buffer" is a cache's.
#
# TILE: value channels of a tile. TILES: tiles one program goes over, or, of a short context, has
# side by side, one of each head. PAGES: pages of records that it looks at together. STAGES: how
# many tiles, or pages, or of a fold's records, are in flight. EARLY: a program's only tile is
# loaded before anything else. TOKENS: of a prompt, taken together. DOT: reads go through tensor
# cores, for which the form must read the state in 16 bits. PDL: a launch begins before the kernel
# in front of it has ended. programs: persistent fold programs for each multiprocessor.
KNOBS: dict[str, tuple[str, ...]] = {
    "decode": ("TILE", "TILES", "STAGES", "EARLY", "DOT", "PDL", "num_warps"),
    "recurrent": ("TILE", "num_warps"),
    "fold": ("TILE", "num_warps", "STAGES", "programs"),
    "verify": ("TILE", "TILES", "STAGES", "num_warps"),
    "chain": ("TILE", "TILES", "STAGES", "EARLY", "PDL", "num_warps"),
    "extend": ("TILE", "TOKENS", "STAGES", "num_warps"),
    "short": ("TILE", "TILES", "PAGES", "STAGES", "num_warps"),
    "buffer": ("buffer",),
}

# GPU name -> kernel -> batch -> constants
Configs = dict[str, dict[str, dict[int, dict[str, int]]]]
# the same with microseconds, "us", where they were measured
Measured = Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]


@dataclass(frozen=True)
class Tuned:
    """What is known of GPUs: configurations, and the buffer length of a cache, by GPU name."""

    configs: Measured = field(default_factory=dict)
    buffers: Mapping[str, int] = field(default_factory=dict)


# records of a page, as the generated modules have them
PAGE = 16
# pages that a short context's program looks at together, at most
PAGES = 4


def constants(form: Form, config: Mapping[str, float]) -> dict[str, float]:
    """Those of a configuration that the form's kernel has."""
    return {name: x for name, x in config.items() if name != "DOT" or offered(form)}


def is_safe(form: Form, kernel: str, config: Mapping[str, float]) -> bool:
    """Whether a kernel with these constants computes what it should, however fast.

    A tile wider than V, for one, would reach into the next head where nothing masks it.
    """
    v = power_of_two(form.spec.size("V"))
    most = form.factored.most if form.factored else MAX_BUFFER
    upper = {"TILE": v, "TOKENS": min(16, most), "STAGES": 16, "num_warps": 32, "buffer": most}
    upper |= {"EARLY": 1, "DOT": int(offered(form)), "PDL": 1, "PAGES": PAGES}
    lower = dict.fromkeys(("TILE", "TILES", "PAGES", "TOKENS", "STAGES", "programs", "buffer"), 1)
    lower |= {"num_warps": 1, "TILE": v if form.whole_v else 1}
    # extents of what a short context's program holds
    powers = ("TILES", "PAGES") if kernel == "short" else ()
    return set(config) == set(KNOBS[kernel]) and all(
        lower.get(knob, 0) <= value <= upper.get(knob, value)
        and (knob not in powers or power_of_two(int(value)) == value)
        for knob, value in config.items()
    )
