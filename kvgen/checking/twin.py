"""A cache of a generated module beside the recurrence in float64: what is done to one is done to
both, and outputs and states are compared as they come.

Memory that a call must not depend on holds NaN: slots not in use, places beyond the cursor and
those that are skipped, carried states that are not the current one, inputs of padding rows, outputs
before they are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch

from kvgen.checking import roundings
from kvgen.checking.errors import most, worst
from kvgen.checking.poison import poison, poison_beyond
from kvgen.checking.samples import Layout, Sampler, plain
from kvgen.compiler import Analysis

Tensors = dict[str, torch.Tensor]
# what becomes of drawn inputs or parameters: (tensors, token; None for parameters) -> tensors
Change = Callable[[Sampler, Tensors, int | None], Tensors]

SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# numbers of a row, at most, of which all may be small differences at once
TINY = 64
# the cache's own tensors, which hold neither states nor records
BOOKS = ("cursors", "pending", "skipped", "work", "pages", "state_pages", "stateful", "order")


@dataclass(frozen=True)
class Made:
    """A spec's analysis and the module it became."""

    analysis: Analysis
    module: ModuleType


class Step(Protocol):
    """What some rows do in one model step: a call in every layer, and one that ends it."""

    def forgotten(self, layer: int) -> None:
        """The call with inputs of its own, as in a step that is dropped."""
        ...

    def run(self, layer: int) -> torch.Tensor:
        """The call, its outputs compared; the exact states go on. Returns the outputs."""
        ...

    def end(self) -> None: ...


class Twin:
    """One cache, all its layers, and the exact states of all its slots.

    found: the worst error so far of 'output' and of every state, by name; for 'padding' the
    largest output of a padding row, for 'other slots' how many elements changed in slots that
    were not in use. rounding: the worst error that rounding the matrix state to 16 bits alone
    would give an exact token's outputs, where the storage reads it or records so. single: by
    quantity the worst error that one exact token has in float32, where a row has so few numbers
    that all of them may be small differences at once. apart: what its own roundings change in it.
    """

    def __init__(
        self,
        made: Made,
        device: str,
        *,
        slots: int = 8,
        layers: int = 2,
        buffer: int | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        change: Change | None = None,
        layout: Layout = plain,
        window: int = 0,
    ) -> None:
        self.module, self.form = made.module, made.analysis.form
        self.records = made.analysis.records
        self.device, self.dtype, self.layers = device, dtype, layers
        self.change, self.layout = change, layout
        self.sampler = Sampler(made.analysis.spec, device, seed)
        self.cache = self.module.Cache.empty(
            slots, layers, device=device, dtype=dtype, buffer=buffer, window=window, **self._room()
        )
        for name in self._memory():
            poison(self.cache.tensors[name])
        self.params = [self._changed(self.sampler.params(), None) for _ in range(layers)]
        self.states: list[Tensors] = [{} for _ in range(layers)]
        self.used: set[int] = set()
        self.kept = {name: tensor.clone() for name, tensor in self.cache.tensors.items()}
        self.tokens = 0
        self.rounding = 0.0
        self.single: dict[str, float] = {}
        self.apart: dict[str, float] = {}
        self.rounds = roundings.rounds(self.form)
        spec = self.form.spec
        self.tiny = self._tiny()
        self.found: dict[str, float] = {"output": 0.0, "padding": 0.0, "other slots": 0.0}
        self.found |= {tensor.name: 0.0 for tensor in spec.states}
        self.found |= {past.name: 0.0 for past in spec.pasts}

    # -- what a server does

    def reset(self, slots: Sequence[int]) -> None:
        self.cache.reset(self.ids(slots))
        self._admit(slots)
        rows = torch.tensor(slots, device=self.device)
        for state in self.states:
            for tensor in self.form.spec.states:
                state[tensor.name][rows] = tensor.init
            for past in self.form.spec.pasts:
                state[past.name][rows] = 0.0

    def admit(self, slots: Sequence[int]) -> None:
        """Rows with a state, as a prefill leaves it, in every layer."""
        self.reset(slots)
        drawn = [self.sampler.states(len(slots), self.dtype) for _ in range(self.layers)]
        self.load(slots, drawn)

    def copy(self, src: Sequence[int], dst: Sequence[int]) -> None:
        self.cache.copy(self.ids(src), self.ids(dst))
        self._admit(dst)
        for state in self.states:
            for values in state.values():
                values[list(dst)] = values[list(src)]

    def load(self, slots: Sequence[int], states: Sequence[Tensors]) -> None:
        """Give each layer's rows states, in float32, as a prefill leaves them."""
        name = self.form.state.name
        for layer, given in enumerate(states):
            self.cache.load(layer, self.ids(slots), given if len(given) > 1 else given[name])
            for key, values in given.items():
                self.states[layer][key][list(slots)] = values.double()

    def flush(self, slots: Sequence[int] | None = None) -> None:
        self.module.flush(self.cache, None if slots is None else self.ids(slots))
        self._poison()

    def step(
        self,
        slots: Sequence[int],
        *,
        kernel: str = "decode",
        force: Sequence[bool] | None = None,
        twice: Collection[int] = (),
        dropped: bool = False,
    ) -> list[torch.Tensor]:
        """One token for every row; a layer in `twice` runs a second time, a dropped step first
        runs with other inputs and is forgotten. The outputs, by layer."""
        step = Tokens(self, slots, kernel=kernel, force=force, twice=twice)
        if dropped:
            self.drop(step)
        return self.together(step)[0]

    def together(self, *steps: Step) -> list[list[torch.Tensor]]:
        """One model step, in which rows of different kinds have disjoint slots. The outputs of
        every kind, by layer."""
        outputs: list[list[torch.Tensor]] = [[] for _ in steps]
        for layer in range(self.layers):
            for step, found in zip(steps, outputs, strict=True):
                found.append(step.run(layer))
        for step in steps:
            step.end()
        self._poison()
        self.tokens += 1
        return outputs

    def drop(self, *steps: Step) -> None:
        """A model step that is forgotten before its end."""
        for layer in range(self.layers):
            for step in steps:
                step.forgotten(layer)

    # -- comparing

    def compare(self, slots: Sequence[int] | None = None) -> None:
        """Read every layer's states of the slots in use, and see that no others changed."""
        slots = sorted(self.used) if slots is None else list(slots)
        for layer in range(self.layers):
            states = self.read(layer, slots)
            for name, got in states.items():
                self.note(name, worst(got, self.states[layer][name][slots]))
        unused = [slot for slot in range(self.cache.slots) if slot not in self.used]
        for name in self._of_slots() if unused else ():
            changed = bits(self.cache.tensors[name][unused]) != bits(self.kept[name][unused])
            self.note("other slots", float(changed.sum().item()))

    def read(self, layer: int, slots: Sequence[int]) -> Tensors:
        states = self.cache.read(layer, self.ids(slots))
        return states if isinstance(states, dict) else {self.form.state.name: states}

    def ids(self, slots: Sequence[int]) -> torch.Tensor:
        return torch.tensor(slots, dtype=torch.int32, device=self.device)

    def mask(self, force: Sequence[bool] | None) -> torch.Tensor | None:
        return None if force is None else torch.tensor(force, device=self.device)

    # -- parts

    def inputs(
        self,
        slots: Sequence[int],
        tokens: int | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensors:
        """One token's inputs [rows, *axes], or those of several [rows, tokens, *axes], NaN in
        padding rows and beyond a row's length."""
        rows, each = len(slots), 1 if tokens is None else tokens
        # where memory is not contiguous, a row's tokens are not followed by the next row's
        wide = each if tokens is None or self.layout is plain else each + 1
        drawn = self.sampler.inputs(rows * wide, torch.float32)
        inputs = {name: x.to(self.dtype) for name, x in self._changed(drawn, self.tokens).items()}
        known = [each] * rows if lengths is None else lengths
        ends = self.ids(
            [length if slot >= 0 else 0 for slot, length in zip(slots, known, strict=True)]
        )
        blank = torch.arange(wide, device=self.device) >= ends[:, None]
        for x in inputs.values():
            x[blank.reshape(-1)] = math.nan
        inputs = self.layout(inputs)
        if tokens is None:
            return inputs
        return {name: x.unflatten(0, (rows, wide))[:, :tokens] for name, x in inputs.items()}

    def _changed(self, tensors: Tensors, token: int | None) -> Tensors:
        return self.change(self.sampler, tensors, token) if self.change else tensors

    def run(
        self, kernel: str, layer: int, ids: torch.Tensor, inputs: Tensors, **given: Any
    ) -> torch.Tensor:
        """Call a kernel, with `out` full of NaN."""
        spec = self.form.spec
        like = next((inputs[t.name] for t in spec.inputs if "V" in t.axes), None)
        first = spec.inputs[0]
        front = inputs[first.name].shape[: -len(first.axes) or None]
        shape = (math.prod(front), self.cache.heads, spec.size("V"))
        kind = self.dtype if like is None else like.dtype
        out = {"out": torch.full(shape, math.nan, dtype=kind, device=self.device)}
        out = self.layout(out)["out"].unflatten(0, front)
        call = getattr(self.module, kernel)
        call(self.cache, layer, ids, **inputs, **self.params[layer], **given, out=out)
        return out

    def exact(self, layer: int, used: Sequence[int], inputs: Tensors) -> torch.Tensor:
        """One token of the slots in use: its outputs; their states go on."""
        before = self.before(layer, used)
        out, after = self.token(layer, before, inputs)
        self.note_rounding(layer, before, inputs, out)
        self.commit(layer, used, after)
        return out

    def before(self, layer: int, used: Sequence[int]) -> Tensors:
        rows = torch.tensor(used, dtype=torch.long, device=self.device)
        return {name: values[rows] for name, values in self.states[layer].items()}

    def commit(self, layer: int, used: Sequence[int], after: Tensors) -> None:
        rows = torch.tensor(used, dtype=torch.long, device=self.device)
        for name, values in after.items():
            self.states[layer][name][rows] = values

    def token(self, layer: int, state: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        """The recurrence from any rows' states: the outputs and the states after."""
        return self.module.reference(state, **self._exact(layer, inputs))

    def _exact(self, layer: int, inputs: Tensors) -> Tensors:
        return {name: x.double() for name, x in {**inputs, **self.params[layer]}.items()}

    def note_rounding(self, layer: int, state: Tensors, inputs: Tensors, out: torch.Tensor) -> None:
        """What rounding the state alone would do to a token's exact outputs; what is rounded in
        records does as much."""
        storage = self.form.spec.storage
        if self.tiny:
            self._note_single(layer, state, inputs)
        if self.rounds:
            most(self.apart, roundings.apart(self.module, state, self._exact(layer, inputs)))
        if storage.state.narrow or storage.records.vectors.narrow:
            name = self.form.state.name
            read = storage.state.read(state[name])
            rounded = {**state, name: storage.records.vectors.rounded(read)}
            got, _ = self.token(layer, rounded, inputs)
            self.rounding = max(self.rounding, worst(got, out))

    def _note_single(self, layer: int, state: Tensors, inputs: Tensors) -> None:
        """The recurrence as written, one token in float32 beside the same in float64."""
        right, after = self.token(layer, state, inputs)
        given = {**inputs, **self.params[layer]}
        single = {name: x.float() for name, x in state.items()}
        got, states = self.module.reference(single, **{n: x.float() for n, x in given.items()})
        pairs = {"output": (got, right)} | {name: (states[name], after[name]) for name in after}
        most(self.single, {name: pair for name, pair in pairs.items() if name in self.tiny})

    def _tiny(self) -> set[str]:
        """Of which a row has at most TINY numbers: states, and outputs where the matrix state is
        one of them."""
        spec = self.form.spec
        numbers = {each.name: math.prod(map(spec.size, each.axes)) for each in spec.states}
        few = {name for name, count in numbers.items() if count <= TINY}
        return few | ({"output"} if self.form.state.name in few else set())

    def _admit(self, slots: Sequence[int]) -> None:
        for state in self.states:
            if not state:
                spec, kind = self.form.spec, {"dtype": torch.float64, "device": self.device}
                for tensor in spec.states:
                    shape = [self.cache.slots, *(spec.size(a) for a in tensor.axes)]
                    state[tensor.name] = torch.full(shape, math.nan, **kind)
                for past in spec.pasts:
                    sizes = (spec.size(a) for a in past.tensor.axes)
                    shape = [self.cache.slots, past.count, *sizes]
                    state[past.name] = torch.full(shape, math.nan, **kind)
        self.used |= set(slots)

    def note(self, quantity: str, value: float) -> None:
        self.found[quantity] = max(self.found[quantity], math.inf if math.isnan(value) else value)

    def note_padding(self, out: torch.Tensor, slots: Sequence[int]) -> None:
        absent = [row for row, slot in enumerate(slots) if slot < 0]
        self.note("padding", out[absent].abs().max().item() if absent else 0.0)

    def _room(self) -> dict[str, Any]:
        """What else the cache is made with."""
        return {}

    def _memory(self) -> list[str]:
        """The cache's tensors that hold states and records."""
        return [name for name in self.cache.tensors if name not in BOOKS]

    def _of_slots(self) -> list[str]:
        """Those of which each slot has a part of its own."""
        return [name for name in self.cache.tensors if name != "work"]

    def _poison(self) -> None:
        poison_beyond(self.cache, self.form, self.records, self.used)


class Tokens:
    """A step of one token for every row.

    kernel: 'decode' or 'recurrent'. counts: ended by `accept` with 0 or 1 for each row, in place of
    `advance`. force: rows to fold. twice: layers that run a second time.
    """

    def __init__(
        self,
        twin: Twin,
        slots: Sequence[int],
        *,
        kernel: str = "decode",
        counts: Sequence[int] | None = None,
        force: Sequence[bool] | None = None,
        twice: Collection[int] = (),
    ) -> None:
        self.twin, self.slots, self.kernel, self.twice = twin, slots, kernel, twice
        self.ids = twin.ids(slots)
        self.counts = None if counts is None else twin.ids(counts)
        self.mask = twin.mask(force)
        self.live = [row for row, slot in enumerate(slots) if slot >= 0]
        self.kept = [row for row in self.live if counts is None or counts[row] > 0]

    def forgotten(self, layer: int) -> None:
        self.twin.run(self.kernel, layer, self.ids, self.twin.inputs(self.slots))

    def run(self, layer: int) -> torch.Tensor:
        twin = self.twin
        inputs = twin.inputs(self.slots)
        out = twin.run(self.kernel, layer, self.ids, inputs)
        if layer in self.twice:
            out = twin.run(self.kernel, layer, self.ids, inputs)
        twin.note_padding(out, self.slots)
        if self.live:
            used = [self.slots[row] for row in self.live]
            given = {name: x[self.live] for name, x in inputs.items()}
            before = twin.before(layer, used)
            wanted, after = twin.token(layer, before, given)
            twin.note_rounding(layer, before, given, wanted)
            twin.note("output", worst(out[self.live], wanted))
            places = [place for place, row in enumerate(self.live) if row in self.kept]
            kept = {name: x[places] for name, x in after.items()}
            twin.commit(layer, [self.slots[row] for row in self.kept], kept)
        return out

    def end(self) -> None:
        twin = self.twin
        if self.counts is None:
            twin.module.advance(twin.cache, self.ids, self.mask)
        else:
            twin.module.accept(twin.cache, self.ids, counts=self.counts, force=self.mask)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as integers: equal bits, NaNs included."""
    return tensor.contiguous().view(SAME_SIZE[tensor.element_size()])
