"""Whether a configuration computes the recurrence: one case with all that can go wrong in it.

Rows hold no records, one, half a buffer and a full one. They were made by the untuned kernels, the
right answers by `reference` in float64; both once, for all configurations of a kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from kvgen.checking import roundings
from kvgen.checking.checker import bounds
from kvgen.checking.errors import most, worst
from kvgen.checking.samples import Sampler
from kvgen.compiler import Analysis
from kvgen.kernels.kernel import Kernel

Tensors = dict[str, torch.Tensor]

# of the layers the last is looked at; those before it run as in a model, for what is launched first
# is another program, and they are as many as is needed for the strides of a model's
SLOTS, LAYERS = 16, 4
LAYER = LAYERS - 1
DTYPE = torch.bfloat16
# of a prompt: a whole number of 16, as Triton makes another program for other numbers
PROMPT = 80


@dataclass(frozen=True)
class Errors:
    """Against float64: the worst row's outputs, and its states where the kernel writes any; and
    what they may be."""

    output: float
    state: float
    output_bound: float
    state_bound: float

    @property
    def ok(self) -> bool:
        # a nan is no less than anything
        return self.output <= self.output_bound and self.state <= self.state_bound

    def __str__(self) -> str:
        return (
            f"outputs off by {self.output:.1e} (at most {self.output_bound:.0e}), "
            f"states by {self.state:.1e} (at most {self.state_bound:.0e})"
        )


class Apart:
    """What outputs and states may be off by: by the storage, and by what a recurrence rounds."""

    def __init__(self, analysis: Analysis, module: ModuleType) -> None:
        self.analysis, self.module = analysis, module
        self.rounds = roundings.rounds(analysis.form)
        self.found: dict[str, float] = {}

    def note(self, state: Any, given: Tensors) -> None:
        """See what the roundings of one token change."""
        if self.rounds:
            most(self.found, roundings.apart(self.module, state, given))

    def bounds(self) -> tuple[float, float]:
        output, state = bounds(self.analysis.spec.storage, DTYPE)
        own = {name: roundings.APART * each for name, each in self.found.items()}
        return max(output, own.pop("output", 0.0)), max(state, *own.values(), 0.0)


class Oracle:
    """The case of a kernel, and of all that see the same of a row, for one buffer length."""

    def __init__(
        self,
        analysis: Analysis,
        module: ModuleType,
        buffer: int,
        device: str,
        kernel: Kernel,
    ) -> None:
        tokens = kernel.tokens(analysis.form)
        self.analysis, self.module, self.device, self.tokens = analysis, module, device, tokens
        self.apart = Apart(analysis, module)
        self.sampler = Sampler(analysis.spec, device, seed=7)
        self.params = self.sampler.params()
        window, places = kernel.window(tokens), kernel.places(analysis.form, buffer)
        paged = {"short_context": kernel.context} if kernel.context else {}
        self.cache = module.Cache.empty(
            SLOTS, LAYERS, device=device, dtype=DTYPE, buffer=places, window=window,
            **paged,
        )  # fmt: skip
        room = kernel.held or places - max(1, window)
        held = sorted({0, min(1, room), room // 2, room})
        numbers = [3, 0, 7, 12][: len(held)]
        self.slots = torch.tensor([*numbers, -1], dtype=torch.int32, device=device)
        self._start(numbers, kernel.held)
        self._hold(held)
        self.kept = {name: tensor.clone() for name, tensor in self.cache.tensors.items()}
        self.next = [self.sampler.inputs(len(numbers) + 1, DTYPE) for _ in range(tokens)]
        self.right = [self._token(inputs) for inputs in self.next]
        self.bounds = self.apart.bounds()

    @property
    def rows(self) -> int:
        return self.slots.numel() - 1

    def errors(self, kernel: Kernel) -> Errors:
        """Of a kernel as the module is configured now. What folds is what the module has."""
        for name, tensor in self.kept.items():
            self.cache.tensors[name].copy_(tensor)
        module, cache, slots = self.module, self.cache, self.slots
        call = getattr(module, kernel.function)
        if kernel.several:
            inputs = {
                name: torch.stack([each[name] for each in self.next], 1) for name in self.next[0]
            }
            out = self._blank(self.rows + 1, self.tokens)
            self._layers(call, slots, inputs, out=out)
            counts = torch.full_like(slots, self.tokens)
            module.accept(cache, slots, counts=counts)
        else:
            out = self._blank(self.rows + 1)
            self._layers(call, slots, self.next[0], out=out)
            force = torch.ones_like(slots, dtype=torch.bool)
            module.advance(cache, slots, force if kernel.folds else None)
            out = out[:, None]
        wanted = torch.stack([o for o, _ in self.right], 1)
        output = max(worst(out[:-1, t], wanted[:, t]) for t in range(len(self.right)))
        if bool(out[-1].any()):
            output = math.inf
        return Errors(output, self._state_error(self.right[-1][1]), *self.bounds)

    def _state_error(self, right: Tensors) -> float:
        got: Any = self.cache.read(LAYER, self.slots[:-1])
        got = got if isinstance(got, dict) else {next(iter(right)): got}
        return max(worst(got[name], right[name]) for name in got)

    # the case

    def _start(self, numbers: list[int], held: int) -> None:
        self.cache.reset(self.cache.every_slot)
        self.states = self.sampler.states(len(numbers), DTYPE)
        if held:
            # rows without a state begin with the initial one
            self.cache.reserve(numbers, held + 1)
            for tensor in self.analysis.spec.states:
                self.states[tensor.name].fill_(tensor.init)
        else:
            self.cache.load(LAYER, self.slots[:-1], self.states)
        self.states = {name: value.double() for name, value in self.states.items()}

    def _hold(self, held: list[int]) -> None:
        """Decode until each row holds as many records."""
        for token in range(max(held)):
            alive = [row for row, count in enumerate(held) if count > token]
            rows = torch.tensor(alive, device=self.device)
            inputs = self.sampler.inputs(len(alive), DTYPE)
            slots = self.slots[rows].clone()
            self._layers(self.module.decode, slots, inputs)
            self.module.advance(self.cache, slots)
            state = {name: value[rows] for name, value in self.states.items()}
            _, state = self._exact(state, inputs)
            for name, value in state.items():
                self.states[name][rows] = value

    def _layers(self, call: Any, slots: torch.Tensor, inputs: Tensors, **out: torch.Tensor) -> None:
        """A model's step: the same in each layer, so that the last one's output is left."""
        for layer in range(LAYERS):
            call(self.cache, layer, slots, **inputs, **self.params, **out)

    def _token(self, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        inputs = {name: value[: self.rows] for name, value in inputs.items()}
        o, self.states = self._exact(self.states, inputs)
        return o, self.states

    def _exact(self, state: Tensors, inputs: Tensors) -> tuple[torch.Tensor, Tensors]:
        doubles = {name: value.double() for name, value in {**inputs, **self.params}.items()}
        self.apart.note(state, doubles)
        return self.module.reference(state, **doubles)

    def _blank(self, *front: int) -> torch.Tensor:
        spec = self.analysis.spec
        shape = (*front, spec.size("HV"), spec.size("V"))
        return torch.full(shape, math.nan, dtype=DTYPE, device=self.device)


class Prompt:
    """The case of `extend`: rows of all lengths up to PROMPT, one of them none."""

    def __init__(
        self, analysis: Analysis, module: ModuleType, buffer: int, device: str, kernel: Kernel
    ) -> None:
        self.module = module
        sampler = Sampler(analysis.spec, device, seed=11)
        self.params = sampler.params()
        self.lengths = [PROMPT, 1, 0, PROMPT // 2 + 1]
        self.cache = module.Cache.empty(SLOTS, LAYERS, device=device, dtype=DTYPE, buffer=buffer)
        self.slots = torch.tensor([3, 0, 7, 12], dtype=torch.int32, device=device)
        tokens = [sampler.inputs(len(self.lengths), DTYPE) for _ in range(PROMPT)]
        self.inputs = {name: torch.stack([each[name] for each in tokens], 1) for name in tokens[0]}
        exact = {name: value.double() for name, value in self.params.items()}
        apart = Apart(analysis, module)
        states: Tensors | None = None
        right: list[torch.Tensor] = []
        self.states: dict[int, Tensors] = {}
        for count, each in enumerate(tokens, 1):
            doubles = {name: value.double() for name, value in each.items()}
            apart.note(states, {**doubles, **exact})
            o, states = module.reference(states, **doubles, **exact)
            right.append(o)
            if count in self.lengths:
                row = self.lengths.index(count)
                found = dict(states or {})
                self.states[row] = {n: x[row : row + 1].clone() for n, x in found.items()}
        self.right = torch.stack(right, 1)
        self.bounds = apart.bounds()

    def errors(self, kernel: Kernel) -> Errors:
        """Of `extend` as the module is configured now."""
        cache, slots, device = self.cache, self.slots, self.slots.device
        cache.reset(cache.every_slot)
        counts = torch.tensor(self.lengths, dtype=torch.int32, device=device)
        out = torch.full(self.right.shape, math.nan, dtype=DTYPE, device=device)
        for layer in range(LAYERS):
            self.module.extend(
                cache, layer, slots, **self.inputs, **self.params, lengths=counts, out=out
            )
        self.module.accept(cache, slots, counts=counts)
        got: Any = cache.read(LAYER, slots)
        output, state = 0.0, 0.0
        for row, right in self.states.items():
            length = self.lengths[row]
            output = max(output, worst(out[row, :length], self.right[row, :length]))
            found = got if isinstance(got, dict) else {next(iter(right)): got}
            state = max(state, *(worst(found[n][row : row + 1], right[n]) for n in found))
        return Errors(output, state, *self.bounds)
