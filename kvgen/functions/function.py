"""What is known of a function of the language; each has a file beside this one that says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from kvgen.values.interval import Interval
from kvgen.values.node import Node

if TYPE_CHECKING:
    import torch


class Reach(IntEnum):
    """What of its arguments a function sees at once."""

    # one element of each
    ELEMENT = 0
    # a vector over K or over V
    CHANNEL = 1
    # a key side and a value side, of which it makes a matrix
    SIDES = 2
    # an input of this token and of those before it
    TOKENS = 3


class Builder(Protocol):
    """The graph, as functions see it that are built of others."""

    @property
    def sizes(self) -> Mapping[str, int]: ...
    def const(self, value: float) -> Node: ...
    def neg(self, x: Node) -> Node: ...
    def add(self, x: Node, y: Node) -> Node: ...
    def sub(self, x: Node, y: Node) -> Node: ...
    def mul(self, x: Node, y: Node) -> Node: ...
    def div(self, x: Node, y: Node) -> Node: ...
    def apply(self, function: Function, *args: Node) -> Node: ...


@dataclass(frozen=True)
class Seen:
    """A value that a function could have made: of what, what it hides, and which `eps` it has."""

    args: tuple[Node, ...]
    hidden: tuple[Node, ...]
    eps: float | None = None


# log(x) of a part, without cancellation
Log = Callable[[Node], Node]


@dataclass(frozen=True, eq=False, kw_only=True)
class Function:
    """A function of the language.

    optional: arguments that may come behind those of its arity. eps: the default of its keyword
    `eps`, as it is written; None where it takes none. usage: what helps who calls it with other
    arguments. elsewhere: what other libraries' function of that name takes besides, and what to
    write with all of it. of_state: whether it is tried of a whole state, as a part of a norm.

    Values. value: of numbers, a ValueError where there is no real one. bounds: its range, by those
    of its arguments; None where nothing follows from them.

    Made of others. lower: (graph, *args, eps where it takes one) -> the value in a graph; None
    where it is a node of its own. product: (x, y) -> x * y as this function's value, or None.

    Proofs. power: it is its argument to this power. at_least_each, at_most_each: no argument is
    larger than its value, or smaller. at_least_size: its value is no smaller than its argument's
    size. gate: (node) -> of what the node is this function, in any of the ways to write it, and
    whether of the negative; of a function whose values at x and -x add up to 1.

    Logarithms without cancellation, None where there is no better one. log: (graph, node, log) ->
    the log of its value. log_of_rest: (graph, node) -> the log of 1 - its value. difference:
    (graph, x, y) -> x - y, where one of them is its value.

    Triton. triton: its text, {0} and {1} the arguments'. triton_helpers: what that calls, whole.
    slow: whether a thread takes ten instructions or more for it. free: whether it takes so little
    that kernels are as fast as without it. keeps_zero: whether it is 0 where
    all its arguments are.

    torch. torch: the function of torch that it is, of tensors; tensor: its value of them where it
    is none. torch_helpers: what its text calls, whole, the last being `_plain_<name>`; empty where
    that is torch's function itself.
    """

    name: str
    arity: int = 1
    optional: int = 0
    reach: Reach = Reach.ELEMENT
    eps: str | None = None
    usage: str | None = None
    elsewhere: tuple[tuple[str, ...], str] | None = None
    of_state: bool = False

    value: Callable[..., float] | None = None
    bounds: Callable[..., Interval] | None = None

    lower: Callable[..., Node] | None = None
    product: Callable[[Node, Node], Seen | None] | None = None

    power: float | None = None
    at_least_each: bool = False
    at_most_each: bool = False
    at_least_size: bool = False
    gate: Callable[[Node], tuple[Node, bool] | None] | None = None

    log: Callable[[Builder, Node, Log], Node | None] | None = None
    log_of_rest: Callable[[Builder, Node], Node] | None = None
    difference: Callable[[Builder, Node, Node], Node | None] | None = None

    triton: str = ""
    triton_helpers: tuple[str, ...] = ()
    slow: bool = True
    free: bool = False
    keeps_zero: bool = False

    torch: str | None = None
    torch_helpers: tuple[str, ...] = ()
    tensor: Callable[..., torch.Tensor] | None = None

    def made(self, node: Node) -> bool:
        """Whether the node is this function's value."""
        return node.op == self.name

    @property
    def reduces(self) -> bool:
        """Whether it is a node of its own that sums over the channel."""
        return self.reach is Reach.CHANNEL and self.lower is None

    def of_tensors(self, *args: Any) -> torch.Tensor:
        """Its value of torch's tensors, element by element."""
        import torch

        return self.tensor(*args) if self.tensor else getattr(torch, str(self.torch))(*args)
