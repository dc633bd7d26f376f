"""Several tokens, one after the other, as one step of a form: a chain of drafts.

Every value of the step stands there once for each token. A read of the state that earlier tokens
have left is a column of the one pass over the stored state, scaled by their decays, and a dot with
each of their writes, decayed by the tokens between. All of it is nodes of the form's own graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from kvgen.algebra.form import Form, Write
from kvgen.algebra.graph import Graph, Node, leaf_of, reachable
from kvgen.algebra.naming import described, vector_of

# tokens of a step, the columns that one operand of a tensor core takes, and the dots of a token's
# columns with an earlier one's writes that a kernel is still worth for
TOKENS, MOST_COLUMNS, MOST_DOTS = 4, 16, 8
# sums over channels that a program takes together
MOST_SUMS = 64
# channels of keys up to which the tokens' vectors beside those of the buffer fit a program
MOST_KEYS = 512


@dataclass(frozen=True)
class Chain:
    """The step. tokens: for each of them what stands for every value of the form. called: names for
    values without one of their own, where they need one."""

    form: Form
    tokens: tuple[dict[Node, Node], ...]
    called: dict[Node, str]

    @property
    def graph(self) -> Graph:
        return self.form.graph

    @cached_property
    def roots(self) -> list[Node]:
        """Everything the step must compute, token by token."""
        asked = [*self.form.roots, *self.form.keys]
        return [token[node] for token in self.tokens for node in asked]

    @cached_property
    def reads(self) -> tuple[Node, ...]:
        """The reads of the stored state, a token's beside each other."""
        found: dict[Node, None] = {}
        for token in self.tokens:
            below = reachable([token[node] for node in self.form.roots])
            reads = [node for node in below if node.op == "read"]
            found |= dict.fromkeys(sorted(reads, key=lambda node: node.order))
        return tuple(found)

    @cached_property
    def columns(self) -> tuple[Node, ...]:
        """The distinct vectors that read the stored state."""
        return tuple(dict.fromkeys(node.args[0] for node in self.reads))


def chains(form: Form) -> bool:
    """Whether drafts that follow each other are worth a step of their own.

    Their inputs have no past, their columns must fit one operand, and a carried state must be as
    wide as it is declared, for a token's is the next one's as it stands.
    """
    columns, writes = len(form.columns), len(form.writes)
    return (
        form.windows
        and not form.remembered
        and 0 < columns * TOKENS <= MOST_COLUMNS
        and columns * writes <= MOST_DOTS
        and form.spec.size("K") <= MOST_KEYS
        and all(carry.after.axes == carry.axes for carry in form.carries)
    )


def chained(form: Form, count: int = TOKENS) -> Chain:
    """So many tokens as one step, for a form that `chains`."""
    builder = _Builder(form)
    for token in range(count):
        builder.add(token)
    return Chain(form, tuple(builder.tokens), builder.called)


class _Builder:
    def __init__(self, form: Form) -> None:
        self.form, self.graph = form, form.graph
        self.tokens: list[dict[Node, Node]] = []
        self.called: dict[Node, str] = {}
        self.nodes = reachable([*form.roots, *form.keys])
        names = form.graph.names
        self.vectors = {column: vector_of(column, names) or "read" for column in form.columns}
        self.sides: dict[Node, str] = {}
        for place, write in enumerate(form.writes, 1):
            one = f"write{place}" if len(form.writes) > 1 else "write"
            self.sides |= {write.w: f"{one}_key", write.d: f"{one}_value"}
        self.after = {carry.before: carry.after for carry in form.carries}
        if form.factored:
            self.after[form.factored.before] = form.factored.after

    def add(self, token: int) -> None:
        names = self.graph.names
        here: dict[Node, Node] = {}
        for node in self.nodes:
            here[node] = copy = self._copy(node, token, here)
            if copy is node:
                continue
            if node in names:
                names.setdefault(copy, f"{names[node]}_{token}")
            elif node in self.vectors:
                self._call(copy, f"{self.vectors[node]}_column_{token}")
            elif node in self.sides:
                self._call(copy, f"{self.sides[node]}_{token}")
            elif known := described(node, names):
                self._call(copy, f"{known}_{token}")
        self.tokens.append(here)

    def _call(self, node: Node, name: str) -> Node:
        self.called.setdefault(node, name)
        return node

    def _copy(self, node: Node, token: int, here: dict[Node, Node]) -> Node:
        if leaf_of(node).op == "input":
            return self.graph.at(node, token)
        if node in self.after:
            return self.tokens[token - 1][self.after[node]] if token else node
        if node.op == "read":
            return self._read(node, token, here)
        args = tuple(here[arg] for arg in node.args)
        if args == node.args:
            return node
        return self.graph.rebuild(node, args)

    def _read(self, node: Node, token: int, here: dict[Node, Node]) -> Node:
        """A read of what the stored state and the earlier tokens' writes have become."""
        graph, column = self.graph, here[node.args[0]]
        near, far = node.args[0].axes.channels, node.axes.channels
        name = self.vectors[node.args[0]]
        start = self._call(self._decayed(near, 0, token, column), f"{name}_column_0_{token}")
        read = self._call(graph.read(str(node.value), start), f"{name}_found_{token}")
        total = self._decayed(far, 0, token, self._decayed("", 0, token, read))
        for earlier in reversed(range(token)):
            for write in self.form.writes:
                same, other = self._sides(write, earlier, near)
                between = (earlier + 1, token)
                now = self._decayed(near, *between, same)
                known = graph.names.get(same) or self.called.get(same, "write")
                self._call(now, f"{known}_in_{token}")
                score = graph.sum(graph.mul(now, column))
                self._call(score, f"{name}_score_{token}_{earlier}")
                weight = self._decayed("", *between, score)
                self._call(weight, f"{name}_weight_{token}_{earlier}")
                term = graph.mul(weight, self._decayed(far, *between, other))
                self._call(term, f"{name}_term_{token}_{earlier}")
                total = self._call(graph.add(total, term), f"{name}_so_far_{token}")
        self.called[total] = f"{name}_read_{token}" if token else f"{name}_found_{token}"
        return total

    def _sides(self, write: Write, token: int, near: str) -> tuple[Node, Node]:
        w, d = self.tokens[token][write.w], self.tokens[token][write.d]
        return (w, d) if near == "K" else (d, w)

    def _decayed(self, channel: str, first: int, end: int, value: Node) -> Node:
        """The value after the decays over the channel of the tokens from `first` up to `end`."""
        decay = self.form.decay(channel)
        if decay is None or first == end:
            return value
        return self.graph.mul(self._product(decay.log, channel, first, end), value)

    def _product(self, log: Node, channel: str, first: int, end: int) -> Node:
        """The tokens' decays, multiplied: a sum of logs has no use of its own here."""
        graph = self.graph
        product = graph.exp(self.tokens[first][log])
        for token in range(first + 1, end):
            product = graph.mul(graph.exp(self.tokens[token][log]), product)
            suffix = f"_{channel}" if channel else ""
            graph.names.setdefault(product, f"decay{suffix}_{first}_{token}")
        return product
