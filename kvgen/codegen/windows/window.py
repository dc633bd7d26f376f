"""A window of tokens in one pass over the state: what a verify and a block of a prompt compute.

Every value of a token has a leading dimension T here. What a token reads is the stored state, the
buffer, and the writes of its ancestors in the window (the tokens before it, or the nodes above it
in a tree).
"""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.tokens import WindowScope, prune, settled
from kvgen.codegen.windows.carries import Carries
from kvgen.codegen.windows.decays import Decays
from kvgen.codegen.windows.frame import Frame
from kvgen.codegen.windows.given import Given
from kvgen.codegen.windows.products import Products
from kvgen.codegen.windows.reads import Reads
from kvgen.codegen.windows.stores import Stores
from kvgen.codegen.windows.writes import Writes


def verify_scope(form: Form, records: Records, shapes: Shapes, per_head: bool) -> WindowScope:
    """A window on top of the stored state and the buffer; every token leaves its records."""
    return Window(Frame(form, records, shapes, per_head, prompt=False, recorded=True)).built()


def extend_scope(form: Form, records: Records, shapes: Shapes) -> WindowScope:
    """A block of a prompt on top of a tile of the state, which is brought up to date."""
    return Window(Frame(form, records, shapes, True, prompt=True, recorded=False)).built()


class Window:
    """Builds one scope. reads, stores: what its rows are read by, and its tokens stored by."""

    def __init__(
        self, frame: Frame, reads: type[Reads] = Reads, stores: type[Stores] = Stores
    ) -> None:
        self.frame, self.given = frame, Given(frame)
        self.carries, self.decays = Carries(frame), Decays(frame)
        self.products = Products(frame, self.given)
        self.reads = reads(frame, self.given, self.decays, self.products)
        self.writes = Writes(frame, self.given, self.carries, self.decays, self.products)
        self.stores = stores(frame)

    def built(self) -> WindowScope:
        frame, scope, token = self.frame, self.frame.scope, self.frame.token
        early = [node for node in reachable(frame.roots) if node not in frame.late]
        self.given.load()
        self.products.own()
        if frame.carries_at_unit:
            self.carries.chain(scope.unit)
        self.decays.paths(scope.unit, at_unit=True)
        wanted = self._wanted(early)
        token.emit([node for node in wanted if node in frame.unit])
        scope.unit += token.take()
        if not frame.carries_at_unit:
            self.carries.chain(scope.tile)
        self.decays.paths(scope.tile, at_unit=False)
        token.emit([node for node in wanted if node not in frame.unit])
        scope.tile += token.take()
        self.writes.solve(self.reads.found())
        self.stores.leave()
        if frame.prompt:
            for part in (self.decays, self.writes, self.carries):
                part.end(scope.after)
        self._prune()
        if frame.prompt:
            scope.before += settled((scope.unit, scope.tile, scope.after), self._moving())
        return scope

    def _wanted(self, early: list[Node]) -> list[Node]:
        """The early nodes that the rest of the window looks at."""
        frame, form, late = self.frame, self.frame.form, self.frame.late
        found: dict[Node, None] = {}
        for node in reachable(frame.roots):
            if node in late and node.op != "index":
                found |= {arg: None for arg in node.args if arg not in late and not arg.is_const}
        scales = (scale for _, scale in self.given.vectors.values())
        roots = (*frame.roots, *form.columns, *form.keys, *scales)
        found |= {node: None for node in roots if node not in late and not node.is_const}
        # what once a program computes for the tiles
        for node in early:
            if node not in frame.unit and node.op != "index":
                found |= {arg: None for arg in node.args if arg in frame.unit and not arg.is_const}
        return list(found)

    def _moving(self) -> list[str]:
        """What changes from block to block of a prompt beside what is computed there."""
        return [
            "start",
            "position",
            "long_position",
            "real_token",
            "last",
            "state",
            *self._contexts(),
            *(
                f"{each}_{age}"
                for age in range(1, self.frame.form.most_past + 1)
                for each in ("back", "place")
            ),
        ]

    def _prune(self) -> None:
        """Drop what was computed for a value that another way has been found to."""
        scope = self.frame.scope
        levels = [scope.unit, scope.pages, scope.of_state, scope.tile, scope.after]
        stores = [store.line for store in (*scope.unit_stores, *scope.tile_stores)]
        # a template reads these
        prune(levels, [*stores, scope.output, "state", *self._contexts()])

    def _contexts(self) -> list[str]:
        return [self.carries.context(carry) for carry in self.frame.form.carries]
