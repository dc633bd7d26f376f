"""One value of a token, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from kvgen.values.axes import Axes
from kvgen.values.interval import Interval

LEAVES = ("const", "input", "param", "carried", "previous", "past")


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a token.

    op: a leaf ('const', 'input', 'param', 'carried', 'previous': what the record before this
    token holds, 0 in an empty buffer, or 'past': what its argument, an input, was `value` tokens
    ago, 0 before the first), an operator, the name of a function of the language, 'index'
    of an extra axis, 'at': an input, or a component of one, at a token of a chain, or 'read': the
    state before this token contracted with its argument, a vector over K (giving V) or over V
    (giving K). value: a leaf's number or name, an index, a token, the state that is read, or the
    channel that a function sums over. rounds: its bounds follow from how values hang together, so
    that rounding may take what is computed a little beyond them.
    """

    op: str
    args: tuple[Node, ...]
    value: float | str | int | None
    axes: Axes
    bounds: Interval
    rounds: bool
    reads: bool
    varies: bool
    order: int

    @property
    def is_const(self) -> bool:
        return self.op == "const"

    def is_number(self, value: float) -> bool:
        return self.is_const and self.value == value

    @property
    def const(self) -> float:
        assert self.op == "const" and isinstance(self.value, float)
        return self.value


def leaf_of(node: Node) -> Node:
    """The leaf of which a node is a component, or which it is at a token of a chain."""
    while node.op in ("index", "at"):
        node = node.args[0]
    return node


def reachable(
    roots: Iterable[Node],
    known: Collection[Node] = (),
    below: Callable[[Node], Sequence[Node]] | None = None,
) -> list[Node]:
    """Every node the roots depend on, arguments before their users; nothing below a known one.

    below: what a node depends on, where that is not simply its arguments.
    """
    seen: set[Node] = set()
    found: list[Node] = []
    # None: the node under it comes next, as all that it depends on has been found
    pending: list[Node | None] = [*reversed(list(roots))]
    while pending:
        node = pending.pop()
        if node is None:
            done = pending.pop()
            assert done is not None
            found.append(done)
        elif node not in seen and node not in known:
            seen.add(node)
            pending += (node, None)
            pending.extend(reversed(below(node) if below else node.args))
    return found


def users_of(nodes: Iterable[Node], leaves: Iterable[Node]) -> set[Node]:
    """Of the nodes, in order, the leaves and all that depends on them."""
    found = set(leaves)
    for node in nodes:
        if any(arg in found for arg in node.args):
            found.add(node)
    return found
