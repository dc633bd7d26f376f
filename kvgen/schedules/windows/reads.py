"""What a window's tokens read of the stored state and the buffer, without what they write."""

from __future__ import annotations

from dataclasses import dataclass, field

from kvgen.algebra.graph import Node
from kvgen.functions.exp import EXP
from kvgen.ir.values import Helper, Value, Wish
from kvgen.schedules.buffered import Buffered
from kvgen.schedules.windows.decays import DOT, Decays
from kvgen.schedules.windows.frame import Frame
from kvgen.schedules.windows.products import Products

ROUGH = Helper("_dot", ("rough=True",))


@dataclass(frozen=True)
class Column:
    """A column as it meets what came before the window, and the window's own keys; number: what
    each token's is still to be times, where only its input is here."""

    buffered: Value
    asked: Value
    number: Value | None = None


@dataclass(frozen=True)
class Stack:
    """The columns of one channel, row upon row, in the same two ways."""

    near: str
    at_unit: bool
    columns: list[Node]
    sides: list[Column]
    buffered: Value
    asked: Value


@dataclass
class Read:
    """One read: what it gives without the window's writes, its column's place among those of its
    stack, and its scores against writes that need no read."""

    node: Node
    base: Value
    place: int
    side: Column
    stack: Stack
    scores: dict[int, Value] = field(default_factory=dict)


@dataclass
class Held:
    """What the buffer holds: what is left of the state, by channel, and of each record; keys, with
    what their scores are still to be times, and values."""

    kept: dict[str, Value] = field(default_factory=dict)
    weight: Value | None = None
    keys: list[tuple[Value, Value | None]] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    def sides(self, near: str) -> list[tuple[Value, Value, Value | None]]:
        """Of every write what meets a column over `near`, what comes back, and the key's number."""
        pairs = zip(self.keys, self.values, strict=True)
        if near == "K":
            return [(key, value, number) for (key, number), value in pairs]
        return [(value, key, None) for (key, _), value in pairs]


class Reads:
    """The reads of one window."""

    def __init__(self, frame: Frame, decays: Decays, products: Products) -> None:
        self.frame, self.decays, self.products = frame, decays, products
        spec, records = frame.form.spec, frame.records
        # beside a state that is read in 16 bits, the buffer is read with little more
        narrow = spec.storage.state.narrow and not records.exact
        self.of_held = ROUGH if narrow else DOT
        # a prompt reads the state as precisely as it is kept
        self.of_stored = ROUGH if frame.prompt and spec.storage.state.rounds else DOT
        self.buffered = Buffered(frame.token, frame.form, records, frame.lanes)

    def found(self) -> dict[Node, Read]:
        """For every read its value without the window's writes. The columns of one channel go
        through the state, and against the buffer, as one operand, row upon row."""
        frame, held = self.frame, self.held()
        stacks: list[Stack] = []
        for columns in self.products.operands():
            near = columns[0].axes.channels
            at_unit = all(column in frame.unit for column in columns)
            at_unit = at_unit and (near != "K" or frame.keys_at_unit)
            with frame.at(at_unit):
                sides = [self._column(column, held) for column in columns]
                buffered = self.products.stacked([side.buffered for side in sides])
                asked = self.products.stacked([side.asked for side in sides])
            stacks.append(Stack(near, at_unit, columns, sides, buffered, asked))
        wholes = self.of_stacks(stacks, held)
        found: dict[Node, Read] = {}
        for node in frame.form.reads:
            index = next(i for i, stack in enumerate(stacks) if node.args[0] in stack.columns)
            stack = stacks[index]
            place = stack.columns.index(node.args[0])
            side = stack.sides[place]
            name = (frame.form.graph.names.get(node) or "read") + "_base"
            scales = self._scales(node, held, side.number)
            own = None if scales else name
            base = self.products.block(wholes[index], place, len(stack.columns), own)
            base = frame.build.times(base, *scales, name=name)
            found[node] = Read(node, base, place, side, stack)
        return found

    def held(self) -> Held:
        """What is read back from the buffer; a block of a prompt has the state alone before it, and
        so has a window where no record outlives its step."""
        frame, form, buffered = self.frame, self.frame.form, self.buffered
        found, recorded = Held(), not self.frame.prompt and not self.frame.form.emptied
        if recorded:
            for decay in form.summed_decays:
                with frame.at(frame.single and decay.channel != "V"):
                    buffered.sum_up(decay, oldest_last=True)
            with frame.at(True):
                keys = self.keys()
            found = Held(dict(buffered.kept), buffered.weight, keys)
        if form.factored:
            # keys that are recorded before their decay have all of it in what reads them
            with frame.at(frame.keys_at_unit):
                before = frame.token.known[form.factored.before]
                found.kept["K"] = frame.build.function(EXP, before, name="kept_key")
        if recorded:
            found.values = self.buffered.values_given()
        return found

    def keys(self) -> list[tuple[Value, Value | None]]:
        """Of every write, as recorded inputs where columns meet these."""
        return self.buffered.keys_given(lambda key: key in self.products.vectors)

    def of_stacks(self, stacks: list[Stack], held: Held) -> list[Value]:
        """What every stack of columns reads of the stored state and of the buffer."""
        found: list[Value] = []
        for stack in stacks:
            stored = self.of_state(stack, held, None if held.values else "found")
            found.append(self.of_buffer(stack, held, stored, stack.near == "K" and stack.at_unit))
        return found

    def of_state(self, stack: Stack, held: Held, name: str | None = None) -> Value:
        """The columns through the stored state, with what is left of that."""
        build, near, far = self.frame.build, stack.near, "V" if stack.near == "K" else "K"
        columns, kept = stack.buffered, held.kept
        if self.decays.summed(near) and near in kept:
            columns = build.mul(columns, kept[near])
        left = [kept[each] for each in ("", far) if self.decays.summed(each) and each in kept]
        tile = self.frame.state if near == "K" else build.turned(self.frame.state)
        found = build.dot(
            columns, tile, self.of_stored, name=Wish("term") if left else name or Wish("")
        )
        return build.times(found, *left, name=name)

    def of_buffer(self, stack: Stack, held: Held, found: Value, once: bool) -> Value:
        """With the columns against a tile of places. once: whether their scores are."""
        frame, build = self.frame, self.frame.build
        sides = held.sides(stack.near)
        for index, (near_side, far_side, number) in enumerate(sides, 1):
            with frame.at(once):
                near = build.turned(near_side)
                name = Wish("term") if number else "score"
                score = build.dot(stack.buffered, near, self.of_held, name=name)
                score = build.times(score, number, name="score")
            weighted = build.times(score, held.weight)
            more = build.dot(weighted, far_side, self.of_held, name=Wish("term"))
            last = index == len(sides) and found.op != "variable"
            found = build.add(found, more, "found" if last else None)
        return found

    def _column(self, node: Node, held: Held) -> Column:
        frame, build, near = self.frame, self.frame.build, node.axes.channels
        if node in self.products.vectors:
            came = self.products.came[self.products.vectors[node][0]]
            return Column(came, came, self.products.number(node))
        plain = frame.spread(frame.token.clean(node), "T" + near, "column")
        if self.decays.summed(near):
            decayed = build.mul(plain, self.decays.since_start(near), "column")
            return Column(decayed, plain)
        if near == "K" and frame.form.factored:
            plain = build.mul(plain, held.kept[near], "column")
        return Column(plain, plain)

    def _scales(self, node: Node, held: Held, number: Value | None) -> list[Value]:
        """What a read of the window's tokens is still to be times, without what the window itself
        writes."""
        frame, far = self.frame, node.axes.channels
        since = self.decays.since_start("") if self.decays.summed("") else None
        numbers = [each for each in (number, since) if each is not None]
        scales = [frame.build.times(*numbers)] if numbers else []
        if self.decays.summed(far):
            scales.append(self.decays.since_start(far))
        if frame.form.factored and far == "K":
            scales.append(held.kept["K"])
        return scales
