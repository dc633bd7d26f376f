"""A hash-consed graph of one token's values: named axes, proved ranges, stable rewrites.

Every assignment of a spec is one node, shared wherever it is used, so the graph is linear in the
text. Nodes are never reordered or simplified beyond the rewrites below, which remove
cancellations that would cost accuracy (``log(sigmoid(x))``, ``x - maximum(x, y)``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kvgen.algebra import axes as ax
from kvgen.algebra import interval as iv
from kvgen.algebra.axes import SCALAR, Axes
from kvgen.algebra.interval import ANY, Interval
from kvgen.algebra.node import LEAVES, Node, leaf_of, reachable
from kvgen.algebra.proofs import Proofs

__all__ = ["BINARY", "LEAVES", "UNARY", "Graph", "Node", "leaf_of", "reachable"]

UNARY = ("neg", "exp", "log", "sigmoid", "softplus", "tanh", "relu", "abs", "sqrt")
BINARY = ("add", "sub", "mul", "div", "pow", "minimum", "maximum", "logaddexp")


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
                terms = iv.both(bounds, found.bounds())
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

    def read(self, state: str, column: Node) -> Node:
        """The state before this token, contracted with a vector over K or over V."""
        channel = "V" if column.axes.channels == "K" else "K"
        return self._node("read", (column,), state, Axes(None, "HV", channel), iv.ANY, True)

    # -- elementwise operations

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
        if y.op == "maximum" and x in y.args:
            # x - maximum(x, z) <= 0, exactly, whatever x and z are
            other = y.args[1] if y.args[0] is x else y.args[0]
            return self.minimum(self.sub(x, other), self.const(0.0))
        if x.op == "minimum" and y in x.args:
            other = x.args[1] if x.args[0] is y else x.args[0]
            return self.minimum(self.sub(other, y), self.const(0.0))
        if y.op == "logaddexp" and x in y.args:
            other = y.args[1] if y.args[0] is x else y.args[0]
            return self.neg(self.softplus(self.sub(other, x)))
        return self._node("sub", (x, y), None, ax.join(x.axes, y.axes), x.bounds - y.bounds)

    def mul(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            return self.const(x.const * y.const)
        if x.is_const and x.const == 1:
            return y
        if y.is_const and y.const == 1:
            return x
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

    def minimum(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            return self.const(min(x.const, y.const))
        bounds = iv.minimum(x.bounds, y.bounds)
        return self._node("minimum", (x, y), None, ax.join(x.axes, y.axes), bounds)

    def maximum(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            return self.const(max(x.const, y.const))
        bounds = iv.maximum(x.bounds, y.bounds)
        return self._node("maximum", (x, y), None, ax.join(x.axes, y.axes), bounds)

    def logaddexp(self, x: Node, y: Node) -> Node:
        if x.is_const and y.is_const:
            above, below = max(x.const, y.const), min(x.const, y.const)
            return self.const(above + iv.softplus(below - above))
        bounds = iv.logaddexp(x.bounds, y.bounds)
        return self._node("logaddexp", (x, y), None, ax.join(x.axes, y.axes), bounds)

    def exp(self, x: Node) -> Node:
        return self._monotone("exp", x, iv.exp)

    def log(self, x: Node) -> Node:
        return self._monotone("log", x, iv.log)

    def sigmoid(self, x: Node) -> Node:
        return self._monotone("sigmoid", x, iv.sigmoid)

    def softplus(self, x: Node) -> Node:
        return self._monotone("softplus", x, iv.softplus)

    def tanh(self, x: Node) -> Node:
        return self._monotone("tanh", x, math.tanh)

    def sqrt(self, x: Node) -> Node:
        if x.is_const and x.const < 0:
            raise ValueError("the root of a negative number")
        return self._monotone("sqrt", x, iv.sqrt)

    def relu(self, x: Node) -> Node:
        if x.is_const:
            return self.const(max(x.const, 0.0))
        return self._node("relu", (x,), None, x.axes, iv.maximum(x.bounds, iv.point(0.0)))

    def abs(self, x: Node) -> Node:
        if x.is_const:
            return self.const(abs(x.const))
        return self._node("abs", (x,), None, x.axes, iv.absolute(x.bounds))

    def _monotone(self, op: str, x: Node, image: Callable[[float], float]) -> Node:
        if x.is_const:
            return self.const(image(x.const))
        return self._node(op, (x,), None, x.axes, iv.increasing(image, x.bounds))

    # -- axes

    def sum(self, x: Node) -> Node:
        """Sum over the one channel axis of x."""
        axes = x.axes.without(channels=True)
        plain = Interval(0.0) if x.bounds.nonnegative else ANY
        plain = Interval(hi=0.0) if x.bounds.nonpositive else plain
        return self._node("sum", (x,), x.axes.channels, axes, plain, related=self.proofs.sum(x))

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
        if node.op in UNARY or node.op in BINARY or node.op == "sum":
            return getattr(self, node.op)(*args)
        raise AssertionError(f"no operation {node.op} to rebuild")

    # -- logarithms of factors

    def stable_log(self, x: Node, depth: int = 64) -> Node:
        """log(x) of a factor x >= 0, without the cancellation of taking it literally."""
        if x not in self.logs:
            self.logs[x] = self._stable_log(x, depth - 1) if depth else self.log(x)
        return self.logs[x]

    def _stable_log(self, x: Node, depth: int) -> Node:
        match x.op:
            case "const":
                return self.const(iv.log(x.const))
            case "exp":
                return x.args[0]
            case "mul" if x.args[0] is x.args[1]:
                return self.mul(self.const(2.0), self._log_size(x.args[0], depth))
            case "mul" if _proved(x.args):
                logs = [self.stable_log(arg, depth) for arg in x.args]
                return self.add(logs[0], logs[1])
            case "div" if _proved(x.args):
                logs = [self.stable_log(arg, depth) for arg in x.args]
                return self.sub(logs[0], logs[1])
            case "sigmoid":
                return self.neg(self.softplus(self.neg(x.args[0])))
            case "sub" if _is_one(x.args[0]) and x.args[1].op == "sigmoid":
                return self.neg(self.softplus(x.args[1].args[0]))
            case "sqrt" if _proved(x.args):
                return self.mul(self.const(0.5), self.stable_log(x.args[0], depth))
            case "pow" if x.args[1].is_const and x.args[1].const == 0:
                return self.const(0.0)
            case "pow" if _proved(x.args[:1]):
                return self.mul(x.args[1], self.stable_log(x.args[0], depth))
            case "pow" if x.args[1].is_const and x.args[1].const % 2 == 0:
                return self.mul(x.args[1], self._log_size(x.args[0], depth))
            case "maximum" | "minimum" if _proved(x.args):
                logs = [self.stable_log(arg, depth) for arg in x.args]
                return getattr(self, x.op)(*logs)
        # what is proved of it holds but for rounding, and the log of less than 0 is no number
        return self.log(self.maximum(x, self.const(0.0)) if x.rounds else x)

    def _log_size(self, x: Node, depth: int) -> Node:
        """log|x|"""
        return self.stable_log(x if x.bounds.nonnegative else self.abs(x), depth)


def _proved(nodes: tuple[Node, ...]) -> bool:
    return all(node.bounds.nonnegative for node in nodes)


def _is_one(x: Node) -> bool:
    return x.is_const and x.const == 1
