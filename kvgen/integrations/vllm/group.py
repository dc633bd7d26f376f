"""Layers that share a block table: one cache, whose slots are the numbers of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

from kvgen.integrations.vllm.page import side_by_side

# vLLM's block for padding; slots below 1 are no rows
PADDING = 0

# a layer's tensors by name, [blocks, …]
Held = Mapping[str, torch.Tensor]
# rows of a step by what happens to them, as blocks' numbers, for `Groups.begin`
Rows = Mapping[str, torch.Tensor]


class Group:
    """The cache of some layers in the order in which they run, and a step's rows in it.

    invariant: of `Cache.wrap`. apart: whether the layers lie unevenly, so that what goes over all
    is launched for each.
    """

    def __init__(
        self,
        module: ModuleType,
        layers: Sequence[Held],
        window: int,
        invariant: bool,
        books: Mapping[str, torch.Tensor],
    ) -> None:
        separate = {name: [layer[name] for layer in layers] for name in layers[0]}
        together = {name: side_by_side(tensors) for name, tensors in separate.items()}
        self.apart = any(tensor is None for tensor in together.values())
        self.module, self.size = module, len(layers)
        tensors = {**(separate if self.apart else together), **books}
        self.cache = module.Cache.wrap(tensors, window=window, first_slot=1, invariant=invariant)
        self.decoding: torch.Tensor | None = None
        self.drafted: torch.Tensor | None = None

    def decode(self, layer: int, given: Held, out: torch.Tensor) -> None:
        """One token of the rows that decode. given: inputs and parameters by name."""
        self.module.decode(self.cache, layer, self.decoding, **given, out=out)

    def verify(self, layer: int, given: Held) -> torch.Tensor:
        """A window of tokens of the rows with drafts. given: inputs [rows, tokens, …] by name."""
        return self.module.verify(self.cache, layer, self.drafted, **given)

    def past(self, layer: int, slots: torch.Tensor) -> dict[str, torch.Tensor]:
        """What inputs were, [rows, tokens, heads, channels] by their rings' names, oldest first."""
        cache, found = self.cache, {}
        for name, shape in cache.past_shapes(slots.numel()).items():
            rows = torch.empty(shape, dtype=cache.dtype, device=cache.device)
            cache.move_past(name, rows[:, None], slots, layer, save=True)
            found[name] = rows
        return found

    def remember(self, layer: int, slots: torch.Tensor, given: Held) -> None:
        """Have it be what is given, for what is not."""
        for name, rows in given.items():
            self.cache.move_past(name, rows.contiguous()[:, None], slots, layer, save=False)


class Groups:
    """All groups of a model, and the steps that they take together.

    groups: the tensors of each group's layers. A block is one group's at a time, and groups lie
    over each other: where they do, layer by layer, they share cursors, and what begins and ends a
    step is launched once for all. window: most tokens of a row in one step. invariant: a row's bits
    do not depend on the rows beside it.
    """

    def __init__(
        self,
        module: ModuleType,
        groups: Sequence[Sequence[Held]],
        window: int,
        invariant: bool = False,
    ) -> None:
        first, *others = groups
        self.module = module
        self.shared = all(same_memory(first, other) for other in others)
        self.each = [Group(module, first, window, invariant, {})]
        kept = self.each[0].cache
        names = {held.name for held in module.Cache.table.held}
        books = {name: tensor for name, tensor in kept.tensors.items() if name not in names}
        for other in others:
            shared = books if self.shared else {}
            self.each.append(Group(module, other, window, invariant, shared))
            if self.shared:
                # what is known of open steps goes by slots, too
                self.each[-1].cache.calls = kept.calls

    def begin(self, rows: Sequence[Rows]) -> None:
        """Before the first layer of a step. rows: of each group, all of the same kinds.

        decoding: rows with one token. prompts: rows whose states the server's own kernel takes
        further, and continued, bool, which of them do not start. drafted: rows with drafts, and
        accepted, how many of their last step's tokens are kept.
        """
        for group, own in zip(self.each, rows, strict=True):
            group.decoding = contiguous(own.get("decoding"))
            group.drafted = contiguous(own.get("drafted"))
        for cache, step in self.joined(rows, ("drafted", "accepted")):
            self.module.accept(cache, step["drafted"], counts=step["accepted"], late=True)
        for cache, step in self.joined(rows, ("prompts", "continued")):
            # as memory of its own, so that no other kernel is compiled for where it begins
            prompts = step["prompts"].clone()
            # what a row that starts finds in its block is another request's
            resumed = torch.where(step["continued"], prompts, PADDING)
            if cache.window:
                # a chunk of one token in front of this one may have gone as a window
                one = torch.ones_like(resumed, dtype=torch.int32)
                self.module.accept(cache, resumed, counts=one, late=True)
            self.module.flush(cache, resumed)
            cache.seek(prompts, torch.zeros_like(prompts, dtype=torch.int32))

    def end(self) -> None:
        """After the last layer of a step. What is kept of drafts is known in the next one."""
        rows = [{} if g.decoding is None else {"decoding": g.decoding} for g in self.each]
        for cache, step in self.joined(rows, ("decoding",)):
            self.module.advance(cache, step["decoding"])

    def joined(
        self, rows: Sequence[Rows], names: Sequence[str]
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """Caches with the rows that they have of these kinds: one with all, or each its own."""
        if names[0] not in rows[0] or not rows[0][names[0]].numel():
            return
        if self.shared:
            yield (
                self.each[0].cache,
                {
                    name: torch.cat([own[name] for own in rows]) if len(rows) > 1 else rows[0][name]
                    for name in names
                },
            )
            return
        for group, own in zip(self.each, rows, strict=True):
            yield group.cache, {name: own[name] for name in names}


def same_memory(one: Sequence[Held], other: Sequence[Held]) -> bool:
    """Whether two groups' layers lie over each other."""
    return len(one) == len(other) and all(
        tensor.data_ptr() == beside[name].data_ptr() and tensor.stride() == beside[name].stride()
        for layer, beside in zip(one, other, strict=True)
        for name, tensor in layer.items()
    )


def contiguous(slots: torch.Tensor | None) -> torch.Tensor | None:
    return None if slots is None else slots.contiguous()
