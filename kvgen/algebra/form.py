"""The derived form of a recurrence: decays, reads, writes, carried states and the output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from kvgen.algebra import matrix as mx
from kvgen.algebra.ends import final_matrix, final_node
from kvgen.algebra.finish import unfinished
from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.walk import Walk
from kvgen.diagnostics import Diagnostic
from kvgen.functions.minimum import MINIMUM
from kvgen.functions.registry import reduces
from kvgen.language.spec import Spec, Tensor
from kvgen.values import axes as ax
from kvgen.values.axes import Axes
from kvgen.values.interval import Interval

# a kernel has a line for every pair of an outer product and a vector that reads
MOST_DOTS = 4096


@dataclass(frozen=True)
class Decay:
    """A token's own log decay over the head ('') or over the channel K or V, with what is proved.

    constant: it holds no input, so it is the same for every token. nonpositive: it never grows the
    state. lower: a proved lower bound of the logarithm, or None.
    """

    channel: str
    log: Node

    @property
    def constant(self) -> bool:
        return not self.log.varies

    @property
    def nonpositive(self) -> bool:
        return self.log.bounds.nonpositive

    @property
    def lower(self) -> float | None:
        low = self.log.bounds.lo
        return None if low == -float("inf") else low


@dataclass(frozen=True)
class Write:
    """One outer product a token leaves: w over K, d over V."""

    w: Node
    d: Node

    @cached_property
    def reads(self) -> bool:
        return self.w.reads or self.d.reads


@dataclass(frozen=True)
class Carry:
    """A small state carried beside the matrix: its value before and after the token."""

    tensor: Tensor
    before: Node
    after: Node

    @property
    def axes(self) -> Axes:
        return ax.of(self.tensor.axes)


@dataclass(frozen=True)
class Factored:
    """Keys that are recorded before their decay: exp(-G) w, with G the running sum of log decays.

    before: G up to the newest record, 0 in an empty buffer. after: G with this token. keys: what is
    recorded of each write's w. most: records at which exp(-G) is still far from overflowing.
    """

    before: Node
    after: Node
    keys: tuple[Node, ...]
    most: int


@dataclass(frozen=True)
class Form:
    """S ← D ⊙ S + Σ w dᵀ, with every read a column of one pass over the stored S.

    output: what is computed of the output beside the state, all of it where finish is None. finish:
    the output as it follows from that by sums over V, which nothing else needs. unchanged: the
    statements, by their number, that assign to a name what it holds.
    """

    spec: Spec
    graph: Graph
    state: Tensor
    decays: tuple[Decay, ...]
    writes: tuple[Write, ...]
    carries: tuple[Carry, ...]
    output: Node
    finish: Node | None = None
    factored: Factored | None = None
    unchanged: frozenset[int] = frozenset()

    @property
    def planes(self) -> list[str]:
        """The tensors that hold the state in a cache; a decode may read the first alone."""
        return self.spec.storage.state.names(self.state.name)

    @property
    def keys(self) -> tuple[Node, ...]:
        """What a token records of the key side of each write."""
        return self.factored.keys if self.factored else tuple(write.w for write in self.writes)

    @property
    def summed_decays(self) -> tuple[Decay, ...]:
        """The decays whose logs are recorded token by token and summed newest first."""
        return tuple(d for d in self.decays if not (self.factored and d.channel == "K"))

    @property
    def scaled_decays(self) -> tuple[Decay, ...]:
        """Those of them over a channel that products of scaled vectors bring between tokens of a
        window: as logs are clamped there, they must be at most 0."""
        return tuple(d for d in self.summed_decays if d.channel and d.nonpositive)

    @property
    def result(self) -> Node:
        """The output as the spec has it."""
        return self.finish or self.output

    @property
    def roots(self) -> list[Node]:
        """Everything that is computed of a token beside the state."""
        roots = [node for write in self.writes for node in (write.w, write.d)]
        roots += [decay.log for decay in self.decays]
        roots += [carry.after for carry in self.carries]
        return [*roots, self.output]

    @property
    def whole(self) -> list[Node]:
        """Everything that is computed of a token."""
        return [*self.roots, *([self.finish] if self.finish else [])]

    @cached_property
    def remembered(self) -> tuple[Node, ...]:
        """The inputs of which the last tokens are kept."""
        pasts = self.spec.pasts
        nodes = {node.value: node for node in self.graph.nodes.values() if node.op == "input"}
        return tuple(nodes[past.tensor.name] for past in pasts)

    @property
    def most_past(self) -> int:
        """How many tokens the input that goes back most goes back."""
        return max((past.count for past in self.spec.pasts), default=0)

    def past_of(self, x: Node) -> str:
        """What the past of an input is called in the cache."""
        return next(past.name for past in self.spec.pasts if past.tensor.name == x.value)

    @cached_property
    def reads(self) -> tuple[Node, ...]:
        """The reads of the stored state, in the order they are needed."""
        found = [node for node in reachable(self.roots) if node.op == "read"]
        return tuple(sorted(found, key=lambda node: node.order))

    @cached_property
    def columns(self) -> tuple[Node, ...]:
        """The distinct vectors that read the stored state."""
        return tuple(dict.fromkeys(node.args[0] for node in self.reads))

    @property
    def writes_read(self) -> bool:
        """Whether what a token writes depends on the state (a delta rule)."""
        return any(write.reads for write in self.writes)

    @property
    def replays(self) -> bool:
        """Whether a fold runs each recorded token again on the state: where that keeps more than a
        decode reads, or where nothing else is recorded."""
        storage = self.spec.storage
        return self.writes_read and (storage.state.partial or storage.records.replays)

    @property
    def emptied(self) -> bool:
        """Whether rows fold at the end of every step, as what only a decode reads of a record is
        not kept: tokens then find no records."""
        return self.replays and self.spec.storage.records.replays and not self.carries_read

    @property
    def carries_read(self) -> bool:
        """Whether a carried state is updated from a read of the matrix."""
        return any(carry.after.reads for carry in self.carries)

    @cached_property
    def whole_v(self) -> bool:
        """Whether some step reduces over V, so that one program must hold all of it."""
        nodes = reachable(self.roots)
        return any(
            (reduces(node) and node.value == "V")
            or (node.op == "read" and node.args[0].axes.channels == "V")
            for node in nodes
        )

    @cached_property
    def late(self) -> frozenset[Node]:
        """What a window of tokens knows only once it has read the state: reads, carried states that
        are updated from a read, and all that depends on them."""
        late: set[Node] = set()
        nodes = reachable([*self.roots, *self.keys])
        while True:
            found = {carry.before for carry in self.carries if carry.after in late}
            for node in nodes:
                if node.reads or node in late or any(arg in found for arg in node.args):
                    found.add(node)
            if found == late:
                return frozenset(late)
            late = found

    @cached_property
    def windows(self) -> bool:
        """Whether several tokens can pass over the state at once: what reads it, and how it decays,
        must not follow from what an earlier token of the window has read."""
        late = self.late
        needed = (*self.columns, *(decay.log for decay in self.decays))
        return not any(node in late for node in needed)

    @property
    def paged(self) -> bool:
        """Whether records may lie in pages, of rows that have no state yet."""
        return self.windows and not self.remembered and not self.emptied

    def decay(self, channel: str) -> Decay | None:
        return next((decay for decay in self.decays if decay.channel == channel), None)


def derive(spec: Spec) -> tuple[Form | None, list[Diagnostic]]:
    """Walk the spec's step; the form, or None with everything that stands in its way."""
    walk = Walk(spec)
    walk.run()
    last = {step.target: step for step in spec.steps}
    matrix_state = next(state for state in spec.states if ax.of(state.axes).channels == "KV")
    carries: list[Carry] = []
    for tensor in spec.states:
        if tensor is matrix_state or tensor.name not in last:
            continue
        axes = ax.of(tensor.axes)
        what = f"the carried state {tensor.name}"
        after = final_node(walk, tensor.name, last[tensor.name].value.span, axes, what)
        before = walk.graph.leaf("carried", tensor.name, axes, Interval())
        if after is not None:
            carries.append(Carry(tensor, before, after))
    output = None
    if "o" in last:
        span = last["o"].value.span
        output = final_node(walk, "o", span, Axes(None, "HV", "V"), "the output o")
    matrix = None
    if matrix_state.name in last:
        matrix = final_matrix(walk, matrix_state.name, last[matrix_state.name].value.span)
    else:
        matrix = mx.Matrix(matrix_state.name)
    if walk.report.diagnostics or matrix is None or output is None:
        return None, walk.report.diagnostics
    graph = walk.graph
    decays: list[Decay] = []
    for channel in ("", "K", "V"):
        factor = mx.product(graph, matrix, channel)
        if factor is not None:
            log = graph.stable_log(factor)
            if factor.bounds.hi <= 1 and not log.bounds.nonpositive:
                # it never grows the state, which its parts alone do not show
                log = graph.apply(MINIMUM, log, graph.const(0.0))
            if not (log.is_const and log.const == 0):
                suffix = f"_{channel}" if channel else ""
                graph.names.setdefault(log, f"log_decay{suffix}")
                graph.names.setdefault(graph.exp(log), f"decay{suffix}")
                decays.append(Decay(channel, log))
    writes = tuple(Write(term.w, term.d) for term in mx.merged(graph, matrix.terms))
    form = Form(
        spec, graph, matrix_state, tuple(decays), writes, tuple(carries), output,
        unchanged=frozenset(walk.unchanged),
    )  # fmt: skip
    if (part := unfinished(output)) is not None:
        split = replace(form, output=part, finish=output)
        # what holds all of V anyway finishes outputs itself
        form = form if split.whole_v else split
    if len(form.columns) * len(writes) > MOST_DOTS:
        walk.report.error(
            "too-many-dots",
            f"{len(form.columns)} vectors read the state and {len(writes)} outer products are "
            f"written: more than {MOST_DOTS} dots for each token in the buffer",
            last[matrix_state.name].value.span,
            "read with fewer vectors, or write fewer outer products",
        )
        return None, walk.report.diagnostics
    return form, []
