"""Random steps on a paged cache beside the recurrence in float64, token by token."""

from __future__ import annotations

import math
import random
from typing import Any

import torch

from kvgen.checking.checker import bounds
from kvgen.checking.errors import worst
from kvgen.checking.samples import Sampler
from kvgen.checking.twin import Made, Tensors

LAYERS, WINDOW, BUFFER = 2, 4, 8
# rows of every call: a padding row between two slots
ROWS, LIVE = (2, -1, 0), {0: 2, 2: 0}


class PagedTwin:
    """A paged cache of four slots, and the exact states of the two that are used.

    found: the worst error of outputs by the call that gave them, and of states.
    """

    def __init__(
        self,
        made: Made,
        device: str,
        context: int,
        dtype: torch.dtype,
        seed: int,
        buffer: int = BUFFER,
    ) -> None:
        self.made, self.module = made, made.module
        self.form, self.spec = made.analysis.form, made.analysis.spec
        self.device, self.dtype = device, dtype
        self.draw, self.sampler = random.Random(seed), Sampler(self.spec, device, seed)
        self.cache = self.module.Cache.empty(
            4,
            LAYERS,
            device=device,
            dtype=dtype,
            buffer=buffer,
            window=WINDOW,
            short_context=context,
        )
        self.slots = torch.tensor(ROWS, dtype=torch.int32, device=device)
        self.cache.reserve(list(LIVE.values()), 8 * context)
        self.params = [self.sampler.params() for _ in range(LAYERS)]
        self.states = [{row: self.initial() for row in LIVE} for _ in range(LAYERS)]
        self.found: dict[str, float] = {}
        # how a prompt ends: by its lengths, or by a path that begins with its first token
        self.ends = "counts"

    def initial(self) -> Tensors:
        return {
            state.name: torch.full(
                [1, *map(self.spec.size, state.axes)],
                state.init,
                dtype=torch.float64,
                device=self.device,
            )
            for state in self.spec.states
        }

    def inputs(self, tokens: int) -> Tensors:
        """[B, T, …], nothing but NaN in the padding row."""
        drawn = [self.sampler.inputs(len(ROWS), torch.float32) for _ in range(tokens)]
        found = {name: torch.stack([each[name] for each in drawn], 1) for name in drawn[0]}
        for x in found.values():
            x[[row for row in range(len(ROWS)) if row not in LIVE]] = math.nan
        return {name: x.to(self.dtype) for name, x in found.items()}

    def exact(self, layer: int, state: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        doubles = {name: x.double() for name, x in {**inputs, **self.params[layer]}.items()}
        return self.module.reference(state, **doubles)

    def note(self, kind: str, got: torch.Tensor, wanted: torch.Tensor) -> None:
        error = worst(got, wanted)
        self.found[kind] = max(self.found.get(kind, 0.0), math.inf if math.isnan(error) else error)

    def call(self, kind: str, layer: int, tokens: int, **given: Any) -> torch.Tensor:
        shape = [len(ROWS), *([tokens] if tokens else []), self.cache.heads, self.spec.size("V")]
        out = torch.full(shape, math.nan, dtype=self.dtype, device=self.device)
        getattr(self.module, kind)(
            self.cache, layer, self.slots, **given, **self.params[layer], out=out
        )
        return out

    # -- steps

    def decode(self) -> None:
        for layer in range(LAYERS):
            inputs = {name: x[:, 0] for name, x in self.inputs(1).items()}
            out = self.call("decode", layer, 0, **inputs)
            for row in LIVE:
                one = {name: x[row : row + 1] for name, x in inputs.items()}
                wanted, after = self.exact(layer, self.states[layer][row], one)
                self.note("decode", out[row : row + 1], wanted)
                self.states[layer][row] = after
        self.module.advance(self.cache, self.slots)

    def extend(self, longest: int) -> None:
        tokens = self.draw.randint(2, longest)
        lengths = [self.draw.randint(0, tokens) if row in LIVE else 0 for row in range(len(ROWS))]
        counts = torch.tensor(lengths, dtype=torch.int32, device=self.device)
        for layer in range(LAYERS):
            inputs = self.inputs(tokens)
            for row, length in enumerate(lengths):
                for x in inputs.values():
                    x[row, length:] = math.nan
            out = self.call("extend", layer, tokens, **inputs, lengths=counts)
            for row in LIVE:
                for t in range(lengths[row]):
                    one = {name: x[row : row + 1, t] for name, x in inputs.items()}
                    wanted, self.states[layer][row] = self.exact(
                        layer, self.states[layer][row], one
                    )
                    self.note("extend", out[row : row + 1, t], wanted)
                assert not out[row, lengths[row] :].any()
        if self.ends == "counts":
            self.module.accept(self.cache, self.slots, counts=counts)
        else:
            path = torch.full((len(ROWS), WINDOW), -1, dtype=torch.int32, device=self.device)
            path[:, 0] = torch.where(counts > 0, 0, -1)
            self.module.accept(self.cache, self.slots, path=path)

    def verify(self, tree: bool) -> None:
        rows, tokens = len(ROWS), self.draw.randint(1, WINDOW)
        above = [
            [self.draw.randint(-1, t - 1) if t else -1 for t in range(tokens)] for _ in range(rows)
        ]
        if not tree:
            above = [list(range(-1, tokens - 1))] * rows
        parents = torch.tensor(above, dtype=torch.int32, device=self.device) if tree else None
        last = {row: self.draw.randint(-1, tokens - 1) for row in LIVE}
        kept: dict[int, list[int]] = {row: [] for row in range(rows)}
        for row, node in last.items():
            while node >= 0:
                kept[row].insert(0, node)
                node = above[row][node]
        for layer in range(LAYERS):
            inputs = self.inputs(tokens)
            out = self.call("verify", layer, tokens, **inputs, parents=parents)
            for row in LIVE:
                after: list[Tensors] = []
                for t in range(tokens):
                    before = self.states[layer][row] if above[row][t] < 0 else after[above[row][t]]
                    one = {name: x[row : row + 1, t] for name, x in inputs.items()}
                    wanted, state = self.exact(layer, before, one)
                    self.note("verify", out[row : row + 1, t], wanted)
                    after.append(state)
                if last[row] >= 0:
                    self.states[layer][row] = after[last[row]]
        path = [kept[row] + [-1] * (tokens - len(kept[row])) for row in range(rows)]
        if tree:
            nodes = torch.tensor(path, dtype=torch.int32, device=self.device)
            self.module.accept(self.cache, self.slots, path=nodes)
        else:
            counts = [len(kept[row]) for row in range(rows)]
            counts = torch.tensor(counts, dtype=torch.int32, device=self.device)
            self.module.accept(self.cache, self.slots, counts=counts)

    def compare(self) -> None:
        slots = torch.tensor(list(LIVE.values()), dtype=torch.int32, device=self.device)
        for layer in range(LAYERS):
            got = self.cache.read(layer, slots)
            got = got if isinstance(got, dict) else {self.form.state.name: got}
            for name, values in got.items():
                wanted = torch.cat([self.states[layer][row][name] for row in LIVE])
                self.note("state", values, wanted)

    def serve(self, steps: int, longest: int) -> None:
        """Random steps; records first, then states, and prompts across the line between them."""
        for step in range(steps):
            kind = self.draw.choice(["decode", "chain", "tree", "extend"])
            if kind == "decode":
                self.decode()
            elif kind == "extend":
                self.extend(longest)
            else:
                self.verify(kind == "tree")
            if step % 3 == 2:
                self.compare()
        self.compare()


def within(pair: PagedTwin) -> None:
    output, state = bounds(pair.spec.storage, pair.dtype)
    # an output that is a small difference shows the rounding of a state at more than its size
    output = 3 * output if pair.spec.storage.state.narrow else output
    for kind, error in pair.found.items():
        assert error <= (state if kind == "state" else output), (kind, error)
