"""A decode's reads of the stored state on tensor cores.

The vectors that read the state stand side by side as the columns of one operand, which a tile of
the state is multiplied with. A vector that is an input times a number goes in as it came; any other
takes two passes, one for each half of its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node
from kvgen.codegen.kernels import Shapes
from kvgen.codegen.operands import component, emit_number, filled, load_given, times_input
from kvgen.codegen.printer import PRODUCT, Emission

# what a tensor core contracts at a time
LEAST = 16


@dataclass(frozen=True)
class Read:
    """One read: its name, the column's text, the contracted channel and the one it gives.

    scale: what of the stored state is left along the given channel, as a text, or None.
    terms: for every write, the text of the far side at all places, and of the weighted scores.
    """

    name: str
    column: str
    near: str
    far: str
    scale: str | None
    terms: tuple[tuple[str, str], ...]


def offered(form: Form) -> bool:
    """Whether a decode may read the stored state on tensor cores: what it reads is bfloat16."""
    state = form.spec.storage.state
    read = state.dots and not (state.partial and form.carries_read)
    return read and bool(form.reads) and form.spec.size("K") > LEAST // 2


class Columns:
    """The operands of one decode. unit: the nodes that are computed once a program."""

    def __init__(self, form: Form, shapes: Shapes, token: Emission, unit: set[Node]) -> None:
        self.form, self.shapes, self.token, self.unit = form, shapes, token, unit
        # column -> how its input is called, and the number
        self.given: dict[Node, tuple[str, Node]] = {}
        # lines once a program and once a tile, before anything is computed
        self.lines: tuple[list[str], list[str]] = ([], [])
        names: dict[Node, str] = {}
        for column in form.columns:
            near = column.axes.channels
            found = times_input(form, column)
            # what decays along the channel is no longer the input
            if found is None or column.reads or form.decay(near):
                continue
            raw, number = found
            if raw not in names:
                level = self.lines[0 if raw in unit else 1]
                names[raw] = load_given(token, raw, component(raw), level)
            self.given[column] = names[raw], number

    def operands(self, reads: Sequence[Read], unit: list[str], tile: list[str]) -> list[str]:
        """Lines that give every read its part of the stored state; the operands are made in `unit`
        or `tile`, as early as they can be."""
        lines: list[str] = []
        for near in ("K", "V"):
            columns = [column for column in self.form.columns if column.axes.channels == near]
            if columns:
                lines += self._through(near, columns, reads, unit, tile)
        return lines

    def _through(
        self,
        near: str,
        columns: list[Node],
        reads: Sequence[Read],
        unit: list[str],
        tile: list[str],
    ) -> list[str]:
        form, token = self.form, self.token
        by_node = dict(zip(form.reads, reads, strict=True))
        level = unit if all(column in self.unit for column in columns) else tile
        texts: list[str] = []
        for column in columns:
            read = next(read for node, read in by_node.items() if node.args[0] is column)
            texts.append(self.given[column][0] if column in self.given else read.column)
        texts = filled(texts)
        operand = token.namer.new("columns")
        level.append(f"{operand} = {_side_by_side(texts, self.shapes.extent(near))}")
        state = "tl.trans(state)" if near == "K" else "state"
        found = f"_times({state}, {operand})"
        extent = self.shapes.extent("V" if near == "K" else "K")
        names, lines = self._split(found, len(texts), extent)
        for node, read in by_node.items():
            if node.args[0].axes.channels == near:
                factors = [
                    names[columns.index(node.args[0])],
                    *([read.scale] if read.scale else []),
                ]
                factors += self._number(node.args[0], unit, tile)
                lines.append(f"{read.name} = {' * '.join(factors)}")
        return lines

    def _number(self, column: Node, unit: list[str], tile: list[str]) -> list[str]:
        """What the input is still to be times, if anything."""
        if column not in self.given:
            return []
        level = unit if column in self.unit else tile
        number = emit_number(self.token, self.given[column][1], level)
        return [number.inside(PRODUCT + 1)] if number else []

    def _split(self, found: str, count: int, extent: str) -> tuple[list[str], list[str]]:
        """The columns of a product one by one: their names, and the lines that name them."""
        new = self.token.namer.new
        if count == 1:
            name = new("found")
            return [name], [f"{name} = tl.sum({found}, 1)"]
        if count > 2:
            found = f"tl.reshape({found}, ({extent}, {', '.join('2' * (count.bit_length() - 1))}))"
        parts, lines = [found], []
        while len(parts) < count:
            halves: list[str] = []
            for part in parts:
                first, second = new("found"), new("found")
                lines.append(f"{first}, {second} = tl.split({part})")
                halves += [first, second]
            parts = halves
        return parts, lines


def _side_by_side(texts: list[str], extent: str) -> str:
    """The vectors as the columns of [extent, count]; halves of them first, as they split again."""
    if len(texts) == 1:
        return f"{texts[0]}[:, None]"

    def joined(texts: list[str]) -> str:
        if len(texts) == 1:
            return texts[0]
        half = len(texts) // 2
        return f"_beside({joined(texts[:half])}, {joined(texts[half:])})"

    whole = joined(texts)
    return whole if len(texts) == 2 else f"tl.reshape({whole}, ({extent}, {len(texts)}))"
