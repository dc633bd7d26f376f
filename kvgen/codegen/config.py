"""What a kernel's configuration is: its constants, what they mean, which are safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kvgen.algebra.chain import TOKENS as CHAIN
from kvgen.algebra.chain import chains
from kvgen.algebra.form import Form
from kvgen.codegen.columns import offered
from kvgen.codegen.kernels import power_of_two
from kvgen.language.declarations import MAX_SIZE
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

# what stands in a module for any GPU that is not tuned; no GPU may be called so
ANY_GPU = "default"

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


class Limit(NamedTuple):
    """What a constant may be, whatever the form. power: whether only a power of two."""

    least: int
    most: int
    power: bool = False

    def admits(self, value: float) -> bool:
        whole = self.least <= value <= self.most and value == int(value)
        return whole and (not self.power or power_of_two(int(value)) == value)

    def __str__(self) -> str:
        what = "a power of two" if self.power else "an integer"
        return f"{what} from {self.least} to {self.most}"


SWITCH = Limit(0, 1)
LIMITS = {
    "TILE": Limit(1, MAX_SIZE, power=True),
    # of more than there are a program takes all
    "TILES": Limit(1, 1 << 20),
    "PAGES": Limit(1, PAGES, power=True),
    "STAGES": Limit(1, 16),
    "EARLY": SWITCH,
    "TOKENS": Limit(1, 16, power=True),
    "DOT": SWITCH,
    "PDL": SWITCH,
    "programs": Limit(1, 1024),
    "num_warps": Limit(1, 32, power=True),
    "buffer": Limit(1, MAX_BUFFER),
}

# tokens a row that a kernel is tuned with, where that is not one
TOKENS = {"verify": 8, "chain": CHAIN, "extend": 1024}
# rows of a prompt: the one batch at which `extend` is tuned
PROMPT_ROWS = 8
# the kernels that see a window of drafts
DRAFTS = ("verify", "chain")


def kernels(form: Form) -> tuple[str, ...]:
    """Those that a recurrence has, in the order of `KNOBS`, and the length of its buffer."""
    several = ("verify", "extend", "short") if form.windows else ()
    single = ("decode", "recurrent", "fold", "buffer")
    found = {*single, *several, *(("chain",) if chains(form) else ())}
    return tuple(kernel for kernel in KNOBS if kernel in found)


def tokens_of(form: Form, kernel: str) -> int:
    """Tokens a row that a kernel is tuned with: `verify` with those of a chain where there is no
    kernel for chains, else with what none is made for."""
    tokens = TOKENS.get(kernel, 1)
    if kernel == "verify" and not chains(form):
        tokens = TOKENS["chain"]
    if kernel in DRAFTS and form.factored:
        # factored keys have room for so many
        tokens = min(tokens, 1 << (form.factored.most.bit_length() - 1))
    return tokens


def constants(form: Form, config: Mapping[str, float]) -> dict[str, float]:
    """Those of a configuration that the form's kernel has."""
    return {name: x for name, x in config.items() if name != "DOT" or offered(form)}


def is_safe(form: Form, kernel: str, config: Mapping[str, float]) -> bool:
    """Whether a kernel with these constants computes what it should, however fast.

    A tile wider than V, for one, would reach into the next head where nothing masks it.
    """
    v = power_of_two(form.spec.size("V"))
    most = form.factored.most if form.factored else MAX_BUFFER
    upper = {"TILE": v, "TOKENS": most, "DOT": int(offered(form)), "buffer": most}
    lower = {"TILE": v if form.whole_v else 1}
    # extents of what a short context's program holds
    powers = ("TILES",) if kernel == "short" else ()
    return set(config) == set(KNOBS[kernel]) and all(
        LIMITS[knob].admits(value)
        and lower.get(knob, value) <= value <= upper.get(knob, value)
        and (knob not in powers or power_of_two(int(value)) == value)
        for knob, value in config.items()
    )
