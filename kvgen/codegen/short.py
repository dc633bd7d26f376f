"""A decode on a paged cache: one token on the records in a row's pages, and on its state if it has
one.

A program holds a tile of value channels, of one value head or, where scores are the same for all
heads of a group, of several: these have a dimension G, and a page's scores are computed once for
them. Pages are gone over newest first, some at a time, so decays since a place are summed as they
come; what is left of the stored state is known when they are done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvgen.algebra.form import Carry, Decay, Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.addresses import carried_address, indexed, mask_of, records_of_head
from kvgen.codegen.levels import boundary, unit_level
from kvgen.codegen.loads import TokenLoads, token_emission
from kvgen.codegen.names import local
from kvgen.codegen.operands import times_input
from kvgen.codegen.printer import ATOM, Emission, Text, aligned, ordered
from kvgen.codegen.scopes import KEPT, SINCE, TOTAL, Buffer, sides_at_places
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.stores import Store, guards, needs_leads, same_head


@dataclass
class PagedLoads:
    """Loads records where those of each place, or of one, begin: at `…_at`, or another such name.

    held: a mask, beyond which 0 is loaded. heads: as in TokenLoads. dims: of the places.
    """

    records: Records
    shapes: Shapes
    held: str
    spot: str
    heads: str
    dims: str

    def __call__(self, node: Node) -> Text | None:
        stored = next((each for each in self.records.stored if each.node is node), None)
        if stored is None:
            return None
        places = ordered(self.dims + (self.heads if stored.heads == "HV" else ""))
        dims = places + stored.channel
        text = aligned(Text(f"{local(stored.name)}_{self.spot}", ATOM, places), dims).text
        masks = [aligned(Text(self.held, ATOM, self.dims), dims).text]
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


@dataclass(frozen=True)
class Found:
    """What one read has found in pages, by its name, and what in the state.

    zero: what both start from. initial: what it finds where a row has no state. column: what goes
    through the state, over `near`. scales: what of that is left.
    """

    name: str
    stored: str
    zero: str
    initial: str
    column: str
    near: str
    scales: tuple[str, ...]


@dataclass
class ShortScope:
    """Lines in their order: the token before its reads, what pages start from, some pages, what is
    left of the state (once the pages are done), and what follows the reads."""

    per_head: bool
    token: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    reads: list[Found] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    output: str = ""
    helpers: set[str] = field(default_factory=set)

    @property
    def needs_leads(self) -> bool:
        return needs_leads(self.stores)


def short_decode_scope(form: Form, records: Records, shapes: Shapes, per_head: bool) -> ShortScope:
    return _Scope(form, records, shapes, per_head).built()


class _Scope:
    def __init__(self, form: Form, records: Records, shapes: Shapes, per_head: bool) -> None:
        self.form, self.records, self.shapes = form, records, shapes
        self.per_head, self.heads = per_head, "" if per_head else "G"
        loads = TokenLoads(form, shapes, self.heads, "count % RING")
        self.token = token_emission(form, records, shapes, loads)
        self.scope = ShortScope(per_head, helpers=self.token.helpers)
        self.roots = [*form.roots, *(stored.node for stored in records.stored)]
        self.unit = unit_level(reachable(self.roots), per_head)
        # of the weights of places
        self.weight_dims = "P"

    def built(self) -> ShortScope:
        scope, token, form = self.scope, self.token, self.form
        _, before_reads = boundary(form.columns, self.roots, set())
        token.emit(before_reads)
        scope.token = token.take()
        buffer = self._buffer()
        self._reads(buffer)
        scope.pages = [*self._addresses("at", "page", "within", scope.pages), *scope.pages]
        token.emit(self.roots)
        scope.after = token.take()
        self._stores()
        scope.output = aligned(token.known[form.output], self.heads + "V").text
        return scope

    # -- records

    def _held(self, spot: str, held: str, dims: str, suffix: str) -> Emission:
        loads = PagedLoads(self.records, self.shapes, held, spot, self.heads, dims)
        return self.token.beside(loads, suffix)

    def _addresses(self, spot: str, page: str, within: str, users: list[str]) -> list[str]:
        """Where records begin of which the lines look at something."""
        words = {word for line in users for word in re.findall(r"\w+", line)}
        lines: list[str] = []
        dims = "P" if spot != "oldest_at" else ""
        for stored in self.records.stored:
            name = local(stored.name)
            if f"{name}_{spot}" not in words:
                continue
            width = self.shapes.size(stored.channel)
            each = f"{page} * {name}_slot"
            if within:
                each += f" + {within}" + (f" * {width}" if width > 1 else "")
            whole = ordered(dims + (self.heads if stored.heads == "HV" else ""))
            if whole != dims and dims:
                each = aligned(Text(f"({each})", ATOM, dims), whole).text
            at = f"{name}_ptr + {name}_layer{self._of_head(stored, whole)} + {each}"
            lines.append(f"{name}_{spot} = {at}")
        return lines

    def _of_head(self, stored: Stored, dims: str) -> str:
        return records_of_head(stored, self.shapes, dims, self.heads)

    def _buffer(self) -> Buffer:
        form, scope = self.form, self.scope
        buffer = Buffer()
        for decay in form.summed_decays:
            self._decay(decay, buffer)
        held = self._held("at", "held", "P", "s")
        sides_at_places(form, self.records, held, buffer, self._given(), ("PK", self._places("V")))
        scope.pages += [*buffer.unit, *buffer.tile]
        return buffer

    def _given(self) -> Mapping[Node, tuple[Node, Node]]:
        """Keys that are an input times a number of each place, which the score is times instead."""
        form = self.form
        if form.decay("K") or any(read.axes.channels == "K" for read in form.reads):
            return {}
        found = {key: times_input(form, key) for key in form.keys}
        return {key: times for key, times in found.items() if times}

    def _places(self, channel: str) -> str:
        return ordered("P" + channel + (self.heads if channel == "V" else ""))

    def _decay(self, decay: Decay, buffer: Buffer) -> None:
        """The decay since each place, and of all that has been gone over.

        The decay of a page's oldest record comes with the next one, which it is the newest for.
        """
        scope, channel = self.scope, decay.channel
        newer = self._held("newer_at", "newer", "P", "_newer")
        (log,) = newer.emit([decay.log])
        lines = newer.take()
        dims = ordered(log.dims + "P" + channel)
        # of all places together
        summed, axis = dims.replace("P", ""), dims.index("P")
        since, total = SINCE[channel], TOTAL[channel]
        logs = self.token.namer.new("logs")
        mask = aligned(Text("newer", ATOM, "P"), dims).text
        lines.append(f"{logs} = tl.where({mask}, {aligned(log, dims).text}, 0.0)")
        zero = f"tl.zeros({self._shape(summed)}, tl.float32)" if summed else "0.0"
        scope.start.append(f"{total} = {zero}")
        newest = aligned(Text(total, ATOM, summed), dims).text
        lines += [
            f"{since} = {newest} + tl.cumsum({logs}, {axis}, reverse=True)",
            f"{total} += tl.sum({logs}, {axis})",
        ]
        if not channel:
            buffer.weight = "weight"
            self.weight_dims = dims
            lines.append(f"weight = tl.exp({since})")
        elif dims != self._places(channel):
            lines.append(
                f"{since} = {aligned(Text(since, ATOM, dims), self._places(channel)).text}"
            )
        scope.pages += [*self._addresses("newer_at", "newer_page", "newer_within", lines), *lines]
        oldest = self._held("oldest_at", "oldest", "", "_oldest")
        (own,) = oldest.emit([decay.log])
        kept = oldest.take()
        kept.append(f"{KEPT[channel]} = tl.exp({total} + tl.where(oldest, {own.text}, 0.0))")
        scope.kept += [*self._addresses("oldest_at", "oldest_page", "", kept), *kept]
        buffer.kept[channel] = aligned(
            Text(KEPT[channel], ATOM, summed), (self.heads if channel != "K" else "") + channel
        ).text

    def _shape(self, dims: str) -> str:
        extents = ("TILES" if dim == "G" else self.shapes.extent(dim) for dim in dims)
        return f"[{', '.join(extents)}]"

    # -- reads

    def _reads(self, buffer: Buffer) -> None:
        form, token, scope = self.form, self.token, self.scope
        for node in form.reads:
            near, far = node.args[0].axes.channels, node.axes.channels
            dims = (self.heads if far == "V" else "") + far
            name = token.namer.new(form.graph.names.get(node) or "read")
            column = token.clean(node.args[0]).inside(ATOM)
            for near_side, far_side, number in buffer.sides(near):
                score = token.namer.new("score")
                text = f"tl.sum({near_side} * {column}[None, :], 1)"
                scope.pages.append(f"{score} = {text}" + (f" * {number}" if number else ""))
                weighted = Text(score, ATOM, "P")
                if buffer.weight:
                    dims_of = self.weight_dims
                    product = f"({buffer.weight} * {aligned(weighted, dims_of).text})"
                    weighted = Text(product, ATOM, dims_of)
                whole = ordered("P" + dims)
                text = f"{far_side} * {aligned(weighted, whole).text}"
                scope.pages.append(f"{name} += tl.sum({text}, {whole.index('P')})")
            decayed = column
            if near in buffer.kept:
                decayed = token.namer.new("column")
                scope.kept.append(f"{decayed} = {column} * {buffer.kept[near]}")
            scales = [buffer.kept[c] for c in ("", far) if c in buffer.kept]
            if "" in buffer.kept and len(dims) > 1:
                scales[0] = self._over(buffer.kept[""], dims)
            zero = f"tl.zeros({self._shape(dims)}, tl.float32)"
            stored = token.namer.new(f"{name}_stored")
            initial = self._initial(decayed, far, dims)
            scope.reads.append(Found(name, stored, zero, initial, decayed, near, tuple(scales)))
            scope.start.append(f"{name} = {zero}")
            token.known[node] = Text(name, ATOM, dims)

    def _initial(self, column: str, far: str, dims: str) -> str:
        """The column through a state that is the same everywhere."""
        found = f"{self.form.state.init!r} * tl.sum({column}, 0)"
        if self.shapes.masked(far):
            real = aligned(Text(f"real_{self.shapes.index(far)}", ATOM, far), dims).text
            return f"tl.where({real}, {found}, 0.0)"
        return f"({found})"

    def _over(self, kept: str, dims: str) -> str:
        heads = self.weight_dims.replace("P", "")
        return aligned(Text(kept, ATOM, heads), dims).text

    # -- what the token leaves

    def _stores(self) -> None:
        form, token = self.form, self.token
        for stored in self.records.stored:
            node, name = stored.node, local(stored.name)
            dims = (self.heads if stored.heads == "HV" else "") + stored.channel
            address = f"{name}_ptr + {name}_layer{self._of_head(stored, dims)}"
            address += f" + spot_page * {name}_slot + "
            address += "spot"
            if stored.channel:
                width = self.shapes.size(stored.channel)
                address += f" * {width} + {indexed(stored.channel, dims)}"
            self._store(address, token.known[node], dims, node, node in self.unit)
        for carry in form.carries:
            self._carried(carry)

    def _carried(self, carry: Carry) -> None:
        axes = carry.axes
        address = carried_address(self.form, carry.tensor.name, "(count + 1) % RING", self.heads)
        dims = (self.heads if axes.head == "HV" else "") + axes.channels
        at_unit = carry.after in self.unit and same_head(axes.head, self.per_head)
        self._store(address, self.token.known[carry.after], dims, carry.before, at_unit)

    def _store(self, address: str, value: Text, dims: str, node: Node, at_unit: bool) -> None:
        if value.dims:
            text = aligned(value, dims).text
        else:
            text = (
                f"{value.text} + tl.zeros({self._shape(dims)}, tl.float32)" if dims else value.text
            )
        guards = self._mask(node, dims, at_unit)
        self.scope.stores.append(Store(address, text, guards, bool(dims)))

    def _mask(self, node: Node, dims: str, at_unit: bool) -> tuple[str, ...]:
        """Of the programs that compute the same value, one stores it, where there is a place."""
        chosen: list[str] = []
        for guard in guards(self.form, node, self.shapes, self.per_head, at_unit):
            real = guard.removeprefix("real_")
            if real != guard:
                channel = {"key": "K", "value": "V"}[real]
                guard = aligned(Text(guard, ATOM, channel), dims).text
            elif guard == "(head == 0)" and not self.per_head:
                # none of a program's heads is told from the others by what all of them have
                guard = "leads & (group == 0)"
            chosen.append(guard)
        return ("fits", *chosen)
