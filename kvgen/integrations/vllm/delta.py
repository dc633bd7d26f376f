"""A step of a gated delta rule's layer: single tokens and drafts by the module, the rest vLLM's."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.platforms import current_platform

from kvgen.integrations.vllm import windows
from kvgen.integrations.vllm.layer import Buffered

if current_platform.is_cpu():
    from kvgen.integrations.vllm import on_cpu as own
else:
    from kvgen.integrations.vllm import on_cuda as own

# what inputs were, as a module that convolves keeps it
RINGS = ("past_q", "past_k", "past_v")
# and the convolution's weights, as it takes them
TAPS: tuple[str, ...] = ("wq", "wk", "wv")
# what a layer projects beside q, k and v, by the module's names, [tokens, …]
Gates = Mapping[str, torch.Tensor]


class DeltaLayer(Buffered):
    """A mixin for layers whose q, k and v lie side by side and go through one convolution.

    `sizes`: heads and channels of the whole model. `chunk`: the layer's own prompts.
    """

    sizes: Mapping[str, int]
    # the convolution's weights, where the module convolves, and which ones they are
    copies: dict[str, torch.Tensor] | None = None
    copied: tuple[int, int] | None = None

    def chunk(
        self, step: Any, mixed: torch.Tensor, gates: Gates, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts of a step on top of the states of their rows → [tokens, HV, V], states after."""
        raise NotImplementedError

    def run(self: Any, step: Any, mixed: torch.Tensor, gates: Gates, out: torch.Tensor) -> None:
        """All rows of a step. mixed: [tokens, channels], before the convolution. out: filled."""
        tokens = step.num_actual_tokens
        if not tokens:
            return
        mixed, out = mixed[:tokens], out[:tokens]
        gates = {name: gate[:tokens] for name, gate in gates.items()}
        self.begin()
        if step.spec_sequence_masks is None:
            self.run_rows(step, mixed, gates, out)
        elif step.num_prefills == 0:
            out.copy_(self.run_drafts(step, mixed, gates))
        else:
            drafts, others = step.spec_token_indx, step.non_spec_token_indx
            out.index_copy_(0, drafts, self.run_drafts(step, mixed[drafts], picked(gates, drafts)))
            rest = torch.empty_like(out[: others.shape[0]])
            self.run_rows(step, mixed[others], picked(gates, others), rest)
            out.index_copy_(0, others, rest)
        self.end()

    def run_rows(
        self: Any, step: Any, mixed: torch.Tensor, gates: Gates, out: torch.Tensor
    ) -> None:
        """Rows without drafts: those with one token first, then prompts."""
        single = step.num_decode_tokens if step.num_prefills else mixed.shape[0]
        convolved = mixed
        if step.num_prefills:
            convolved = self.convolve_prompts(step, mixed)
        elif not self.served.convolves:
            convolved = own.convolve(self, step, mixed)
        if single:
            ours = {name: gate[:single] for name, gate in gates.items()}
            taken = (mixed if self.served.convolves else convolved)[:single]
            self.group.decode(self.place, self.inputs(taken, ours), out[:single])
        if step.num_prefills:
            rest = {name: gate[single:] for name, gate in gates.items()}
            self.run_prompts(step, convolved[single:], rest, out[single:])

    def convolve_prompts(self: Any, step: Any, mixed: torch.Tensor) -> torch.Tensor:
        """A step with prompts, on top of what rows that continue have kept, which they keep where
        their single tokens find it."""
        if not self.served.convolves:
            return own.convolve_prompts(self, step, mixed)
        slots, kept = step.prefill_state_indices.contiguous(), own.state_of(self)
        blocks = slots.long()
        past = self.group.past(self.place, slots)
        flat = torch.cat([past[name].flatten(2) for name in RINGS], dim=-1)
        kept[blocks] = flat.transpose(1, 2).to(kept.dtype)
        found = own.convolve_prompts(self, step, mixed)
        after = kept[blocks].transpose(1, 2).to(mixed.dtype)
        self.group.remember(self.place, slots, dict(zip(RINGS, self.parts(after), strict=True)))
        return found

    def run_prompts(
        self: Any, step: Any, mixed: torch.Tensor, gates: Gates, out: torch.Tensor
    ) -> None:
        slots, kept = step.prefill_state_indices.long(), self.served.settings.format
        planes = [self.held[name] for name in self.served.module.Cache.table.planes]
        state = kept.joined([plane[slots] for plane in planes])
        # what a row that starts finds in its block is another request's
        state[~step.prefill_has_initial_state] = 0
        prompts, state = self.chunk(step, mixed, gates, state)
        out.copy_(prompts)
        for plane, part in zip(planes, kept.parted(state), strict=True):
            plane[slots] = part

    def run_drafts(self: Any, step: Any, mixed: torch.Tensor, gates: Gates) -> torch.Tensor:
        """Rows that verify drafts, each with its last token in front → [tokens, HV, V]."""
        most = self.served.window
        mixed = own.convolve_drafts(self, step, mixed, most)
        window = windows.of(
            step.spec_query_start_loc[: step.num_spec_decodes + 1],
            step.uniform_spec_sequence_length,
            most,
            mixed.shape[0],
        )
        spread = {name: window.spread(gate) for name, gate in gates.items()}
        given = self.inputs(window.spread(mixed), spread)
        return window.gathered(self.group.verify(self.place, given))

    def rows_of(self, step: Any) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        if step.spec_sequence_masks is not None:
            count = step.num_spec_decodes
            found["drafted"] = step.spec_state_indices_tensor[:count, 0]
            found["accepted"] = step.num_accepted_tokens[:count]
        else:
            # in a graph there are rows of padding, too
            rows = step.num_decodes if step.num_prefills else step.num_actual_tokens
            found["decoding"] = step.non_spec_state_indices_tensor[:rows]
        if step.num_prefills:
            found["prompts"] = step.prefill_state_indices
            found["continued"] = step.prefill_has_initial_state
        return found

    # -- what the module takes

    def inputs(self: Any, mixed: torch.Tensor, gates: Gates) -> dict[str, torch.Tensor]:
        """Inputs and parameters by name. mixed: [..., channels of q, k and v]."""
        vectors = dict(zip("qkv", self.parts(mixed), strict=True))
        return {**vectors, **gates, **self.weights(), **self.taps()}

    def parts(self: Any, mixed: torch.Tensor) -> list[torch.Tensor]:
        """Those of q, k and v, [..., heads, channels]. mixed: [..., all their channels]."""
        sizes = self.sizes
        keys, values = sizes["H"] * sizes["K"], sizes["HV"] * sizes["V"]
        parts = mixed.split([each // self.tp_size for each in (keys, keys, values)], dim=-1)
        channels = (sizes["K"], sizes["K"], sizes["V"])
        return [part.unflatten(-1, (-1, size)) for part, size in zip(parts, channels, strict=True)]

    def weights(self: Any) -> dict[str, torch.Tensor]:
        return {"A_log": self.A_log, "dt_bias": self.dt_bias}

    def taps(self: Any) -> dict[str, torch.Tensor]:
        """The convolution's weights as the module takes them, [tokens, heads, channels]: copies,
        which follow the layer's own, at one address for graphs."""
        if not self.served.convolves:
            return {}
        weight = own.weight_of(self)
        version = version_of(weight)
        if self.copied != version and not (self.copies and capturing(weight)):
            parts = self.parts(weight.T)
            if self.copies is None:
                # what is made in inference mode could not be written to outside it
                with torch.inference_mode(False):
                    kept = [part.new_empty(part.shape) for part in parts]
                self.copies = dict(zip(TAPS, kept, strict=True))
            for copy, part in zip(self.copies.values(), parts, strict=True):
                copy.copy_(part)
            self.copied = version
        assert self.copies is not None
        return self.copies

    def given(self: Any, rows: int, tokens: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Inputs of no meaning, shaped as a step has them, and `out`."""
        front = (rows,) if tokens == 1 else (rows, tokens)
        like = {"dtype": self.model_config.dtype, "device": self.A_log.device}
        sizes = {**self.sizes, "HV": self.sizes["HV"] // self.tp_size}
        wide = 2 * sizes["H"] // self.tp_size * sizes["K"] + sizes["HV"] * sizes["V"]
        axes = self.served.module.INPUTS
        gates = {
            name: torch.zeros(*front, *(sizes[axis] for axis in axes[name]), **like)
            for name in axes
            if name not in "qkv"
        }
        out = torch.zeros(*front, sizes["HV"], sizes["V"], **like)
        return self.inputs(torch.zeros(*front, wide, **like), gates), out


def picked(gates: Gates, tokens: torch.Tensor) -> Gates:
    return {name: gate[tokens] for name, gate in gates.items()}


def version_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Where it lies, and how often it was written to; in inference mode nobody counts."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def capturing(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
