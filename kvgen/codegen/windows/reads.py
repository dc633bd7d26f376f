"""What a window's tokens read of the stored state and the buffer, without what they write."""

from __future__ import annotations

from kvgen.algebra.graph import Node
from kvgen.codegen.scopes import Buffer, buffer_scope
from kvgen.codegen.tokens import Column, Read, Stack, block
from kvgen.codegen.windows.decays import Decays
from kvgen.codegen.windows.frame import Frame
from kvgen.codegen.windows.given import Given
from kvgen.codegen.windows.products import Products


class Reads:
    """The reads of one window."""

    def __init__(self, frame: Frame, given: Given, decays: Decays, products: Products) -> None:
        self.frame, self.given = frame, given
        self.decays, self.products = decays, products

    def found(self) -> dict[Node, Read]:
        """For every read its value without the window's writes.

        The columns of one channel go through the state, and against the buffer, as one operand,
        row upon row: a tensor core takes sixteen rows at a time, used or not. A prompt's fill them.
        """
        frame, buffer = self.frame, self.buffer()
        stacks: list[Stack] = []
        for columns in self.products.operands():
            near = columns[0].axes.channels
            at_unit = all(column in frame.unit for column in columns)
            at_unit = at_unit and (near != "K" or frame.keys_at_unit)
            level = frame.scope.unit if at_unit else frame.scope.tile
            sides = [self._column(column, buffer, level) for column in columns]
            buffered = self.products.stacked([side.buffered for side in sides], level)
            asked = self.products.stacked([side.asked for side in sides], level)
            stacks.append(Stack(near, at_unit, columns, sides, buffered, asked))
        wholes = self.of_stacks(stacks, buffer)
        found: dict[Node, Read] = {}
        for node in frame.form.reads:
            index = next(i for i, stack in enumerate(stacks) if node.args[0] in stack.columns)
            stack = stacks[index]
            place = stack.columns.index(node.args[0])
            side = stack.sides[place]
            text = block(wholes[index], place, stack.count)
            base = self._base(node, text, buffer, side.number)
            found[node] = Read(node, base, node.axes.channels, place, side, stack)
        return found

    def buffer(self) -> Buffer:
        """What is read back from the buffer; a block of a prompt has the state alone before it, and
        so has a window where no record outlives its step."""
        frame, form, token, scope = self.frame, self.frame.form, self.frame.token, self.frame.scope
        buffer = Buffer()
        keys = scope.unit if frame.keys_at_unit else scope.tile
        if not frame.prompt and not form.emptied:
            shape = (form, frame.records, frame.shapes, frame.per_head)
            buffer = buffer_scope(*shape, token, self.given.vectors)
            scope.unit += buffer.unit
            keys += buffer.token
            scope.tile += buffer.tile
        elif frame.prompt and form.factored:
            # a block's columns are scaled by what has decayed since its start
            (kept,) = token.emit([form.graph.exp(form.factored.before)])
            keys += token.take()
            buffer.kept["K"] = kept.text
        return buffer

    def of_stacks(self, stacks: list[Stack], buffer: Buffer) -> list[str]:
        """What every stack of columns reads of the stored state and of the buffer."""
        scope = self.frame.scope
        found: list[str] = []
        for stack in stacks:
            whole = self.frame.name(self.of_state(stack, buffer), "found", scope.tile)
            at_unit = stack.near == "K" and stack.at_unit
            level = scope.unit if at_unit else scope.tile
            scope.tile += self.of_buffer(stack, buffer, whole, level)
            found.append(whole)
        return found

    def of_state(self, stack: Stack, buffer: Buffer) -> str:
        """The columns through the stored state, with what is left of that."""
        near, far = stack.near, "V" if stack.near == "K" else "K"
        columns = stack.buffered
        # a prompt reads the state as precisely as it is kept
        kept = self.frame.form.spec.storage.state.rounds
        rounded = ", rough=True" if self.frame.prompt and kept else ""
        if self.decays.summed(near) and near in buffer.kept:
            columns = f"{columns} * {buffer.kept[near]}[None, :]"
        text = f"_dot({columns}, {'state' if near == 'K' else 'tl.trans(state)'}{rounded})"
        if "" in buffer.kept:
            text += f" * {buffer.kept['']}"
        if self.decays.summed(far) and far in buffer.kept:
            text += f" * {buffer.kept[far]}[None, :]"
        return text

    def of_buffer(self, stack: Stack, buffer: Buffer, whole: str, level: list[str]) -> list[str]:
        """The columns against a tile of places; scores are computed at `level`."""
        # beside a state that is read in 16 bits
        narrow = self.frame.form.spec.storage.state.narrow and not self.frame.records.exact
        rough = ", rough=True" if narrow else ""
        lines: list[str] = []
        for near_side, far_side, number in buffer.sides(stack.near):
            text = f"_dot({stack.buffered}, tl.trans({near_side}){rough})"
            if number:
                text += f" * {number}[None, :]"
            score = self.frame.name(text, "score", level)
            weighted = f"{score} * {buffer.weight}[None, :]" if buffer.weight else score
            lines.append(f"{whole} += _dot({weighted}, {far_side}{rough})")
        return lines

    def _column(self, node: Node, buffer: Buffer, level: list[str]) -> Column:
        frame, near = self.frame, node.axes.channels
        if node in self.given.vectors:
            name = self.given.loaded[self.given.vectors[node][0]]
            return Column(name, name, self.given.number(node))
        plain = frame.named(frame.token.clean(node), "T" + near, "column", level)
        if self.decays.summed(near):
            text = f"{plain} * {self.decays.since_start(near)}"
            return Column(frame.name(text, "column", level), plain)
        if near == "K" and frame.form.factored:
            plain = frame.name(f"{plain} * {buffer.kept[near]}", "column", level)
        return Column(plain, plain)

    def _base(self, node: Node, text: str, buffer: Buffer, number: str | None) -> str:
        """One read of the window's tokens, without what the window itself writes."""
        frame, far = self.frame, node.axes.channels
        scales = ["tl.exp(path)[:, None]"] if self.decays.summed("") else []
        if number:
            scales = [f"({number} * tl.exp(path))[:, None]" if scales else f"{number}[:, None]"]
        if self.decays.summed(far):
            scales.append(self.decays.since_start(far))
        if frame.form.factored and far == "K":
            scales.append(buffer.kept["K"])
        wanted = (frame.form.graph.names.get(node) or "read") + "_base"
        return frame.name(" * ".join([text, *scales]), wanted, frame.scope.tile)
