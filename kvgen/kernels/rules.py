"""Which configurations are worth compiling: rules that kernels choose from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvgen.kernels.knobs import Config
from kvgen.runtime.numbers import power_of_two

# elements of a state's tile in each thread: beyond the one there is nothing to do, beyond the other
# a thread's registers do not hold them
FEWEST, MOST = 4, 256
# the same of a kernel that has a block of tokens in its registers, too
FEWEST_BESIDE, MOST_BESIDE = 16, 128
# value channels of a tile, where there are as many: 32 bytes of a state in 16 bits
NARROWEST = 16


@dataclass(frozen=True)
class Sizes:
    """What rules look at. heads: value heads that one unit of a kernel's grid goes over."""

    k: int
    v: int
    heads: int

    def tiles(self, width: int) -> int:
        return -(-self.v // width) * self.heads


Rule = Callable[[Config, Sizes], bool]


def fills_threads(config: Config, sizes: Sizes) -> bool:
    return FEWEST <= _each(config, sizes) <= MOST


def leaves_room(config: Config, sizes: Sizes) -> bool:
    return FEWEST_BESIDE <= _each(config, sizes) <= MOST_BESIDE


def wide(config: Config, sizes: Sizes) -> bool:
    return config["TILE"] >= min(NARROWEST, sizes.v)


def divides(config: Config, sizes: Sizes) -> bool:
    """Fewer tiles than asked for would be another configuration."""
    return sizes.tiles(config["TILE"]) % config["TILES"] == 0


def within_head(config: Config, sizes: Sizes) -> bool:
    """The same where a program has one value head, whatever the group."""
    return -(-sizes.v // config["TILE"]) % config["TILES"] == 0


def beside(config: Config, sizes: Sizes) -> bool:
    """Of pages it is heads that have their tiles side by side."""
    return sizes.heads % config["TILES"] == 0


def loops(config: Config, sizes: Sizes) -> bool:
    """Stages of a loop that goes round once do nothing."""
    return config["TILES"] > 1 or config["STAGES"] == 1


def early_alone(config: Config, sizes: Sizes) -> bool:
    return config["TILES"] == 1 or not config["EARLY"]


def at_once(config: Config, sizes: Sizes) -> bool:
    """Records that are multiplied at once are not gone through one by one, in stages."""
    return config["STAGES"] == 1 or not config["DOT"]


def crowded(config: Config, sizes: Sizes) -> bool:
    """Fewer registers, for more programs at once, hold a tile and what is multiplied at once where
    that is half of them; records that are gone through one by one spill."""
    return not config["maxnreg"] or (
        bool(config["DOT"]) and 2 * _each(config, sizes) == config["maxnreg"]
    )


def shallow(config: Config, sizes: Sizes) -> bool:
    """Of a state's tiles a few fill what an SM has of shared memory."""
    return config["STAGES"] <= 3


def _each(config: Config, sizes: Sizes) -> float:
    """Elements of a tile in each thread."""
    return power_of_two(sizes.k) * config["TILE"] / (32 * config["num_warps"])
