"""The kernels of a step of short contexts, as a cache launches them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import is_row, strict, wrong
from kvgen.runtime.kernels import ending, marks_of, tree_of
from kvgen.runtime.launches import (
    Given,
    configured,
    launch,
    launch_tokens,
    parts_grid,
    strides_of,
    tiles_grid,
    value_tiles,
)
from kvgen.runtime.numbers import listed, power_of_two
from kvgen.runtime.paged_storage import PAGE
from kvgen.runtime.pages import Pages

# the mark of a row whose prompt of n tokens stays short: -n - PROMPT
PROMPT = 1 << 20


class PagedKernels(Pages):
    """What a step needs of such a cache."""

    def bounds(self) -> list[int]:
        return [*super().bounds(), self.width]

    def tables(self) -> list[Tensor]:
        """Which pages are whose, as kernels get it."""
        return [self.tensors[name] for name in ("pages", "state_pages", "stateful")]

    def limits(self) -> dict[str, Any]:
        """How many places rows have, as kernels get it."""
        width = power_of_two(self.width)
        return {
            "CONTEXT": self.short_context, "BUFFER": self.buffer, "PLACES": PAGE, "TABLE": width,
        }  # fmt: skip

    def in_place(self, pending: int) -> str | None:
        return "extend" if pending > 0 or pending <= -PROMPT else None

    def check_room(self, slots: Tensor, tokens: int, lengths: Tensor | None = None) -> None:
        """Whether rows have places for a call's records: `tokens` each, or a prompt's lengths."""
        if not strict(slots):
            return
        cursors = listed(self.cursors)
        prompts = [0] * slots.numel() if lengths is None else listed(lengths)
        for slot, prompt in zip(listed(slots), prompts, strict=True):
            if is_row(self, slot):
                left = self.room(slot, cursors[slot], prompt)
                wanted = tokens if lengths is None else prompt
                if left < wanted:
                    came = f"slot {slot} has room for {left} tokens"
                    raise wrong("slots", came, f"{wanted}: `reserve` first")

    def most_kept(self, slots: Tensor, used: Tensor) -> tuple[Tensor, Tensor | None]:
        most, _ = super().most_kept(slots, used)
        # the records of a prompt are kept whole
        left = -self.tensors["pending"][torch.where(used, slots, 0).long()] - PROMPT
        return torch.where(left >= 0, left, most), left >= 0

    def run_decode(self, layer: int, slots: Tensor, given: Given, out: Tensor) -> None:
        table, signature = self.table, self.table.kernels["short_decode"]
        config = configured(self, "short", slots.numel(), given)
        parts, units = value_tiles(table, config), self.heads
        tiles: dict[str, Any] = {}
        if signature.grouped:
            each = math.gcd(table.ratio, config["TILES"])
            parts, units, tiles = parts * table.ratio // each, units // table.ratio, {"TILES": each}
        launch_tokens(
            self, "short_decode", (slots.numel() * units * parts,), layer, slots, given, out,
            books=[self.tensors["pending"], *self.tables()], **self.limits(), RING=self.ring,
            TILE=config["TILE"], **tiles, PAGES=config["PAGES"], STAGES=config["STAGES"],
            num_warps=config["num_warps"],
        )  # fmt: skip

    def run_verify(
        self, layer: int, slots: Tensor, parents: Tensor | None, given: Given, out: Tensor
    ) -> None:
        tokens = out.shape[1]
        config = configured(self, "verify", slots.numel(), given)
        grid, tiles = parts_grid(self, self.table.kernels["short_verify"], slots.numel(), config)
        tree, strides = tree_of(slots, parents)
        launch_tokens(
            self, "short_verify", grid, layer, slots, given, out,
            books=[self.tensors["pending"], *self.tables(), tree], behind=strides,
            **self.limits(), RING=self.ring, WINDOW=tokens, TOKENS=power_of_two(tokens),
            TREE=parents is not None, TILE=config["TILE"], TILES=tiles, STAGES=config["STAGES"],
            num_warps=self.window_warps(config, tokens),
        )  # fmt: skip

    def run_extend(
        self, layer: int, slots: Tensor, lengths: Tensor, given: Given, out: Tensor,
        packed: bool = False,
    ) -> None:  # fmt: skip
        config = configured(self, "extend", slots.numel(), given)
        launch_tokens(
            self, "short_extend", tiles_grid(self, slots.numel(), config), layer, slots, given,
            out, books=[self.tensors["pending"], *self.tables(), lengths],
            before=[out.shape[0 if packed else 1]], **self.limits(), RING=self.ring,
            TOKENS=config["TOKENS"], TILE=config["TILE"], STAGES=config["STAGES"],
            num_warps=config["num_warps"], packed=packed, PACKED=packed,
        )  # fmt: skip

    def run_advance(
        self, slots: Tensor, force: Tensor | None, keep: str, kept: Tensor | None = None,
        late: bool = False,
    ) -> None:  # fmt: skip
        work, skipped, limits = self.tensors["work"], self.tensors["skipped"], self.limits()
        # as many rows as threads, unless each has too many pages
        block = max(32, min(256, 4096 // limits["TABLE"]))
        launch(
            self, "short_advance", (1,), slots, *self.books(), self.tensors["pending"],
            *self.tables(), *marks_of(slots, force, kept), work, slots.numel(), *self.rows,
            self.width, max(1, self.window), **limits, **ending(force, keep, kept, late),
            BLOCK=block, num_warps=min(4, block // 32),
        )  # fmt: skip
        config, programs = self.fold_grid(slots)
        used = [self.tensors[name] for name in self.table.kernels["short_fold"].tensors]
        ring: dict[str, Any] = {"RING": self.ring} if self.table.carried else {}
        launch(
            self, "short_fold", (programs,), work, skipped, *self.tables()[:2], *used, self.layers,
            self.heads, self.width, *strides_of(used, 1), PLACES=PAGE, **ring, TILE=config["TILE"],
            STAGES=config["STAGES"], num_warps=config["num_warps"],
        )  # fmt: skip
