"""The configurations of a kernel that are worth compiling: from the form, its sizes and rules."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from kvgen.codegen.cost import LENGTHS, buffer_length
from kvgen.codegen.levels import per_head
from kvgen.compiler import Analysis
from kvgen.kernels.knobs import LAUNCHED, VALUES, Config
from kvgen.kernels.load import load_of
from kvgen.kernels.registry import kernels_of, named
from kvgen.kernels.rules import Sizes


def legal(analysis: Analysis, kernel: str, target: str) -> list[Config]:
    """All that are tried, in no particular order; the untuned one of every batch is among them."""
    sizes, of = sizes_of(analysis), named(kernel)
    untuned = list(defaults(analysis, kernel).values())
    values = {knob: _offered(knob, target, untuned) for knob in of.knobs}
    found: list[Config] = []
    for chosen in itertools.product(*values.values()):
        config = dict(zip(values, chosen, strict=True))
        if of.is_safe(analysis.form, config) and all(rule(config, sizes) for rule in of.rules):
            found.append(config)
    for config in untuned:
        if config not in found:
            found.append(config)
    return found


def defaults(analysis: Analysis, kernel: str) -> dict[int, Config]:
    """The untuned configurations by batch, as distinct as the kernel is: one stands for many."""
    table = named(kernel).untuned(load_of(analysis.form, analysis.records))
    sizes = sizes_of(analysis)
    return {batch: _reduced(dict(config), sizes) for batch, config in table.items()}


def default(analysis: Analysis, kernel: str, batch: int) -> Config:
    """What an untuned module takes for a batch: the nearest known one's, by ratio."""
    table = defaults(analysis, kernel)
    return table[min(table, key=lambda known: max(known / batch, batch / known))]


def program_of(config: Config) -> Config:
    """The configuration with what only the launch knows made the same for all."""
    return {knob: 8 if knob in LAUNCHED else value for knob, value in config.items()}


def buffers(analysis: Analysis) -> list[int]:
    """Buffer lengths around L*, in order; one where the spec says which, or every step folds."""
    form = analysis.form
    middle = buffer_length(form, analysis.records)
    if form.spec.buffer is not None or form.emptied:
        return [middle]
    most = form.factored.most if form.factored else LENGTHS[-1]
    near = {middle // 2, middle, 2 * middle}
    return sorted(length for length in near if length in LENGTHS and length <= most)


def kernels(analysis: Analysis) -> tuple[str, ...]:
    """Those that this recurrence has, without the buffer."""
    return tuple(each.name for each in kernels_of(analysis.form))


def tokens_of(analysis: Analysis, kernel: str) -> int:
    """Tokens a row that a kernel is timed with."""
    return named(kernel).tokens(analysis.form)


def sizes_of(analysis: Analysis) -> Sizes:
    spec, form = analysis.spec, analysis.form
    heads = 1 if per_head(form, analysis.records) else spec.ratio
    return Sizes(spec.size("K"), spec.size("V"), heads)


def text(config: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in config.items())


def _offered(knob: str, target: str, untuned: Sequence[Config]) -> tuple[int, ...]:
    """The values of a knob on a GPU: launches overlap from Hopper on, registers are limited on
    NVIDIA's, and blocks of tokens are as long as they may be. Of one that has no list, those around
    what untuned modules take."""
    if knob == "TOKENS":
        return tuple(sorted({config[knob] for config in untuned}))
    if knob == "PDL" and not (target.startswith("sm_") and int(target[3:]) >= 90):
        return (0,)
    if knob == "maxnreg" and not target.startswith("sm_"):
        return (0,)
    if knob in VALUES:
        return VALUES[knob]
    near = {x for config in untuned for v in (config[knob],) for x in (v // 2, v, 2 * v)}
    return tuple(sorted(near))


def _reduced(config: Config, sizes: Sizes) -> Config:
    """The same program, written as the rules have it."""
    if "TILES" in config:
        tiles = sizes.tiles(config["TILE"])
        while tiles % config["TILES"]:
            config["TILES"] //= 2
        if "EARLY" in config and config["TILES"] > 1:
            config["EARLY"] = 0
    return config
