"""Tokens of a window in one pass over the state, row upon row.

Every value of a token lies along T here. What a token reads is the stored state, the buffer, and
the writes of its ancestors in the window (the tokens before it, or the nodes above it in a tree).
"""

from __future__ import annotations

from kvgen.algebra.graph import Node, reachable
from kvgen.ir.values import Value
from kvgen.schedules.windows.carries import Carries
from kvgen.schedules.windows.decays import Decays
from kvgen.schedules.windows.frame import Frame
from kvgen.schedules.windows.products import Products
from kvgen.schedules.windows.reads import Reads
from kvgen.schedules.windows.writes import Writes


class Window:
    """The lines of one. reads: by what its rows are read."""

    def __init__(self, frame: Frame, reads: type[Reads] = Reads) -> None:
        self.frame, self.products = frame, Products(frame)
        self.carries, self.decays = Carries(frame), Decays(frame)
        self.reads = reads(frame, self.decays, self.products)
        self.writes = Writes(frame, self.carries, self.decays, self.products)

    def output(self) -> Value:
        """Builds what the tokens compute, once and in a tile, and gives their outputs."""
        frame, token = self.frame, self.frame.token
        self.products.load()
        with frame.at(True):
            self.products.own()
        if frame.carries_at_unit:
            with frame.at(True):
                self.carries.chain()
                self.products.own(carried=True)
        self.decays.find(once=True)
        wanted = self._wanted()
        with frame.at(True):
            token.emit([node for node in wanted if node in frame.unit])
        if not frame.carries_at_unit:
            self.carries.chain()
        self.decays.find(once=False)
        token.emit([node for node in wanted if node not in frame.unit])
        return self.writes.solve(self.reads.found())

    def end(self) -> None:
        """What a block of a prompt leaves behind."""
        for part in (self.decays, self.writes, self.carries):
            part.end()

    def _wanted(self) -> list[Node]:
        """The early nodes that the rest of the window looks at."""
        frame, form, late = self.frame, self.frame.form, self.frame.late
        found: dict[Node, None] = {}
        for node in reachable(frame.roots):
            if node in late and node.op != "index":
                found |= {arg: None for arg in node.args if arg not in late and not arg.is_const}
        scales = (scale for _, scale in self.products.vectors.values())
        roots = (*frame.roots, *form.columns, *form.keys, *scales)
        found |= {node: None for node in roots if node not in late and not node.is_const}
        # what once a program computes for the tiles
        for node in reachable(frame.roots):
            if node not in late and node not in frame.unit and node.op != "index":
                found |= {arg: None for arg in node.args if arg in frame.unit and not arg.is_const}
        return list(found)
