"""The kernels of a step, as a cache launches them: those of its calls, and what ends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kvgen.runtime.arguments import is_row, strict, wrong
from kvgen.runtime.calls import IN_PLACE
from kvgen.runtime.device import best_of, timed
from kvgen.runtime.launches import (
    Given,
    batch_of,
    configured,
    launch,
    launch_tokens,
    parts_grid,
    step_of,
    strides_of,
    tiles_grid,
    value_tiles,
)
from kvgen.runtime.numbers import listed, power_of_two
from kvgen.runtime.storage import Storage

# fewer rows may as well fold in one step, which takes little longer than the others
EVEN_ROWS = 8


class Kernels(Storage):
    """What a step needs of a cache."""

    def in_place(self, pending: int) -> str | None:
        """Which kernel may have left this mark of a row whose records are in its state already."""
        return "recurrent" if pending > 0 else None

    def check_settled(self, slots: Tensor, left: tuple[str, ...] = ()) -> None:
        """Between a kernel that writes in place and the step's end records are in the state.

        left: kernels whose rows are left alone.
        """
        if not strict(slots):
            return
        pending = listed(self.tensors["pending"])
        for slot in listed(slots):
            kernel = self.in_place(pending[slot]) if is_row(self, slot) else None
            if kernel is not None:
                kernel = self.calls.in_place(slot) or kernel
                if kernel not in left:
                    came = f"slot {slot} comes from `{kernel}`"
                    raise wrong("slots", came, f"`{IN_PLACE[kernel]}` first")

    def check_room(self, slots: Tensor, tokens: int, lengths: Tensor | None = None) -> None:
        """Whether rows have places for a call's records; those with a state have, where a step's
        end has seen to it."""

    def most_kept(self, slots: Tensor, used: Tensor) -> tuple[Tensor, Tensor | None]:
        """How many tokens a step's end may keep of each row, and which rows keep all or none."""
        return torch.full_like(slots, max(1, self.window)), None

    def run_decode(self, layer: int, slots: Tensor, given: Given, out: Tensor) -> None:
        config = configured(self, "decode", slots.numel(), given)
        grid, tiles = parts_grid(self, self.table.kernels["decode"], slots.numel(), config)
        more = {name: config[name] for name in self.table.choices}
        launch_tokens(
            self, "decode", grid, layer, slots, given, out,
            step=step_of(self, layer, slots) if config["PDL"] else None,
            PLACES=self.buffer, SPAN=power_of_two(self.buffer), TILE=config["TILE"],
            TILES=tiles, STAGES=config["STAGES"], EARLY=config["EARLY"] and tiles == 1, **more,
            PDL=config["PDL"] and self.overlaps, num_warps=config["num_warps"],
        )  # fmt: skip

    def run_recurrent(self, layer: int, slots: Tensor, given: Given, out: Tensor) -> None:
        config = configured(self, "recurrent", slots.numel(), given)
        launch_tokens(
            self, "recurrent", tiles_grid(self, slots.numel(), config), layer, slots, given, out,
            books=[self.tensors["pending"]], PLACES=self.buffer, TILE=config["TILE"],
            num_warps=config["num_warps"],
        )  # fmt: skip

    def run_verify(
        self, layer: int, slots: Tensor, parents: Tensor | None, given: Given, out: Tensor
    ) -> None:
        """A window of tokens a row; a kernel of its own takes a few that follow each other."""
        table, rows, tokens = self.table, out.shape[0], out.shape[1]
        short = parents is None and tokens <= table.chain
        name = "chain" if short else self.window_kernel(rows, parents is not None)
        config = configured(self, name, rows, given)
        grid, tiles = parts_grid(self, table.kernels[name], rows, config)
        pending, span = self.tensors["pending"], max(table.least_span, power_of_two(self.buffer))
        shared: dict[str, Any] = {
            "PLACES": self.buffer, "SPAN": span, "WINDOW": tokens, "TILE": config["TILE"],
            "TILES": tiles, "STAGES": config["STAGES"],
        }  # fmt: skip
        if name == "chain":
            launch_tokens(
                self, name, grid, layer, slots, given, out, books=[pending],
                step=step_of(self, layer, slots) if config["PDL"] else None, **shared,
                EARLY=config["EARLY"] and tiles == 1, PDL=config["PDL"] and self.overlaps,
                num_warps=config["num_warps"],
            )  # fmt: skip
            return
        tree, strides = tree_of(slots, parents)
        shared |= {"TOKENS": power_of_two(tokens), "TREE": parents is not None}
        if name == "chunk":
            shared["TOKENS"] = max(table.chunk, shared["TOKENS"])
            launch_tokens(
                self, name, grid, layer, slots, given, out, books=[pending, tree], behind=strides,
                step=step_of(self, layer, slots) if config["PDL"] else None, **shared,
                EARLY=config["EARLY"] and tiles == 1, PDL=config["PDL"] and self.overlaps,
                num_warps=config["num_warps"],
            )  # fmt: skip
            return
        launch_tokens(
            self, name, grid, layer, slots, given, out, books=[pending, tree], behind=strides,
            **shared, num_warps=self.window_warps(config, tokens),
        )  # fmt: skip

    def window_kernel(self, rows: int, tree: bool) -> str:
        """The kernel of a window that is no short chain: of two the one that is tuned."""
        table, tuned = self.table, self.table.names["CONFIGS"].get(self.gpu, {})
        taken = table.chunk and (table.chunk_trees or not tree)
        # scaling channels takes time, which only a GPU's times weigh against what columns save
        taken = taken and (not table.chunk_timed or timed(table, self.gpu, "chunk"))
        if not taken or ("verify" in tuned and "chunk" not in tuned):
            return "verify"
        return best_of(table, self.gpu, "chunk", "verify", batch_of(self, rows))

    def window_warps(self, config: Mapping[str, int], tokens: int) -> int:
        """More tokens hold more values in each thread."""
        more = tokens > 4 or not self.table.several
        return min(8, 2 * config["num_warps"]) if more else config["num_warps"]

    def run_extend(
        self, layer: int, slots: Tensor, lengths: Tensor, given: Given, out: Tensor,
        packed: bool = False,
    ) -> None:  # fmt: skip
        blocks, pending = self.table.blocks, self.tensors["pending"]
        rows, tokens = slots.numel(), out.shape[0 if packed else 1]
        if blocks is not None and blocks.takes(self, rows, tokens, packed):
            blocks.run(self, layer, slots, pending, lengths, given, out, packed)
            return
        config = configured(self, "extend", rows, given)
        launch_tokens(
            self, "extend", tiles_grid(self, rows, config), layer, slots, given, out,
            books=[pending, lengths], before=[tokens],
            PLACES=self.buffer, TOKENS=config["TOKENS"], TILE=config["TILE"],
            STAGES=config["STAGES"], num_warps=config["num_warps"], packed=packed, PACKED=packed,
        )  # fmt: skip

    def run_advance(
        self, slots: Tensor, force: Tensor | None, keep: str, kept: Tensor | None = None,
        late: bool = False,
    ) -> None:  # fmt: skip
        """End a step of which rows keep what `keep` and `kept` say, and fold those without room."""
        # a fold begins while rows are listed, and waits; few rows take one warp, and no barriers
        more: dict[str, Any] = {"launch_pdl": True} if self.overlaps else {}
        block, warps = (32, 1) if slots.numel() <= 32 else (256, 4)
        even = keep == "one" and self.fold == "parts" and slots.numel() >= EVEN_ROWS
        launch(
            self, "advance", (1,), slots, *self.books(), self.tensors["pending"],
            *marks_of(slots, force, kept), self.tensors["work"], slots.numel(), *self.rows,
            max(1, self.window), PLACES=self.buffer, **ending(force, keep, kept, late), EVEN=even,
            SPAN=power_of_two(self.buffer), PDL=self.overlaps, BLOCK=block, num_warps=warps,
        )  # fmt: skip
        config, programs = self.fold_grid(slots)
        span = max(16, power_of_two(self.buffer))
        dots = {"SPAN": span, "DOT": config["DOT"]} if self.table.multiplies else {}
        more |= {"maxnreg": config["maxnreg"]} if config.get("maxnreg") else {}
        for tensors in self.groups:
            used = [tensors[name] for name in self.table.kernels["fold"].tensors]
            launch(
                self, "fold", (programs,), self.tensors["work"], *used, self.joined, self.heads,
                *strides_of(used, 1), PLACES=self.buffer, TILE=config["TILE"], **dots,
                STAGES=config["STAGES"], PDL=self.overlaps, num_warps=config["num_warps"], **more,
            )  # fmt: skip

    def fold_grid(self, slots: Tensor) -> tuple[dict[str, Any], int]:
        """A fold's configuration and how many programs go over the rows that are listed."""
        config = configured(self, "fold", slots.numel())
        tiles = slots.numel() * self.joined * self.heads * value_tiles(self.table, config)
        return config, min(self.processors * config["programs"], tiles)


def marks_of(slots: Tensor, force: Tensor | None, kept: Tensor | None) -> list[Tensor]:
    """What rows keep of a step, and which fold now, as kernels get it."""
    folded = slots if force is None else force.view(torch.uint8)
    return [slots if kept is None else kept, folded]


def ending(force: Tensor | None, keep: str, kept: Tensor | None, late: bool) -> dict[str, Any]:
    """The same as a kernel's constants."""
    tokens = kept.shape[1] if kept is not None and keep == "path" else 1
    return {"KEEP": keep, "TOKENS": tokens, "FORCE": force is not None, "LATE": late}


def tree_of(slots: Tensor, parents: Tensor | None) -> tuple[Tensor, tuple[int, ...]]:
    """A window's tree and its strides, as kernels get it."""
    return (slots, (0, 0)) if parents is None else (parents, parents.stride())
