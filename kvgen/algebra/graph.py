"""A hash-consed graph of one token's values: named axes, proved ranges, stable rewrites.

Every assignment of a spec is one node, shared wherever it is used, so the graph is linear in the
text. Nodes are never reordered or simplified beyond the rewrites below, which remove
cancellations that would cost accuracy (``log(sigmoid(x))``, ``x - maximum(x, y)``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvgen.algebra.proofs import Proofs
from kvgen.functions.abs import ABS
from kvgen.functions.exp import EXP
from kvgen.functions.function import Function
from kvgen.functions.log import LOG
from kvgen.functions.maximum import MAXIMUM
from kvgen.functions.registry import function_of
from kvgen.functions.sum import SUM
from kvgen.values import axes as ax
from kvgen.values import interval as iv
from kvgen.values.axes import SCALAR, Axes
from kvgen.values.interval import ANY, Interval
from kvgen.values.node import LEAVES, Node, leaf_of, reachable, users_of

__all__ = ["LEAVES", "Graph", "Node", "computed", "leaf_of", "reachable", "users_of"]

OPERATORS = ("neg", "add", "sub", "mul", "div", "pow")


def computed(node: Node) -> bool:
    """Whether the node is an operation that the graph can make of other arguments."""
    return node.op in OPERATORS or function_of(node) is not None


@dataclass
class Graph:
    """Builds nodes; equal operations on equal arguments give the same node.

    sizes: of the channels, where they are known.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    nodes: dict[tuple[object, ...], Node] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    logs: dict[Node, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.proofs = Proofs(self.sizes)

    def _node(
        self,
        op: str,
        args: tuple[Node, ...],
        value: float | str | int | None,
        axes: Axes,
        bounds: Interval,
        varies: bool | None = None,
        related: Interval = ANY,
    ) -> Node:
        """bounds: what follows from the arguments' bounds. related: what is proved besides."""
        key = (op, value, *args)
        if key not in self.nodes:
            found = self.proofs.combined(op, args)
            if found is not None:
                terms = iv.both(bounds, self.proofs.bounds(found))
                # what says more than its terms do is one unknown to what is made of it
                found = None if iv.both(terms, related) != terms else found
                related = iv.both(terms, related)
            moves = any(arg.varies for arg in args) if varies is None else varies
            reads = op == "read" or any(arg.reads for arg in args)
            proved = iv.both(bounds, related)
            rounds = proved != bounds or any(arg.rounds for arg in args)
            proved = iv.settled(proved) if rounds else proved
            node = Node(op, args, value, axes, proved, rounds, reads, moves, len(self.nodes))
            self.nodes[key] = node
            self.proofs.keep(node, found)
        return self.nodes[key]

    # -- leaves

    def const(self, value: float) -> Node:
        value = float(value)
        return self._node("const", (), value, SCALAR, iv.point(value), varies=False)

    def leaf(self, kind: str, name: str, axes: Axes, bounds: Interval) -> Node:
        node = self._node(kind, (), name, axes, bounds, varies=kind != "param")
        self.names.setdefault(node, name)
        return node

    def past(self, x: Node, age: int) -> Node:
        """An input as it was so many tokens ago; 0 before a request's first token."""
        bounds = Interval(min(x.bounds.lo, 0.0), max(x.bounds.hi, 0.0))
        return self._node("past", (x,), age, x.axes, bounds)

    def read(self, state: str, column: Node) -> Node:
        """The state before this token, contracted with a vector over K or over V."""
        channel = "V" if column.axes.channels == "K" else "K"
        return self._node("read", (column,), state, Axes(None, "HV", channel), iv.ANY, True)

    # -- operators

    def neg(self, x: Node) -> Node:
        if x.is_const:
            return self.const(-x.const)
        if x.op == "neg":
            return x.args[0]
        return self._node("neg", (x,), None, x.axes, -x.bounds)

    def add(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            return self.const(x.const + y.const)
        if x.is_const and x.const == 0:
            return y
        if y.is_const and y.const == 0:
            return x
        if y.op == "neg":
            return self.sub(x, y.args[0])
        return self._node("add", (x, y), None, ax.join(x.axes, y.axes), x.bounds + y.bounds)

    def sub(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            return self.const(x.const - y.const)
        if y.is_const and y.const == 0:
            return x
        if x.is_const and x.const == 0:
            return self.neg(y)
        if y.op == "neg":
            return self.add(x, y.args[0])
        for side in (x, y):
            function = function_of(side)
            found = function and function.difference and function.difference(self, x, y)
            if found:
                return found
        return self._node("sub", (x, y), None, ax.join(x.axes, y.axes), x.bounds - y.bounds)

    def mul(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            return self.const(x.const * y.const)
        if x.is_const and x.const == 1:
            return y
        if y.is_const and y.const == 1:
            return x
        if (known := self.nodes.get(("mul", None, x, y))) is not None:
            return known
        bounds = iv.square(x.bounds) if x is y else x.bounds * y.bounds
        related, length = self.proofs.product(x, y)
        axes = ax.join(x.axes, y.axes)
        node = self._node("mul", (x, y), None, axes, bounds, related=related)
        self.proofs.measure(node, length)
        return node

    def div(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const and y.const != 0:
            return self.const(x.const / y.const)
        if y.is_const and y.const == 1:
            return x
        if (known := self.nodes.get(("div", None, x, y))) is not None:
            return known
        related, length = self.proofs.quotient(x, y)
        axes, bounds = ax.join(x.axes, y.axes), x.bounds / y.bounds
        node = self._node("div", (x, y), None, axes, bounds, related=related)
        self.proofs.measure(node, length)
        return node

    def pow(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            return self.const(math.pow(x.const, y.const))
        if y.is_const and y.const == 1:
            return x
        if x.is_const and x.const <= 0:
            raise ValueError("a power of a number that is not positive")
        if y.is_const:
            bounds = iv.power(x.bounds, y.const)
        else:
            bounds = iv.powers(x.bounds, y.bounds) if x.bounds.nonnegative else ANY
        return self._node("pow", (x, y), None, ax.join(x.axes, y.axes), bounds)

    # -- functions

    def apply(self, function: Function, *args: Node) -> Node:
        """The function's value; its keyword's comes last. ValueError: of numbers it has none."""
        if function.lower is not None:
            return function.lower(self, *args)
        if function.reduces:
            return self._over_channel(function, args[0])
        if function.value is not None and all(arg.is_const for arg in args):
            return self.const(function.value(*(arg.const for arg in args)))
        axes = args[0].axes
        for arg in args[1:]:
            axes = ax.join(axes, arg.axes)
        bounds = function.bounds(*(arg.bounds for arg in args)) if function.bounds else ANY
        related = self.proofs.of_two(function, args)
        return self._node(function.name, args, None, axes, bounds, related=related)

    def _over_channel(self, function: Function, x: Node) -> Node:
        axes = x.axes.without(channels=True)
        bounds = function.bounds(x.bounds) if function.bounds else ANY
        related = self.proofs.sum(x)
        return self._node(function.name, (x,), x.axes.channels, axes, bounds, related=related)

    def exp(self, x: Node) -> Node:
        return self.apply(EXP, x)

    def sum(self, x: Node) -> Node:
        """Sum over the one channel axis of x."""
        return self.apply(SUM, x)

    # -- axes

    def index(self, x: Node, place: int) -> Node:
        """Component `place` of x along its extra axis, pushed down to the leaves."""
        if x.axes.extra is None:
            return x
        if x.op in LEAVES:
            axes = x.axes.without(extra=True)
            return self._node("index", (x,), place, axes, x.bounds, x.varies)
        done: dict[Node, Node] = {}
        pending = [x]
        while pending:
            node = pending[-1]
            if node in done:
                pending.pop()
                continue
            if node.axes.extra is None or node.op in LEAVES:
                done[node] = self.index(node, place)
                pending.pop()
                continue
            missing = [arg for arg in node.args if arg not in done]
            if missing:
                pending.extend(missing)
                continue
            done[node] = self.rebuild(node, tuple(done[arg] for arg in node.args))
            pending.pop()
        return done[x]

    def at(self, x: Node, token: int) -> Node:
        """An input, or a component of one, at a token of a chain."""
        return self._node("at", (x,), token, x.axes, x.bounds)

    def rebuild(self, node: Node, args: tuple[Node, ...]) -> Node:
        """The node's operation on other arguments."""
        function = function_of(node)
        if function is not None:
            return self.apply(function, *args)
        if node.op in OPERATORS:
            return getattr(self, node.op)(*args)
        raise AssertionError(f"no operation {node.op} to rebuild")

    # -- logarithms of factors

    def stable_log(self, x: Node, depth: int = 64) -> Node:
        """log(x) of a factor x >= 0, without the cancellation of taking it literally."""
        if x not in self.logs:
            self.logs[x] = self._stable_log(x, depth - 1) if depth else self._plain_log(x)
        return self.logs[x]

    def _stable_log(self, x: Node, depth: int) -> Node:
        def log(part: Node) -> Node:
            return self.stable_log(part, depth)

        function = function_of(x)
        if function is not None:
            found = function.log and function.log(self, x, log)
            return found or self._plain_log(x)
        match x.op:
            case "mul" if x.args[0] is x.args[1]:
                return self.mul(self.const(2.0), self._log_size(x.args[0], depth))
            case "mul" if _proved(x.args):
                logs = [log(arg) for arg in x.args]
                return self.add(logs[0], logs[1])
            case "div" if _proved(x.args):
                logs = [log(arg) for arg in x.args]
                return self.sub(logs[0], logs[1])
            case "sub" if x.args[0].is_number(1.0):
                inner = function_of(x.args[1])
                if inner is not None and inner.log_of_rest is not None:
                    return inner.log_of_rest(self, x.args[1])
            case "pow" if x.args[1].is_number(0.0):
                return self.const(0.0)
            case "pow" if _proved(x.args[:1]):
                return self.mul(x.args[1], log(x.args[0]))
            case "pow" if x.args[1].is_const and x.args[1].const % 2 == 0:
                return self.mul(x.args[1], self._log_size(x.args[0], depth))
            case _:
                pass
        return self._plain_log(x)

    def _plain_log(self, x: Node) -> Node:
        """What is proved of it holds but for rounding, and the log of less than 0 is no number."""
        if x.is_const:
            return self.const(iv.log(x.const))
        return self.apply(LOG, self.apply(MAXIMUM, x, self.const(0.0)) if x.rounds else x)

    def _log_size(self, x: Node, depth: int) -> Node:
        """log|x|"""
        return self.stable_log(x if x.bounds.nonnegative else self.apply(ABS, x), depth)


def _proved(nodes: tuple[Node, ...]) -> bool:
    return all(node.bounds.nonnegative for node in nodes)
