"""A window of tokens of a row whose records lie in pages, with a stored state or none.

What differs from a row with a state and one buffer: the places are gone over page by page, newest
first, so the decays since a place are summed as the pages come; and what is left of the stored
state is known when they are done.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.addresses import indexed, mask_of, records_of_head
from kvgen.codegen.loads import RecordLoads
from kvgen.codegen.names import local
from kvgen.codegen.printer import ATOM, Text, aligned, ordered
from kvgen.codegen.scopes import SINCE, TOTAL, Buffer, sides_at_places
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.tokens import Stack, WindowScope, loop
from kvgen.codegen.windows.frame import Frame
from kvgen.codegen.windows.reads import Reads
from kvgen.codegen.windows.stores import Stores
from kvgen.codegen.windows.window import Window

# places of carried states, before and after the tokens
RING = {"now": "(count % RING)", "next": "(spot + 1) % RING"}


@dataclass
class PagedLoads(RecordLoads):
    """Loads records where those of each place, or of one, begin: at `…_at`, or another such name.

    heads: as in TokenLoads.
    """

    spot: str = "at"
    heads: str = ""
    dims: str = "P"

    def __call__(self, node: Node) -> Text | None:
        stored = self.by_node.get(node)
        if stored is None:
            return None
        places = ordered(self.dims + (self.heads if stored.heads == "HV" else ""))
        dims = places + stored.channel
        text = aligned(Text(f"{local(stored.name)}_{self.spot}", ATOM, places), dims).text
        masks = [aligned(Text(str(self.held), ATOM, self.dims), dims).text]
        if stored.channel:
            text += f" + {indexed(stored.channel, dims)}"
            if self.shapes.masked(stored.channel):
                real = f"real_{self.shapes.index(stored.channel)}"
                masks.append(aligned(Text(real, ATOM, stored.channel), dims).text)
        mask = " & ".join(masks) if self.dims else mask_of(masks[:1], masks[1:], block=bool(dims))
        text = f"tl.load({text}, mask={mask}, other=0.0)"
        if stored.dtype.narrow:
            text += ".to(tl.float32)"
        return Text(text, ATOM, dims)


def short_verify_scope(form: Form, records: Records, shapes: Shapes, per_head: bool) -> WindowScope:
    """A window on top of pages of records, and of a stored state where a row has one."""
    frame = Frame(form, records, shapes, per_head, prompt=False, recorded=True, **RING)
    return Window(frame, PagedReads, PagedStores).built()


def short_extend_scope(form: Form, records: Records, shapes: Shapes) -> WindowScope:
    """A block of a prompt on a tile of the state; tokens leave records where a row stays short."""
    frame = Frame(form, records, shapes, True, prompt=True, recorded=True, **RING)
    return Window(frame, Reads, PromptStores).built()


class PagedReads(Reads):
    """Reads of pages, in a loop over them, and then of the state of rows that have one."""

    def buffer(self) -> Buffer:
        """What a page gives: all of it within the loop over pages."""
        frame, form, token = self.frame, self.frame.form, self.frame.token
        buffer = Buffer()
        self.page_decays: list[str] = []
        lines = self.page_decays
        loads = RecordLoads(frame.records, frame.shapes, "place", "held")
        held = token.beside(loads, "s")
        for decay in form.summed_decays:
            channel = decay.channel
            (log,) = held.emit([decay.log])
            lines += held.take()
            since, total = SINCE[channel], TOTAL[channel]
            if not channel:
                logs = token.namer.new("logs")
                text = log.text
                if "P" not in log.dims:
                    text += " + tl.zeros([PLACES], tl.float32)"
                lines += [
                    f"{logs} = tl.where(held, {text}, 0.0)",
                    f"{since} = {total} + _along(newer, {logs})",
                    f"weight = tl.exp({since})",
                    f"{total} += tl.sum({logs}, 0)",
                ]
                buffer.weight = "weight"
            else:
                logs = token.namer.new("logs")
                text = aligned(log, "P" + channel).text
                lines += [
                    f"{logs} = tl.where(held[:, None], tl.maximum({text}, -1e30), 0.0)",
                    f"{since} = {total}[None, :] + _dot(newer.to(tl.float32), {logs})",
                    f"{total} += tl.sum({logs}, 0)",
                ]
            buffer.kept[channel] = f"tl.exp({total})"
        sides_at_places(form, frame.records, held, buffer, self.given.vectors)
        return buffer

    def of_stacks(self, stacks: list[Stack], buffer: Buffer) -> list[str]:
        """What every stack reads of the pages; of the state it reads once they are done."""
        if not stacks:
            # what nothing reads is only recorded
            return []
        frame, shapes = self.frame, self.frame.shapes
        lines, found = frame.scope.tile, []
        for decay in frame.form.summed_decays:
            extent = shapes.extent(decay.channel)
            zero = f"tl.zeros([{extent}], tl.float32)" if decay.channel else "0.0"
            lines.append(f"{TOTAL[decay.channel]} = {zero}")
        places = ["(index * PLACES + place < count)", "((word >> place) % 2 == 0)"]
        body = [
            "index = pages_held - 1 - back",
            "page = tl.load(pages_ptr + slot * table + index).to(tl.int64)",
            "word = tl.load(skipped_ptr + slot * table + index)",
            f"held = {mask_of(['(page >= 0)'], places)}",
            *self._page_lines(),
            *self.page_decays,
            *buffer.unit,
            *buffer.tile,
        ]
        for stack in stacks:
            far = "V" if stack.near == "K" else "K"
            rows = f"{stack.count} * TOKENS" if stack.count > 1 else "TOKENS"
            shape = f"[{rows}, {shapes.extent(far)}]"
            whole = frame.name(f"tl.zeros({shape}, tl.float32)", "found", lines)
            scores: list[str] = []
            sums = self.of_buffer(stack, buffer, whole, scores)
            body += [*scores, *sums]
            found.append(whole)
        lines += loop("for back in tl.range(pages_held, num_stages=STAGES):", body)
        # only a row that has a state loads it
        frame.scope.pages, frame.scope.tile = lines, []
        for stack, whole in zip(stacks, found, strict=True):
            frame.scope.of_state.append(f"{whole} += {self.of_state(stack, buffer)}")
        return found

    def _page_lines(self) -> list[str]:
        """Where the records of `page` begin."""
        return [
            f"{local(s.name)}_at = {local(s.name)}_ptr + page * {local(s.name)}_slot"
            f" + {local(s.name)}_layer{records_of_head(s, self.frame.shapes)}"
            for s in self.frame.records.stored
        ]


class PagedStores(Stores):
    """Stores of records to the pages of a row."""

    def spot(self, stored: Stored) -> str:
        """Where the window's tokens leave a record."""
        shapes, name, channel = self.frame.shapes, local(stored.name), stored.channel
        page, within = "spot_page", "within"
        if channel:
            page, within = "spot_page[:, None]", f"within[:, None] * {shapes.size(channel)}"
        address = f"{name}_ptr + {name}_layer{records_of_head(stored, shapes)}"
        address += f" + {page} * {name}_slot + {within}"
        return address + (f" + {shapes.index(channel)}[None, :]" if channel else "")


class PromptStores(PagedStores):
    """Those of a block of a prompt."""

    def leave(self) -> None:
        """Every token's record, where the row stays short."""
        for stored in self.frame.records.stored:
            self.frame.scope.tile_stores.append(self.record(stored, at_unit=False))
