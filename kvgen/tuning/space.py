"""The configurations of a kernel that are worth compiling: from the form, its sizes and rules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kvgen.codegen import config as codegen
from kvgen.codegen.config import ANY_GPU, KNOBS, is_safe
from kvgen.codegen.cost import LENGTHS, buffer_length
from kvgen.codegen.kernels import per_head, power_of_two
from kvgen.codegen.untuned import configurations
from kvgen.compiler import Analysis

Config = dict[str, int]

# knob -> the values that are tried, whatever the kernel
VALUES: dict[str, tuple[int, ...]] = {
    "TILE": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "TILES": (1, 2, 4, 8),
    "PAGES": (1, 2, 4),
    "STAGES": (1, 2, 3, 4),
    "EARLY": (0, 1),
    "DOT": (0, 1),
    "PDL": (0, 1),
    "num_warps": (1, 2, 4, 8),
    "programs": (2, 4, 8, 16),
}
# what decides how many programs are launched, beside what each of them does
GRID = ("TILE", "TILES", "programs")
# of these, what the program itself does not know
LAUNCHED = ("programs",)

# elements of a state's tile in each thread: beyond the one there is nothing to do, beyond the other
# a thread's registers do not hold them
FEWEST, MOST = 4, 256
# the same of a kernel that has a block of tokens in its registers, too
FEWEST_BESIDE, MOST_BESIDE = 16, 128
# value channels of a tile, where there are as many: 32 bytes of a state in 16 bits
NARROWEST = 16
# tokens that a row without a state holds, and from how many on it would have one
SHORT, CONTEXT = 32, 128


@dataclass(frozen=True)
class Sizes:
    """What rules look at. heads: value heads that one unit of a kernel's grid goes over."""

    k: int
    v: int
    heads: int
    most_tokens: int

    def tiles(self, width: int) -> int:
        return -(-self.v // width) * self.heads


Rule = Callable[[Config, Sizes], bool]


def _each(config: Config, sizes: Sizes) -> float:
    """Elements of a tile in each thread."""
    return power_of_two(sizes.k) * config["TILE"] / (32 * config["num_warps"])


def _fills_threads(config: Config, sizes: Sizes) -> bool:
    return FEWEST <= _each(config, sizes) <= MOST


def _leaves_room(config: Config, sizes: Sizes) -> bool:
    return FEWEST_BESIDE <= _each(config, sizes) <= MOST_BESIDE


def _wide(config: Config, sizes: Sizes) -> bool:
    return config["TILE"] >= min(NARROWEST, sizes.v)


def _divides(config: Config, sizes: Sizes) -> bool:
    """Fewer tiles than asked for would be another configuration."""
    return sizes.tiles(config["TILE"]) % config["TILES"] == 0


def _beside(config: Config, sizes: Sizes) -> bool:
    """Of pages it is heads that have their tiles side by side."""
    return sizes.heads % config["TILES"] == 0


def _loops(config: Config, sizes: Sizes) -> bool:
    """Stages of a loop that goes round once do nothing."""
    return config["TILES"] > 1 or config["STAGES"] == 1


def _early_alone(config: Config, sizes: Sizes) -> bool:
    return config["TILES"] == 1 or not config["EARLY"]


def _shallow(config: Config, sizes: Sizes) -> bool:
    """Of a state's tiles a few fill what an SM has of shared memory."""
    return config["STAGES"] <= 3


# the knobs that a rule looks at, and the rule, for every kernel that has them all
RULES: tuple[tuple[frozenset[str], Rule], ...] = (
    (frozenset({"TILE"}), _wide),
    (frozenset({"TILE", "num_warps"}), _fills_threads),
    (frozenset({"TILE", "TOKENS", "num_warps"}), _leaves_room),
    (frozenset({"TILE", "TILES"}), _divides),
    (frozenset({"TILES", "PAGES"}), _beside),
    (frozenset({"TILES", "STAGES"}), _loops),
    (frozenset({"TILES", "EARLY"}), _early_alone),
    (frozenset({"TILES", "STAGES"}), _shallow),
)
# a kernel whose stages are those of another loop
WITHOUT: dict[str, tuple[Rule, ...]] = {"short": (_loops,)}


def legal(analysis: Analysis, kernel: str, target: str) -> list[Config]:
    """All that are tried, in no particular order; the untuned one of every batch is among them."""
    sizes = sizes_of(analysis)
    untuned = list(defaults(analysis, kernel).values())
    values = {knob: _offered(knob, target, untuned) for knob in KNOBS[kernel]}
    without = WITHOUT.get(kernel, ())
    rules = [rule for knobs, rule in RULES if knobs <= set(values) and rule not in without]
    found = []
    for chosen in itertools.product(*values.values()):
        config = dict(zip(values, chosen, strict=True))
        if is_safe(analysis.form, kernel, config) and all(rule(config, sizes) for rule in rules):
            found.append(config)
    for config in untuned:
        if config not in found:
            found.append(config)
    return found


def defaults(analysis: Analysis, kernel: str) -> dict[int, Config]:
    """The untuned configurations by batch, as distinct as the kernel is: one stands for many."""
    form, records = analysis.form, analysis.records
    table = configurations(form, records, per_head(form, records))[ANY_GPU][kernel]
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
    """Buffer lengths around L*, in order; one where the spec says which."""
    form = analysis.form
    middle = buffer_length(form, analysis.records)
    if form.spec.buffer is not None:
        return [middle]
    most = form.factored.most if form.factored else LENGTHS[-1]
    near = {middle // 2, middle, 2 * middle}
    return sorted(length for length in near if length in LENGTHS and length <= most)


def kernels(analysis: Analysis) -> tuple[str, ...]:
    """Those that this recurrence has, without the buffer."""
    return tuple(each for each in codegen.kernels(analysis.form) if each != "buffer")


def tokens_of(analysis: Analysis, kernel: str) -> int:
    """Tokens a row that a kernel is timed with."""
    return codegen.tokens_of(analysis.form, kernel)


def sizes_of(analysis: Analysis) -> Sizes:
    spec, form = analysis.spec, analysis.form
    heads = 1 if per_head(form, analysis.records) else spec.ratio
    most = form.factored.most if form.factored else 16
    return Sizes(spec.size("K"), spec.size("V"), heads, most)


def text(config: Mapping[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in config.items())


def _offered(knob: str, target: str, untuned: Sequence[Config]) -> tuple[int, ...]:
    """The values of a knob on a GPU: launches overlap from Hopper on, and blocks of tokens are as
    long as they may be. Of one that has no list, those around what untuned modules take."""
    if knob == "TOKENS":
        return tuple(sorted({config[knob] for config in untuned}))
    if knob == "PDL" and not (target.startswith("sm_") and int(target[3:]) >= 90):
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
