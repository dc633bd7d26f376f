"""Layers that share a block table: one cache, whose slots are the numbers of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import torch

from kvgen.integrations.vllm.page import side_by_side

# vLLM's block for padding; slots below 1 are no rows
PADDING = 0


class Group:
    """The cache of some layers in the order in which they run, and where a step of theirs stands.

    layers: each layer's tensors by name, [blocks, …]. window: most tokens of a row in one step.
    apart: whether they lie unevenly, so that what goes over all is launched for each.
    """

    def __init__(
        self, module: ModuleType, layers: Sequence[Mapping[str, torch.Tensor]], window: int
    ) -> None:
        apart = {name: [layer[name] for layer in layers] for name in layers[0]}
        together = {name: side_by_side(tensors) for name, tensors in apart.items()}
        whole = all(tensor is not None for tensor in together.values())
        self.module, self.size, self.apart = module, len(layers), not whole
        self.cache = module.Cache.wrap(together if whole else apart, window=window, first_slot=1)
        self.decoding: torch.Tensor | None = None
        self.drafted: torch.Tensor | None = None

    def begin(
        self,
        *,
        decoding: torch.Tensor | None = None,
        prompts: torch.Tensor | None = None,
        continued: torch.Tensor | None = None,
        drafted: torch.Tensor | None = None,
        accepted: torch.Tensor | None = None,
    ) -> None:
        """Before the first layer of a step. All are of blocks' numbers, int32.

        decoding: of rows with one token. prompts: of rows whose states the server's own kernel
        takes further, and which of them, bool, are continued; the others start. drafted: of rows
        with drafts, and how many of their last step's tokens are kept.
        """
        self.decoding = decoding.contiguous() if decoding is not None else None
        if drafted is not None:
            self.drafted = drafted.contiguous()
            self.module.accept(self.cache, self.drafted, counts=accepted, late=True)
        if prompts is not None:
            assert continued is not None
            # what a row that starts finds in its block is another request's
            resumed = torch.where(continued, prompts, PADDING)
            if self.cache.window:
                # a chunk of one token in front of this one may have gone as a window
                one = torch.ones_like(resumed, dtype=torch.int32)
                self.module.accept(self.cache, resumed, counts=one, late=True)
            self.module.flush(self.cache, resumed)
            self.cache.seek(prompts, torch.zeros_like(prompts, dtype=torch.int32))

    def decode(
        self,
        layer: int,
        given: Mapping[str, torch.Tensor],
        out: torch.Tensor,
    ) -> None:
        """One token of the rows that decode. given: inputs and parameters by name."""
        self.module.decode(self.cache, layer, self.decoding, **given, out=out)

    def verify(self, layer: int, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A window of tokens of the rows with drafts. given: inputs [rows, tokens, …] by name."""
        return self.module.verify(self.cache, layer, self.drafted, **given)

    def end(self) -> None:
        """After the last layer of a step. What is kept of drafts is known in the next one."""
        if self.decoding is not None and self.decoding.numel():
            self.module.advance(self.cache, self.decoding)
