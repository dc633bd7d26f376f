"""What tensor cores multiply in a window: inputs as they came, columns row upon row, and all
tokens' columns with all tokens' keys.

A vector that is an input times a number for each head goes into products as it is given, and the
number comes after.
"""

from __future__ import annotations

from kvgen.algebra.graph import Node, reachable, users_of
from kvgen.algebra.naming import described
from kvgen.codegen.operands import component, input_of, times_input
from kvgen.functions.registry import reduces
from kvgen.ir.passes.once import ONCE
from kvgen.ir.values import Helper, Value, Wish
from kvgen.runtime.numbers import power_of_two
from kvgen.schedules.windows.decays import DOT
from kvgen.schedules.windows.frame import Frame

STACK, OWN = Helper("_stack"), Helper("_own")


class Products:
    """The products of one window's columns and keys. vectors: by node the input and the number.
    came: inputs as they came."""

    def __init__(self, frame: Frame) -> None:
        self.frame, form = frame, frame.form
        self.vectors: dict[Node, tuple[Node, Node]] = {}
        self.came: dict[Node, Value] = {}
        self.products: dict[tuple[Value, Value], Value] = {}
        back = {read.axes.channels for read in form.reads}
        for node in dict.fromkeys((*form.columns, *form.keys)):
            near = node.axes.channels
            found = times_input(form, node)
            # a decay over the channels, or what is read back along them, needs the product itself
            if found is None or node in frame.late or form.decay(near) or near in back:
                continue
            self.vectors[node] = found

    def load(self) -> None:
        """Bring the inputs in, and see to it that numbers are there where their vectors are."""
        frame, names = self.frame, self.frame.names
        for node, (raw, scale) in self.vectors.items():
            if raw not in self.came:
                name = names.get(raw) or component(raw)
                with frame.at(raw in frame.unit):
                    self.came[raw] = frame.inputs.stored(raw, f"{name}_given")
                    wide = frame.build.cast(self.came[raw], "float", name)
                    frame.token.known[raw] = wide
            names.setdefault(scale, str(described(scale, names) or f"{component(raw)}_scale"))
            if node in frame.unit:
                frame.unit.add(scale)

    def number(self, node: Node) -> Value | None:
        """What an input's vector is times in the given node, for every token; None for 1."""
        scale = self.vectors[node][1]
        with self.frame.at(node in self.frame.unit):
            number = self.times(scale)
            return None if number is None else self.frame.spread(number, "T", "scale")

    def times(self, scale: Node) -> Value | None:
        """The number itself."""
        return None if scale.is_number(1.0) else self.frame.token.emit([scale])[0]

    def operands(self) -> list[list[Node]]:
        """The vectors that go through the state together: a tensor core takes sixteen rows at a
        time, used or not. A prompt's fill them."""
        columns = self.frame.form.columns
        if self.frame.prompt:
            return [[column] for column in columns]
        by_channel = ([c for c in columns if c.axes.channels == near] for near in ("K", "V"))
        return [each for each in by_channel if each]

    def stacked(self, values: list[Value]) -> Value:
        """The values row upon row, a power of two of them: the last stands for those that lack."""
        values = values + values[-1:] * (power_of_two(len(values)) - len(values))
        while len(values) > 1:
            name = "columns" if len(values) == 2 else None
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [self._upon(first, second, name) for first, second in pairs]
        return values[0]

    def _upon(self, first: Value, second: Value, name: str | None) -> Value:
        kind = first.type if first.type == second.type else "float"
        axes = "R" + first.axes[1:]
        return self.frame.build.helper(STACK, first, second, axes=axes, type=kind, name=name)

    def of(self, asked: Value, near: Value) -> Value:
        """Every token's column with every token's key."""
        frame, pair = self.frame, (asked, near)
        if pair not in self.products:
            self.products[pair] = frame.build.dot(asked, frame.turned(near), DOT, name="scores")
        return self.products[pair]

    def block(self, whole: Value, place: int, count: int, name: str | None = None) -> Value:
        """Of so many blocks of rows, which lie upon one another, the one at a place."""
        if count == 1:
            return whole
        helper = Helper("_block", (str(place), str(power_of_two(count))))
        axes, name = "T" + whole.axes[1:], name or Wish(f"{whole.name}_of_{place}")
        build = self.frame.build
        return build.again(build.helper(helper, whole, axes=axes, name=name))

    def own(self, carried: bool = False) -> None:
        """What a token's own vectors give with each other, where those of all tokens are
        multiplied anyway: a key is then as long as its products with keys like it say, however
        those are rounded, and what stays of a write that it erases does not add up.

        carried: of vectors whose numbers follow from carried states, which are there by then.
        """
        frame, form = self.frame, self.frame.form
        build, token = frame.build, frame.token
        asked = self._asked_as_given()
        near = [self.vectors[key][0] for key in form.keys if key in self.vectors]
        nodes = reachable(frame.roots)
        following = users_of(nodes, {carry.before for carry in form.carries})
        for node in nodes:
            if not reduces(node) or node.args[0].op != "mul" or node not in frame.unit:
                continue
            if (node in following) != carried:
                continue
            sides = node.args[0].args
            pairs = [(side, raw) for side in sides if (raw := input_of(side)) is not None]
            if len(pairs) < 2:
                continue
            if pairs[0][1] not in asked or pairs[1][1] not in near:
                pairs.reverse()
            (one, first), (other, second) = pairs
            if first not in asked or second not in near:
                continue
            scales = [x[1] for side in (one, other) if (x := times_input(form, side))]
            whole, place, count = asked[first]
            scores = self.block(self.of(whole, self.came[second]), place, count)
            found = build.helper(OWN, scores, frame.lanes.token, axes="T")
            found = build.times(found, *map(self.times, scales))
            token.known[node] = build.helper(ONCE, found, name=token.name(node))

    def _asked_as_given(self) -> dict[Node, tuple[Value, int, int]]:
        """The inputs that ask: the rows they lie in, at which place of how many."""
        found: dict[Node, tuple[Value, int, int]] = {}
        for columns in self.operands():
            if all(column in self.vectors for column in columns):
                raw = [self.vectors[column][0] for column in columns]
                whole = self.stacked([self.came[each] for each in raw])
                found |= {each: (whole, place, len(raw)) for place, each in enumerate(raw)}
        return found
