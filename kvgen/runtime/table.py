"""What a module says of its recurrence: all that its host's side knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch


class Argument(NamedTuple):
    """An input of a token, or a parameter of a layer, with its axes."""

    name: str
    axes: tuple[str, ...]


def arguments_of(axes: Mapping[str, tuple[str, ...]]) -> tuple[Argument, ...]:
    return tuple(Argument(name, each) for name, each in axes.items())


class Held(NamedTuple):
    """A tensor that a cache has for every slot and layer.

    part: "state", "record" or "carried". axes: those after slots and layers, "places" among them.
    dtype: None for that of the inputs. initial: what a fresh row has; of records nothing is read.
    """

    name: str
    part: str
    axes: tuple[str, ...]
    dtype: torch.dtype | None
    initial: float = 0.0

    @property
    def places(self) -> int | None:
        """Which axis of the tensor its places are, if it has any."""
        return 2 + self.axes.index("places") if "places" in self.axes else None


class Signature(NamedTuple):
    """What a kernel takes of its call's arguments and of the cache, by name.

    grouped: a program has all value heads of a group.
    """

    arguments: tuple[str, ...]
    tensors: tuple[str, ...]
    grouped: bool = False


class Table(NamedTuple):
    """A module's own facts.

    digest: the beginning of the text's hash. names: the module's globals, where kernels, CONFIGS
    and BUFFERS are looked up: what is set there counts. state: the matrix state's name. recorded:
    inputs kept as they came. most_places: the most records of a row. least_span: places that a
    kernel takes at least. chain: tokens that a kernel for chains takes, 0 without one. chunk: least
    lanes of tokens in a kernel for chunks, 0 without one; chunk_trees: if it takes trees;
    chunk_timed: if it is taken only where it has been timed. blocks: a `Blocks`, where prompts can
    be taken so, as only then is that class there. choices: what a decode's configurations choose
    that not every recurrence's can. multiplies: whether a fold takes records at once, on tensor
    cores where DOT says so. several: whether more tokens of a window need more warps. tile, warps:
    of kernels that are not tuned. tune: the command that tunes. short: what differs in a cache of
    short contexts, and short_buffer: its records of a row with a state, where not as tuned.
    without_short: why there are none.
    """

    name: str
    digest: int
    names: Mapping[str, Any]
    sizes: Mapping[str, int]
    inputs: tuple[Argument, ...]
    params: tuple[Argument, ...]
    states: tuple[Argument, ...]
    held: tuple[Held, ...]
    kernels: Mapping[str, Signature]
    state: str
    recorded: tuple[str, ...]
    output_like: str
    most_places: int
    most_window: int
    least_span: int
    tile: int
    warps: int
    tune: str
    chain: int = 0
    chunk: int = 0
    chunk_trees: bool = True
    chunk_timed: bool = False
    blocks: Any = None
    choices: tuple[str, ...] = ()
    multiplies: bool = False
    several: bool = False
    short: Table | None = None
    short_buffer: int | None = None
    without_short: str = ""

    @property
    def namespace(self) -> str:
        """Where torch has the module's ops."""
        return f"kvgen_{self.name}_{self.digest:015x}"[: len(self.name) + 15]

    @property
    def ratio(self) -> int:
        """Value heads to a key head."""
        return self.sizes["HV"] // self.sizes["H"]

    def of(self, *parts: str) -> list[Held]:
        """The tensors of the matrix state, of records, of carried states."""
        return [held for held in self.held if held.part in parts]

    @property
    def planes(self) -> list[str]:
        """The tensors that together hold the matrix state."""
        return [held.name for held in self.of("state")]

    @property
    def records(self) -> list[str]:
        return [held.name for held in self.of("record")]

    @property
    def carried(self) -> list[str]:
        return [held.name for held in self.of("carried")]

    @property
    def vectors(self) -> list[str]:
        """The inputs over K or V."""
        return [each.name for each in self.inputs if "K" in each.axes or "V" in each.axes]

    def kernel(self, name: str) -> Any:
        return self.names[f"_{name}_kernel"]

    def extents(self, axes: tuple[str, ...], heads: int, places: int = 0) -> tuple[int, ...]:
        """Axes as numbers, on a rank with so many value heads."""
        known = {"HV": heads, "H": heads // self.ratio, "places": places}
        return tuple(known[axis] if axis in known else self.sizes[axis] for axis in axes)
