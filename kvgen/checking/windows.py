"""Several tokens a row beside the recurrence in float64: drafts that are verified, as chains or as
trees, and accepted in part; prompts of different lengths; rows that do different things in a step.

A tree is a list of parents, node by node: a number below the node's own, or a negative one for the
committed context. A path is a list of nodes, each but the first the child of the one before.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvgen.checking.errors import worst
from kvgen.checking.twin import Step, Tensors, Tokens, Twin
from kvgen.kernels.chain import CHAIN
from kvgen.kernels.decode import DECODE
from kvgen.kernels.recurrent import RECURRENT

Parents = Sequence[int]
Path = Sequence[int]
# rows to fold, or None
Force = Sequence[bool] | None

DEPTH = 8
# a prompt's first tokens, which see how its row's state was rounded
ROUNDED = 4


class Verify:
    """A step that verifies drafts.

    parents: a tree for each row, or None for chains. counts: how many tokens of a row's chain are
    accepted; or paths: which nodes. What stands for padding rows is not to be looked at. force:
    rows to fold. twice: layers that run a second time.
    """

    def __init__(
        self,
        twin: Twin,
        slots: Sequence[int],
        tokens: int,
        *,
        parents: Sequence[Parents] | None = None,
        counts: Sequence[int] | None = None,
        paths: Sequence[Path] | None = None,
        force: Sequence[bool] | None = None,
        twice: Collection[int] = (),
    ) -> None:
        self.twin, self.slots, self.tokens, self.twice = twin, slots, tokens, twice
        self.ids = twin.ids(slots)
        self.live = [row for row, slot in enumerate(slots) if slot >= 0]
        self.used = [slots[row] for row in self.live]
        chain = range(-1, tokens - 1)
        self.trees = [chain if parents is None else parents[row] for row in self.live]
        given = None if parents is None else torch.tensor(parents, dtype=torch.int32)
        self.given = {"parents": None if given is None else given.to(twin.device)}
        assert (counts is None) != (paths is None)
        if counts is not None:
            self.last = [counts[row] - 1 for row in self.live]
            self.accepted = {"counts": twin.ids(counts)}
        elif paths is not None:
            self.last = [paths[row][-1] if paths[row] else -1 for row in self.live]
            self.accepted = {"path": _table(paths, tokens).to(twin.device)}
        self.mask = twin.mask(force)

    def forgotten(self, layer: int) -> None:
        inputs = self.twin.inputs(self.slots, self.tokens)
        self.twin.run("verify", layer, self.ids, inputs, **self.given)

    def run(self, layer: int) -> torch.Tensor:
        twin = self.twin
        inputs = twin.inputs(self.slots, self.tokens)
        out = twin.run("verify", layer, self.ids, inputs, **self.given)
        if layer in self.twice:
            out = twin.run("verify", layer, self.ids, inputs, **self.given)
        self.compare(layer, inputs, out)
        return out

    def compare(self, layer: int, inputs: Tensors, out: torch.Tensor) -> None:
        """Outputs beside exact ones; the exact states of what is accepted go on."""
        self.twin.note_padding(out, self.slots)
        if self.live:
            outputs, nodes = self.unrolled(layer, {n: x[self.live] for n, x in inputs.items()})
            error = worst(out[self.live].flatten(0, 1), outputs.flatten(0, 1))
            self.twin.note("output", error)
            self.twin.commit(layer, self.used, _states(nodes, self.last))

    def unrolled(self, layer: int, inputs: Tensors) -> tuple[torch.Tensor, list[Tensors]]:
        """Every node's outputs [rows, tokens, HV, V], and the states of the committed context and
        after every node."""
        nodes = [self.twin.before(layer, self.used)]
        outputs: list[torch.Tensor] = []
        for node in range(self.tokens):
            parents = [tree[node] if 0 <= tree[node] < node else -1 for tree in self.trees]
            token = {name: x[:, node] for name, x in inputs.items()}
            before = _states(nodes, parents)
            out, after = self.twin.token(layer, before, token)
            self.twin.note_rounding(layer, before, token, out)
            outputs.append(out)
            nodes.append(after)
        return torch.stack(outputs, 1), nodes

    def end(self) -> None:
        twin = self.twin
        twin.module.accept(twin.cache, self.ids, **self.accepted, force=self.mask)


class Extend:
    """A step that takes in prompts: `lengths` of `tokens` tokens, those of padding rows unread."""

    def __init__(
        self,
        twin: Twin,
        slots: Sequence[int],
        lengths: Sequence[int],
        tokens: int | None = None,
        *,
        force: Sequence[bool] | None = None,
    ) -> None:
        self.twin, self.slots, self.lengths = twin, slots, lengths
        self.tokens = max(1, *lengths) if tokens is None else tokens
        self.ids, self.counts = twin.ids(slots), twin.ids(lengths)
        self.live = [row for row, slot in enumerate(slots) if slot >= 0]
        self.used = [slots[row] for row in self.live]
        self.mask = twin.mask(force)

    def forgotten(self, layer: int) -> None:
        raise NotImplementedError("a state that was written in place cannot be forgotten")

    def run(self, layer: int) -> torch.Tensor:
        twin = self.twin
        inputs = twin.inputs(self.slots, self.tokens, self.lengths)
        out = twin.run("extend", layer, self.ids, inputs, lengths=self.counts)
        twin.note_padding(out, self.slots)
        if not self.live:
            return out
        lengths = self.counts[self.live]
        real = torch.arange(self.tokens, device=twin.device) < lengths[:, None]
        got = out[self.live]
        # what lies beyond a length is zero like a padding row
        twin.note("padding", got.masked_fill(real[..., None, None], 0.0).abs().max().item())
        if any(self.lengths[row] for row in self.live):
            outputs = self.unrolled(layer, {n: x[self.live] for n, x in inputs.items()}, real)
            real = real[:, : outputs.shape[1]]
            twin.note("output", worst(got[:, : outputs.shape[1]][real], outputs[real]))
        return out

    def unrolled(self, layer: int, inputs: Tensors, real: torch.Tensor) -> torch.Tensor:
        """The outputs of all tokens up to the greatest length; the states go on."""
        twin = self.twin
        state = twin.before(layer, self.used)
        outputs: list[torch.Tensor] = []
        for place in range(max(self.lengths[row] for row in self.live)):
            token = {name: x[:, place] for name, x in inputs.items()}
            out, after = twin.token(layer, state, token)
            if place < ROUNDED or twin.tiny:
                at = real[:, place]
                before, given = ({n: x[at] for n, x in each.items()} for each in (state, token))
                twin.note_rounding(layer, before, given, out[at])
            outputs.append(out)
            state = {
                name: torch.where(_beside(real[:, place], x), x, state[name])
                for name, x in after.items()
            }
        twin.commit(layer, self.used, state)
        return torch.stack(outputs, 1)

    def end(self) -> None:
        twin = self.twin
        twin.module.accept(twin.cache, self.ids, counts=self.counts, force=self.mask)


def _states(nodes: Sequence[Tensors], places: Sequence[int]) -> Tensors:
    """For every row the states after one of the nodes, -1 for those before them all."""
    return {
        name: torch.stack([nodes[place + 1][name][row] for row, place in enumerate(places)])
        for name in nodes[0]
    }


def _table(paths: Sequence[Path], tokens: int) -> torch.Tensor:
    """Paths as rows of a table that -1 ends; what follows the -1 is not to be looked at."""
    rows = [[*path, -1, *range(tokens)][:tokens] for path in paths]
    return torch.tensor(rows, dtype=torch.int32).reshape(len(paths), tokens)


def _beside(rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return rows.reshape(-1, *[1] * (x.dim() - 1))


# random drafts -----------------------------------------------------------------------------------


def tree(draw: random.Random, tokens: int, depth: int = DEPTH) -> list[int]:
    """Random parents; no path is longer than `depth` nodes."""
    parents: list[int] = []
    depths: list[int] = []
    branching = draw.random()
    for node in range(tokens):
        open_nodes = [each for each in range(node) if depths[each] < depth]
        if open_nodes and draw.random() > branching:
            parent = open_nodes[-1]
        else:
            parent = draw.choice([-1, *open_nodes])
        parents.append(parent if parent >= 0 else draw.choice([-1, -1, -7]))
        depths.append(1 + (depths[parent] if parent >= 0 else 0))
    return parents


def path_to(parents: Parents, node: int) -> list[int]:
    """The nodes from the committed context to this one; none for a negative one."""
    found: list[int] = []
    while node >= 0:
        found.append(node)
        node = parents[node]
    return found[::-1]


def accepted(draw: random.Random, parents: Parents) -> list[int]:
    """A random path: none, the longest, or one to any node."""
    nodes = range(len(parents))
    kind = draw.random()
    if kind < 0.15:
        return []
    if kind < 0.4:
        return max((path_to(parents, node) for node in nodes), key=len)
    return path_to(parents, draw.choice(nodes))


# random steps ------------------------------------------------------------------------------------

# the last two empty a row's buffer
KINDS = (*(DECODE.name, CHAIN.name, "tree") * 3, RECURRENT.name, "prompt")


@dataclass
class Server:
    """Draws model steps: every row does one of `kinds`, rows of one kind in one call.

    windows: numbers of drafts, of which a GPU compiles a kernel each. longest: tokens of a prompt.
    wasted: how often a step is dropped, and a layer
    run twice, where the kernels allow it.
    """

    twin: Twin
    draw: random.Random
    kinds: Sequence[str] = KINDS
    windows: Sequence[int] = (1, 2, 3, 4)
    longest: int = 9
    wasted: float = 0.2

    def step(self, slots: Sequence[int]) -> None:
        rows: dict[str, list[int]] = {}
        for slot in self.draw.sample(list(slots), len(slots)):
            rows.setdefault(self.draw.choice(self.kinds), []).append(slot)
        steps: list[Step] = []
        for kind, chosen in rows.items():
            if self.draw.random() < 0.4:
                chosen.insert(self.draw.randint(0, len(chosen)), -1)
            if self.draw.random() < self.wasted:
                self.twin.drop(self.drawn(self.draw.choice(["decode", "chain", "tree"]), chosen))
            steps.append(self.drawn(kind, chosen))
        self.twin.together(*steps)

    def drawn(self, kind: str, slots: Sequence[int]) -> Step:
        """A step of one kind, which a method of that name draws."""
        draw = self.draw
        force = None
        if draw.random() < 0.3:
            force = [draw.random() < 0.3 for _ in slots]
        twice = [layer for layer in range(self.twin.layers) if draw.random() < self.wasted]
        tokens = draw.choice(self.windows)
        return getattr(self, f"_{kind}")(slots, tokens, force, twice)

    def _recurrent(self, slots: Sequence[int], tokens: int, force: Force, twice: list[int]) -> Step:
        return Tokens(self.twin, slots, kernel="recurrent", force=force)

    def _decode(self, slots: Sequence[int], tokens: int, force: Force, twice: list[int]) -> Step:
        counts = [self.draw.choice([0, 1, 1]) for _ in slots]
        by_advance = self.draw.random() < 0.5 or not hasattr(self.twin.module, "accept")
        return Tokens(
            self.twin, slots, counts=None if by_advance else counts, force=force, twice=twice
        )

    def _prompt(self, slots: Sequence[int], tokens: int, force: Force, twice: list[int]) -> Step:
        lengths = [self._length() for _ in slots]
        most = max(1, *lengths) + self.draw.randint(0, 2)
        return Extend(self.twin, slots, lengths, most, force=force)

    def _chain(self, slots: Sequence[int], tokens: int, force: Force, twice: list[int]) -> Step:
        chain = range(-1, tokens - 1)
        paths = [accepted(self.draw, chain) for _ in slots]
        by_counts = self.draw.random() < 0.7
        kept: Any = {"counts": [len(path) for path in paths]} if by_counts else {"paths": paths}
        return Verify(self.twin, slots, tokens, **kept, force=force, twice=twice)

    def _tree(self, slots: Sequence[int], tokens: int, force: Force, twice: list[int]) -> Step:
        trees = [tree(self.draw, tokens, self.draw.randint(1, DEPTH)) for _ in slots]
        paths = [accepted(self.draw, each) for each in trees]
        return Verify(
            self.twin, slots, tokens, parents=trees, paths=paths, force=force, twice=twice
        )

    def _length(self) -> int:
        return self.draw.choice([0, 1, self.longest, self.draw.randint(0, self.longest)])
