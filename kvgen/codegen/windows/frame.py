"""What the parts of a window share: its recurrence, its lines, and where values are computed."""

from __future__ import annotations

from dataclasses import replace

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records
from kvgen.algebra.solving import solve
from kvgen.codegen.levels import unit_level
from kvgen.codegen.loads import token_emission
from kvgen.codegen.printer import Emission, Text, aligned
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.tokens import WindowLoads, WindowScope, users_of


class Frame:
    """One window. prompt: whether it is a block of one.

    recorded: whether tokens leave records. now, next: places of carried states, before and after
    the tokens. roots: all that is computed. late: what is known only once the state is read. unit:
    the values that are computed once a program, not once a tile.
    """

    def __init__(
        self,
        form: Form,
        records: Records,
        shapes: Shapes,
        per_head: bool,
        prompt: bool,
        *,
        recorded: bool,
        now: str = "count",
        next: str = "spot + 1",
    ) -> None:
        self.form, self.records, self.shapes = form, records, shapes
        self.per_head, self.prompt, self.recorded = per_head, prompt, recorded
        self.now, self.next = now, next
        position = "long_position" if prompt else "long_token"
        loads = WindowLoads(form, records, shapes, position)
        self.token = token_emission(form, records, shapes, loads)
        self.token.once = "T"
        self.scope = WindowScope(per_head, helpers=self.token.helpers)
        kept = tuple(stored.node for stored in records.stored) if recorded else ()
        if prompt and form.factored:
            kept = form.factored.keys
        if recorded:
            kept += form.remembered
        self.roots = list(dict.fromkeys((*form.roots, *kept)))
        nodes = reachable(self.roots)
        self.late = form.late
        self.solved = solve(form)
        self.early_carries = [carry for carry in form.carries if carry.after not in self.late]
        unit = unit_level(nodes, per_head)
        # carried states that do not fit there go along the parents once a tile, all of them
        self.carries_at_unit = all(carry.after in unit for carry in self.early_carries)
        if not self.carries_at_unit:
            unit -= users_of(nodes, {carry.before for carry in form.carries})
        # whether what decays along keys is known before the tiles
        self.keys_at_unit = all(d.log in unit for d in form.decays if d.channel == "K")
        if form.factored and not self.keys_at_unit:
            unit -= users_of(nodes, {form.factored.before})
        self.unit = {node for node in unit if node not in self.late}

    def level(self, node: Node) -> list[str]:
        """The lines among which a value is computed that needs no read."""
        return self.scope.unit if node in self.unit else self.scope.tile

    def turn(self) -> Emission:
        """A scope of its own for one turn of a loop."""
        return replace(self.token, suffix="_turn", known=dict(self.token.known), lines=[])

    # -- texts

    def spread(self, text: Text, dims: str) -> str:
        """The value with all of `dims`, which begin with T."""
        if text.dims == dims:
            return text.text
        shape = "[TOKENS]" if dims == "T" else f"[TOKENS, {self.shapes.extent(dims[1:])}]"
        inner = aligned(text, dims)
        return f"{inner.inside(1)} + tl.zeros({shape}, tl.float32)"

    def real(self, text: str) -> str:
        """Zeros for the tokens that only fill the tile up."""
        return f"tl.where(real_token[:, None], {text}, 0.0)"

    def name(self, text: str, wanted: str, level: list[str]) -> str:
        """A name like the wanted one, which a line of that level gives to the text."""
        name = self.token.namer.new(wanted)
        level.append(f"{name} = {text}")
        return name

    def named(self, text: Text, dims: str, wanted: str, level: list[str]) -> str:
        """The value with all of `dims` under a name, its own if it has one."""
        whole = self.spread(text, dims)
        return whole if whole.isidentifier() else self.name(whole, wanted, level)
