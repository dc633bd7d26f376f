"""A cache of a generated module beside the recurrence in float64: what is done to one is done to
both, and outputs and states are compared as they come.

Memory that a call must not depend on holds NaN: slots not in use, places beyond the cursor,
inputs of padding rows, outputs before they are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from kvgen.checking.samples import Layout, Sampler, plain
from kvgen.compiler import Analysis

Tensors = dict[str, torch.Tensor]
# what becomes of drawn inputs or parameters: (tensors, token; None for parameters) -> tensors
Change = Callable[[Sampler, Tensors, int | None], Tensors]

SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def errors(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """‖x − x*‖₂ / ‖x*‖₂ of every row; inf for a nan, and for an infinity of one side only."""
    # a state without axes has one value to a row
    got, wanted = (x.double().reshape(x.shape[0], -1) for x in (got, wanted))
    # infinities, such as a stabiliser's first value, must agree and then count for nothing
    same = (got == wanted) & wanted.isinf()
    got, wanted = got.masked_fill(same, 0.0), wanted.masked_fill(same, 0.0)
    distance, length = (got - wanted).norm(dim=1), wanted.norm(dim=1)
    return torch.where(distance == 0, 0.0, distance / length).nan_to_num(math.inf, math.inf)


def worst(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return errors(got, wanted).max().item() if got.shape[0] else 0.0


@dataclass(frozen=True)
class Made:
    """A spec's analysis and the module it became."""

    analysis: Analysis
    module: ModuleType


class Twin:
    """One cache, all its layers, and the exact states of all its slots.

    found: the worst error so far of 'output' and of every state, by name; for 'padding' the
    largest output of a padding row, for 'other slots' how many elements changed in slots that
    were not in use. rounding: the worst error that rounding the matrix state to 16 bits alone
    would give an exact token's outputs, where the storage reads it so.
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
            slots, layers, device=device, dtype=dtype, buffer=buffer, window=window
        )
        for name in self._memory():
            _poison(self.cache.tensors[name])
        self.params = [self._changed(self.sampler.params(), None) for _ in range(layers)]
        self.states: list[Tensors] = [{} for _ in range(layers)]
        self.used: set[int] = set()
        self.kept = {name: tensor.clone() for name, tensor in self.cache.tensors.items()}
        self.tokens = 0
        self.rounding = 0.0
        self.found: dict[str, float] = {"output": 0.0, "padding": 0.0, "other slots": 0.0}
        self.found |= {tensor.name: 0.0 for tensor in made.analysis.spec.states}

    # -- what a server does

    def reset(self, slots: Sequence[int]) -> None:
        self.cache.reset(self.ids(slots))
        self._admit(slots)
        rows = torch.tensor(slots, device=self.device)
        for state in self.states:
            for tensor in self.form.spec.states:
                state[tensor.name][rows] = tensor.init

    def admit(self, slots: Sequence[int]) -> None:
        """Rows with a state, as a prefill leaves it, in every layer."""
        self.reset(slots)
        self.load(slots, [self.sampler.states(len(slots)) for _ in range(self.layers)])

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
        self._poison_beyond()

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
        ids = self.ids(slots)
        live = [row for row, slot in enumerate(slots) if slot >= 0]
        used = [slots[row] for row in live]
        outputs: list[torch.Tensor] = []
        if dropped:
            for layer in range(self.layers):
                self._run(kernel, layer, ids, self.inputs(slots))
        for layer in range(self.layers):
            inputs = self.inputs(slots)
            out = self._run(kernel, layer, ids, inputs)
            if layer in twice:
                out = self._run(kernel, layer, ids, inputs)
            outputs.append(out)
            self.note("padding", _padding(out, slots))
            if live:
                wanted = self.exact(layer, used, {n: x[live] for n, x in inputs.items()})
                self.note("output", worst(out[live], wanted))
        mask = None if force is None else torch.tensor(force, device=self.device)
        self.module.advance(self.cache, ids, mask)
        self._poison_beyond()
        self.tokens += 1
        return outputs

    # -- comparing

    def compare(self, slots: Sequence[int] | None = None) -> None:
        """Read every layer's states of the slots in use, and see that no others changed."""
        slots = sorted(self.used) if slots is None else list(slots)
        for layer in range(self.layers):
            states = self.read(layer, slots)
            for name, got in states.items():
                self.note(name, worst(got, self.states[layer][name][slots]))
        unused = [slot for slot in range(self.cache.slots) if slot not in self.used]
        for name, tensor in self.cache.tensors.items():
            if name != "work" and unused:
                changed = _bits(tensor[unused]) != _bits(self.kept[name][unused])
                self.note("other slots", float(changed.sum().item()))

    def read(self, layer: int, slots: Sequence[int]) -> Tensors:
        states = self.cache.read(layer, self.ids(slots))
        return states if isinstance(states, dict) else {self.form.state.name: states}

    def ids(self, slots: Sequence[int]) -> torch.Tensor:
        return torch.tensor(slots, dtype=torch.int32, device=self.device)

    # -- parts

    def inputs(self, slots: Sequence[int]) -> Tensors:
        drawn = self.sampler.inputs(len(slots), torch.float32)
        inputs = {name: x.to(self.dtype) for name, x in self._changed(drawn, self.tokens).items()}
        absent = [row for row, slot in enumerate(slots) if slot < 0]
        for x in inputs.values():
            x[absent] = math.nan
        return self.layout(inputs)

    def _changed(self, tensors: Tensors, token: int | None) -> Tensors:
        return self.change(self.sampler, tensors, token) if self.change else tensors

    def _run(self, kernel: str, layer: int, ids: torch.Tensor, inputs: Tensors) -> torch.Tensor:
        spec = self.form.spec
        like = next((inputs[t.name] for t in spec.inputs if "V" in t.axes), None)
        shape = (ids.numel(), self.cache.heads, spec.size("V"))
        kind = self.dtype if like is None else like.dtype
        out = {"out": torch.full(shape, math.nan, dtype=kind, device=self.device)}
        out = self.layout(out)["out"]
        call = getattr(self.module, kernel)
        call(self.cache, layer, ids, **inputs, **self.params[layer], out=out)
        return out

    def exact(self, layer: int, used: Sequence[int], inputs: Tensors) -> torch.Tensor:
        rows = torch.tensor(used, dtype=torch.long, device=self.device)
        state = {name: values[rows] for name, values in self.states[layer].items()}
        exact = {name: x.double() for name, x in {**inputs, **self.params[layer]}.items()}
        out, after = self.module.reference(state, **exact)
        storage = self.form.spec.storage.state
        if storage != "float32":
            name = self.form.state.name
            dtype = torch.float16 if storage == "float16" else torch.bfloat16
            rounded = {**state, name: state[name].to(dtype).double()}
            self.rounding = max(
                self.rounding, worst(self.module.reference(rounded, **exact)[0], out)
            )
        for name, values in after.items():
            self.states[layer][name][rows] = values
        return out

    def _admit(self, slots: Sequence[int]) -> None:
        for state in self.states:
            if not state:
                for tensor in self.form.spec.states:
                    shape = [self.cache.slots, *(self.form.spec.size(a) for a in tensor.axes)]
                    kind = {"dtype": torch.float64, "device": self.device}
                    state[tensor.name] = torch.full(shape, math.nan, **kind)
        self.used |= set(slots)

    def note(self, quantity: str, value: float) -> None:
        self.found[quantity] = max(self.found[quantity], math.inf if math.isnan(value) else value)

    def _memory(self) -> list[str]:
        """The cache's tensors that hold states and records."""
        return [name for name in self.cache.tensors if name not in ("cursors", "pending", "work")]

    def _poison_beyond(self) -> None:
        """NaN wherever a record may come, but none is."""
        cursors = self.cache.cursors.tolist()
        for slot in self.used:
            held = cursors[slot]
            for stored in self.records.stored:
                places = self.cache.tensors[stored.name][slot].movedim(2 if stored.heads else 1, 0)
                _poison(places[held:])
            for carry in self.form.carries:
                _poison(self.cache.tensors[carry.tensor.name][slot][:, held + 1 :])


def _poison(tensor: torch.Tensor) -> None:
    tensor.fill_(math.nan if tensor.is_floating_point() else -12345)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(SAME_SIZE[tensor.element_size()])


def _padding(out: torch.Tensor, slots: Sequence[int]) -> float:
    absent = [row for row, slot in enumerate(slots) if slot < 0]
    return out[absent].abs().max().item() if absent else 0.0
