"""What the parts of a window share: its recurrence, its tokens, and where values are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kvgen.algebra.form import Form
from kvgen.algebra.graph import reachable, users_of
from kvgen.algebra.records import Records
from kvgen.algebra.solving import solve
from kvgen.codegen.levels import unit_level
from kvgen.codegen.shapes import Shapes
from kvgen.ir.build import Builder
from kvgen.ir.values import ROWS, Value, Wish
from kvgen.runtime.numbers import power_of_two
from kvgen.schedules.token import names_of
from kvgen.schedules.windows.lanes import WindowProgram
from kvgen.schedules.windows.tokens import Tokens, WindowLoads


class Frame:
    """One window. single: whether a program has one value head. prompt: whether it is a block of
    one. recorded: whether tokens leave records. program: its lanes. depth: how many blocks are open
    around what it computes once.

    roots: all that is computed. late: what is known only once the state is read. unit: the values
    that are computed once, not once a tile.
    """

    def __init__(
        self,
        form: Form,
        records: Records,
        shapes: Shapes,
        single: bool,
        *,
        prompt: bool = False,
        recorded: bool = True,
        program: type[WindowProgram] = WindowProgram,
    ) -> None:
        self.form, self.records, self.shapes = form, records, shapes
        self.single, self.prompt, self.recorded = single, prompt, recorded
        self.depth = 2 if prompt else 1
        self.build = build = Builder(ROWS)
        self.lanes = lanes = program(build, shapes, form.spec.ratio, single)
        self.names = names_of(form, records)
        self.inputs = WindowLoads(build, lanes, self.names, form=form)
        self.token = Tokens(build, form.graph, self.inputs, self.names, lanes.masks)
        self.ancestors = build.given("ancestors", "TS", "bool")
        self.state = build.given("state", "KV", "float")
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
        unit = unit_level(nodes, single)
        # carried states that do not fit there go along the parents once a tile, all of them
        self.carries_at_unit = all(carry.after in unit for carry in self.early_carries)
        if not self.carries_at_unit:
            unit -= users_of(nodes, {carry.before for carry in form.carries})
        # whether what decays along keys is known before the tiles
        self.keys_at_unit = all(d.log in unit for d in form.decays if d.channel == "K")
        if form.factored and not self.keys_at_unit:
            unit -= users_of(nodes, {form.factored.before})
        self.unit = {node for node in unit if node not in self.late}

    @contextmanager
    def at(self, once: bool) -> Iterator[None]:
        """What is built is computed once, or once a tile."""
        if not once:
            yield
            return
        with self.build.outside(self.depth):
            yield

    # -- values

    def zeros(self, axes: str, blocks: int = 1) -> Value:
        """blocks: how many vectors' tokens lie upon one another."""
        rows = {"T": "TOKENS", "R": f"{power_of_two(blocks)} * TOKENS", "P": "PLACES"}
        extents = [rows.get(axis) or self.shapes.extent(axis) for axis in axes]
        return self.build.zeros(axes, extents)

    def turned(self, value: Value) -> Value:
        """Tokens' vectors with tokens last."""
        return self.build.again(self.build.turned(value, Wish(f"{value.name}_turned")))

    def spread(self, value: Value, axes: str, name: str | None = None) -> Value:
        """The value with all of the axes. name: of one that had not."""
        if value.axes == axes:
            return value
        return self.build.add(value, self.zeros(axes), name)

    def real(self, value: Value, name: str | None = None) -> Value:
        """Zeros for the tokens that only fill the tile up."""
        return self.build.where(self.lanes.real_token, value, 0.0, name)
