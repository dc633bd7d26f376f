"""What a window's tokens leave in memory: their records, and the carried states after each."""

from __future__ import annotations

from kvgen.algebra.graph import Node
from kvgen.algebra.records import Stored
from kvgen.codegen.addresses import carried_address, mask_of, past_address
from kvgen.codegen.names import local
from kvgen.codegen.stores import guards, same_head
from kvgen.codegen.tokens import Spread
from kvgen.codegen.windows.frame import Frame


class Stores:
    """The stores of one window's tokens."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def leave(self) -> None:
        """Store every token's records, carried states and what its inputs were, where tokens leave
        them."""
        frame, form, scope = self.frame, self.frame.form, self.frame.scope
        if not frame.recorded:
            return
        for stored in frame.records.stored:
            at_unit = stored.node in frame.unit
            level = scope.unit_stores if at_unit else scope.tile_stores
            level.append(self.record(stored, at_unit))
        for carry in form.carries:
            channel = carry.axes.channels
            at_unit = carry.after in frame.unit and same_head(carry.axes.head, frame.per_head)
            value = frame.spread(frame.token.known[carry.after], "T" + channel)
            level = scope.unit_stores if at_unit else scope.tile_stores
            address = carried_address(form, carry.tensor.name, frame.next, tokens="T")
            level.append(Spread(address, value, self._mask(carry.before, at_unit)))
        for x in form.remembered:
            at_unit = x in frame.unit and same_head(x.axes.head, frame.per_head)
            value = frame.spread(frame.token.known[x], "T" + x.axes.channels)
            level = scope.unit_stores if at_unit else scope.tile_stores
            address = past_address(form, frame.shapes, x, "to_come")
            level.append(Spread(address, value, self._mask(x, at_unit)))

    def record(self, stored: Stored, at_unit: bool) -> Spread:
        """The store of what every token records of one value."""
        frame = self.frame
        address = self.spot(stored)
        value = frame.spread(frame.token.known[stored.node], "T" + stored.channel)
        return Spread(address, value, self._mask(stored.node, at_unit))

    def spot(self, stored: Stored) -> str:
        """Where the window's tokens leave a record."""
        shapes, channel = self.frame.shapes, stored.channel
        spot = "spot[:, None]" if channel else "spot"
        address = f"{local(stored.name)}_at + {spot}"
        if channel:
            address += f" * {shapes.size(channel)} + {shapes.index(channel)}[None, :]"
        return address

    def _mask(self, node: Node, at_unit: bool) -> str:
        frame, channel = self.frame, node.axes.channels
        chosen = guards(frame.form, node, frame.shapes, frame.per_head, at_unit)
        real = [g for g in chosen if g.startswith("real_")]
        programs = [g for g in chosen if not g.startswith("real_")]
        mask = mask_of(programs, ["fits"])
        if not channel:
            return mask
        lane = f" & {real[0]}[None, :]" if real else ""
        return f"({mask})[:, None]{lane}" if programs else f"fits[:, None]{lane}"
