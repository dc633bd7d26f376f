"""What is proved of values holds for all values: ranges beside random evaluation in float64."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.functions.abs import ABS
from kvgen.functions.exp import EXP
from kvgen.functions.function import Function
from kvgen.functions.logaddexp import LOGADDEXP
from kvgen.functions.maximum import MAXIMUM
from kvgen.functions.minimum import MINIMUM
from kvgen.functions.relu import RELU
from kvgen.functions.sigmoid import SIGMOID
from kvgen.functions.softplus import SOFTPLUS
from kvgen.functions.sqrt import SQRT
from kvgen.functions.tanh import TANH
from kvgen.values import axes as ax
from kvgen.values.interval import ANY, Interval

SIZE = 3
LEAVES = {
    "x": (("H", "K"), ANY),
    "y": (("HV", "K"), ANY),
    "a": (("HV",), ANY),
    "u": (("HV",), Interval(0.0, 1.0)),
    "w": (("HV", "K"), Interval(-1.0, 2.0)),
    "low": (("HV",), Interval(hi=0.0)),
    "high": (("H",), Interval(1.0)),
}
CONSTANTS = (0.5, 1.0, 2.0, 1 / 3)


def norm(graph: Graph, x: Node, eps: float, mean: bool) -> Node:
    if not x.axes.channels:
        return x
    squares = graph.sum(graph.mul(x, x))
    squares = graph.mul(squares, graph.const(1 / SIZE)) if mean else squares
    root = graph.apply(SQRT, graph.add(squares, graph.const(eps)))
    return graph.mul(x, graph.div(graph.const(1.0), root))


def mean(graph: Graph, gate: Node, x: Node, y: Node) -> Node:
    rest = graph.sub(graph.const(1.0), gate)
    return graph.add(graph.mul(gate, x), graph.mul(rest, y))


# what a step of a random recurrence may compute of two values before it
STEPS: dict[str, Callable[[Graph, Node, Node], Node]] = {
    "add": Graph.add,
    "sub": Graph.sub,
    "mul": Graph.mul,
    "share": lambda g, x, y: g.div(x, g.add(g.apply(ABS, x), g.apply(ABS, y))),
    "ratio": lambda g, x, y: g.div(
        g.apply(ABS, x), g.add(g.const(1.0), g.add(g.apply(ABS, x), g.sum_of(y)))
    ),
    "root": lambda g, x, y: g.div(x, g.apply(SQRT, g.add(g.const(0.5), g.sum_of(g.mul(x, x))))),
    "solved": lambda g, x, y: g.div(
        g.mul(g.mul(g.apply(SIGMOID, y), x), x),
        g.add(g.const(0.25), g.mul(g.apply(SIGMOID, y), g.sum_of(g.mul(x, x)))),
    ),
    "solved first": lambda g, x, y: g.mul(
        g.mul(g.div(g.apply(ABS, y), g.add(g.const(1.0), g.sum_of(g.mul(x, g.mul(x, y))))), x), x
    ),
    "inverse": lambda g, x, y: g.mul(g.mul(x, x), g.pow(g.sum_of(g.mul(x, x)), g.const(-1.0))),
    "power": lambda g, x, y: g.pow(g.apply(SIGMOID, x), g.apply(ABS, y)),
    "square": lambda g, x, y: g.pow(x, g.const(2.0)),
    "cube": lambda g, x, y: g.pow(x, g.const(3.0)),
    "neg": lambda g, x, y: g.neg(x),
    "rest": lambda g, x, y: g.sub(g.const(1.0), x),
    "sigmoid": lambda g, x, y: g.apply(SIGMOID, x),
    "mirrored": lambda g, x, y: g.apply(SIGMOID, g.neg(x)),
    "swing": lambda g, x, y: g.sub(g.apply(SIGMOID, x), g.apply(SIGMOID, g.neg(x))),
    "gate": lambda g, x, y: g.exp(g.neg(g.apply(SOFTPLUS, x))),
    "tanh": lambda g, x, y: g.apply(TANH, x),
    "relu": lambda g, x, y: g.apply(RELU, x),
    "abs": lambda g, x, y: g.apply(ABS, x),
    "silu": lambda g, x, y: g.mul(x, g.apply(SIGMOID, x)),
    "decay": lambda g, x, y: g.exp(g.neg(g.apply(ABS, x))),
    "minimum": lambda g, x, y: g.apply(MINIMUM, x, y),
    "maximum": lambda g, x, y: g.apply(MAXIMUM, x, y),
    "logaddexp": lambda g, x, y: g.apply(LOGADDEXP, x, y),
    "mean": lambda g, x, y: mean(g, g.apply(SIGMOID, x), g.apply(SIGMOID, y), g.apply(TANH, x)),
    "between": lambda g, x, y: g.add(x, g.mul(g.apply(SIGMOID, g.neg(y)), g.sub(y, x))),
    "l2norm": lambda g, x, y: norm(g, x, 1e-6, False),
    "rmsnorm": lambda g, x, y: norm(g, x, 0.1, True),
    "dot": lambda g, x, y: g.sum_of(g.mul(x, y)),
    "softplus": lambda g, x, y: g.apply(SOFTPLUS, x),
    "excess": lambda g, x, y: g.sub(g.apply(SOFTPLUS, x), x),
    "lack": lambda g, x, y: g.mul(g.sub(x, g.apply(RELU, x)), g.apply(ABS, y)),
    "twice": lambda g, x, y: g.neg(g.add(x, g.apply(ABS, x))),
    "larger": lambda g, x, y: g.sub(g.neg(x), g.apply(MAXIMUM, y, g.neg(x))),
    "size": lambda g, x, y: g.apply(MAXIMUM, x, g.neg(x)),
    "less": lambda g, x, y: g.sub(x, g.apply(MINIMUM, x, y)),
    "exp": lambda g, x, y: g.sub(g.exp(x), x),
    "log": lambda g, x, y: g.stable_log(x) if x.bounds.nonnegative else x,
}


class Sums(Graph):
    def sum_of(self, x: Node) -> Node:
        """The sum over the channel, of what has one."""
        return self.sum(x) if x.axes.channels else x


def evaluate(roots: list[Node], drawn: dict[str, list[float]]) -> dict[Node, list[float]] | None:
    """Every value below the roots, a number for each channel; None where one is no number."""
    known: dict[Node, list[float]] = {}
    for node in reachable(roots):
        if node.is_const:
            known[node] = [node.const] * SIZE
            continue
        if not node.args:
            known[node] = drawn[str(node.value)]
            continue
        args = [known[arg] for arg in node.args]
        try:
            if node.op == "sum":
                known[node] = [math.fsum(args[0])] * SIZE
            else:
                known[node] = [OPERATIONS[node.op](*each) for each in zip(*args, strict=True)]
        except (OverflowError, ZeroDivisionError, ValueError):
            return None
        if any(not abs(each) < 1e6 for each in known[node]) and node.op != "log":
            return None
    return known


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


OPERATIONS: dict[str, Callable[..., float]] = {
    "neg": lambda x: -x,
    "exp": math.exp,
    "log": _log,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "abs": abs,
    "sqrt": lambda x: math.sqrt(max(x, 0.0)),
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "minimum": min,
    "maximum": max,
    "logaddexp": lambda x, y: max(x, y) + math.log1p(math.exp(-abs(x - y))),
}


def drawn(chance: random.Random) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, (axes, bounds) in LEAVES.items():
        scale = chance.choice([0.0, 0.01, 1.0, 5.0, 40.0])
        values = [chance.gauss(0.0, scale) for _ in range(SIZE)]
        values = [min(max(each, bounds.lo), bounds.hi) for each in values]
        if chance.random() < 0.3:
            values = [values[0]] + [0.0 if bounds.lo <= 0 <= bounds.hi else values[0]] * (SIZE - 1)
        found[name] = values if "K" in axes else values[:1] * SIZE
    return found


PROGRAMS = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 40), st.integers(0, 40)),
    min_size=1,
    max_size=9,
)


@given(PROGRAMS, st.integers(0, 2**32))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_value_leaves_its_range(program: list[tuple[str, int, int]], seed: int) -> None:
    graph = Sums({"K": SIZE})
    nodes = [graph.leaf("input", name, ax.of(axes), b) for name, (axes, b) in LEAVES.items()]
    nodes += [graph.const(value) for value in CONSTANTS]
    for name, first, second in program:
        # the newest are taken most often
        x, y = (nodes[-1 - at % len(nodes)] for at in (first, second))
        try:
            nodes.append(STEPS[name](graph, x, y))
        except (ValueError, OverflowError, ZeroDivisionError):
            # a constant that is no number
            return
    chance = random.Random(seed)
    for _ in range(6):
        values = evaluate(nodes, drawn(chance))
        for node, found in (values or {}).items():
            most = max(abs(each) for arg in (node, *node.args) for each in (values or {})[arg])
            slack = 1e-9 * (1 + (most if math.isfinite(most) else 0.0))
            lo, hi = node.bounds.lo - slack, node.bounds.hi + slack
            # the log of what cancels is not known so well
            if node.op == "log" and min((values or {})[node.args[0]]) < 1e-6:
                lo -= math.inf
            assert all(lo <= each <= hi for each in found), (node.op, node.bounds, found)


def unary(function: Function) -> Callable[[Graph, Node], Node]:
    return lambda graph, x: graph.apply(function, x)


def size(graph: Graph, x: Node) -> Node:
    return graph.apply(MAXIMUM, x, graph.neg(x))


LARGER = [unary(SOFTPLUS), unary(ABS), unary(RELU), unary(EXP), size]


@pytest.mark.parametrize("larger", LARGER)
def test_what_is_no_smaller_than_its_argument(larger: Callable[[Graph, Node], Node]) -> None:
    graph = Graph()
    a, b = (graph.leaf("input", name, ax.of(("HV",)), ANY) for name in "ab")
    rate = graph.apply(ABS, b)
    value = larger(graph, a)
    for x in (
        graph.neg(graph.sub(value, a)),
        graph.sub(a, value),
        # whatever is taken besides, or stands in front of it
        graph.sub(graph.sub(a, rate), value),
        graph.neg(graph.mul(rate, graph.sub(value, a))),
        graph.mul(graph.sub(a, value), graph.const(0.5)),
        # one after the other
        graph.sub(graph.add(a, b), graph.add(value, larger(graph, b))),
    ):
        assert x.bounds.nonpositive, x.bounds
        assert graph.exp(x).bounds == Interval(0.0, 1.0)
    for x in (
        graph.sub(value, b),
        graph.sub(value, graph.mul(graph.const(2.0), a)),
        graph.sub(graph.mul(graph.const(0.5), value), a),
        graph.mul(b, graph.sub(value, a)),
        graph.sub(graph.mul(value, value), graph.mul(a, a)),
        graph.sub(value, graph.add(a, graph.const(2.0))),
    ):
        assert not x.bounds.nonnegative and not x.bounds.nonpositive, x.bounds


def test_sizes() -> None:
    graph = Graph()
    a, b = (graph.leaf("input", name, ax.of(("HV",)), ANY) for name in "ab")
    for value in (graph.apply(ABS, a), size(graph, a)):
        assert value.bounds == Interval(0.0)
        assert graph.mul(value, graph.const(-1.0)).bounds.nonpositive
        assert graph.neg(graph.add(a, value)).bounds.nonpositive
        assert graph.neg(graph.sub(value, a)).bounds.nonpositive
        assert graph.add(value, b).bounds == ANY
    assert graph.apply(MINIMUM, a, graph.neg(a)).bounds == Interval(hi=0.0)
    assert graph.neg(graph.sub(a, graph.apply(MINIMUM, a, b))).bounds.nonpositive
    assert graph.neg(graph.sub(graph.apply(LOGADDEXP, a, b), b)).bounds.nonpositive
    for function in (SOFTPLUS, RELU):
        # they are no smaller than their argument, not than its size
        assert graph.add(graph.apply(function, a), a).bounds == ANY
    assert graph.apply(MAXIMUM, a, b).bounds == ANY
    assert graph.apply(MAXIMUM, a, graph.sub(b, a)).bounds == ANY


def test_what_rounding_may_take_below_zero_is_cut_off() -> None:
    graph = Sums({"K": SIZE})
    x = graph.leaf("input", "x", ax.of(("H", "K")), ANY)
    unit = norm(graph, x, 0.0, False)
    factor = graph.sub(graph.const(1.0), graph.mul(unit, unit))
    assert factor.bounds == Interval(0.0, 1.0) and factor.rounds
    log = graph.stable_log(factor)
    assert log.args[0].op == "maximum" and log.bounds.nonpositive
    # nothing is lost where rounding keeps to the range
    gate = graph.leaf("input", "u", ax.of(("HV",)), Interval(0.0, 1.0))
    assert graph.stable_log(graph.sub(graph.const(1.0), gate)).args[0].op == "sub"
