"""Configurations of kernels as modules have them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from kvgen.codegen.literals import quoted

# what stands in a module for any GPU that is not tuned; no GPU may be called so
ANY_GPU = "default"

# GPU name -> kernel -> batch -> constants
Configs = dict[str, dict[str, dict[int, dict[str, int]]]]
# the same with microseconds, "us", where they were measured
Measured = Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]

# what the constants of configurations are, in the order in which a module says it
MEANINGS = {
    "TILE": "value channels of a tile",
    "TILES": "tiles that a program goes over; of a short context, side by side, one of each head",
    "PAGES": "pages of records that it looks at together",
    "STAGES": "how many tiles, or pages, or of a fold's records, are in flight",
    "EARLY": "a program's only tile is loaded before anything else",
    "TOKENS": "of a prompt, taken together",
    "DOT": "reads, or what a fold adds, go through tensor cores, where states are read in 16 bits",
    "KEYS": "of a row's keys, such as lie along threads and not in their registers; 0: all",
    "PDL": "a launch begins before the kernel in front of it has ended",
    "programs": "persistent fold programs for each multiprocessor",
    "num_warps": "warps of a program",
    "maxnreg": "registers of a thread, at most; 0: as many as the compiler finds",
    "us": "microseconds, where they were measured",
}


@dataclass(frozen=True)
class Tuned:
    """What a module runs with: configurations, ANY_GPU's in front, and the buffer length of a cache
    where one is tuned, by GPU name."""

    configs: Measured
    buffers: Mapping[str, int] = field(default_factory=dict)


# records of a page, as the generated modules have them
PAGE = 16


def configs_text(configs: Measured, kernels: Collection[str]) -> list[str]:
    """The configurations of these kernels, one a line; batches that follow each other share one."""
    lines = ["{"]
    for gpu, known in configs.items():
        lines.append(f"    {quoted(gpu)}: {{")
        for kernel in (each for each in known if each in kernels):
            lines.append(f'        "{kernel}": {{')
            items = [(batch, _text(config)) for batch, config in known[kernel].items()]
            for text, same in groupby(items, key=itemgetter(1)):
                batches = ", ".join(str(batch) for batch, _ in same)
                several = "," in batches
                one = f"**{{n: {text} for n in ({batches})}}" if several else f"{batches}: {text}"
                lines.append(f"            {one},")
            lines.append("        },")
        lines.append("    },")
    return [*lines, "}"]


def legend(configs: list[str]) -> list[str]:
    """What the constants are that a module's configurations have, or would have once tuned."""
    text = str(configs)
    known = [name for name in MEANINGS if f'"{name}"' in text or name == "us"]
    return [f"{name}: {MEANINGS[name]}" for name in known]


def _text(config: Mapping[str, float]) -> str:
    inner = ", ".join(f'"{name}": {value}' for name, value in config.items())
    return f"{{{inner}}}"
