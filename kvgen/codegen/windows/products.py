"""What tensor cores multiply in a window: columns row upon row, and all tokens' columns with all
tokens' keys, each product computed once."""

from __future__ import annotations

from kvgen.algebra.graph import Node, reachable
from kvgen.codegen.operands import emit_number, filled, times_input
from kvgen.codegen.printer import PRODUCT, Text
from kvgen.codegen.tokens import block
from kvgen.codegen.windows.frame import Frame
from kvgen.codegen.windows.given import Given
from kvgen.functions.registry import reduces


class Products:
    """The products of one window's columns and keys."""

    def __init__(self, frame: Frame, given: Given) -> None:
        self.frame, self.given = frame, given
        # stacked columns by what they hold, products by what they are products of
        self.stacks: dict[tuple[str, ...], str] = {}
        self.products: dict[tuple[str, str], str] = {}

    def operands(self) -> list[list[Node]]:
        """The vectors that go through the state together."""
        columns = self.frame.form.columns
        if self.frame.prompt:
            return [[column] for column in columns]
        by_channel = ([c for c in columns if c.axes.channels == near] for near in ("K", "V"))
        return [each for each in by_channel if each]

    def stacked(self, texts: list[str], level: list[str]) -> str:
        """The values row upon row, a power of two of them."""
        if len(texts) == 1:
            return texts[0]
        key = tuple(texts)
        if key not in self.stacks:
            texts = filled(texts)
            while len(texts) > 1:
                pairs = zip(texts[::2], texts[1::2], strict=True)
                texts = [f"_stack({first}, {second})" for first, second in pairs]
            self.stacks[key] = self.frame.name(texts[0], "columns", level)
        return self.stacks[key]

    def of(self, asked: str, near: str, level: list[str]) -> str:
        """Every token's column with every token's key."""
        if (asked, near) not in self.products:
            text = f"_dot({asked}, tl.trans({near}))"
            self.products[asked, near] = self.frame.name(text, "scores", level)
        return self.products[asked, near]

    def own(self) -> None:
        """What a token's own vectors give with each other, where those of all tokens are
        multiplied anyway: a key is then as long as its products with keys like it say, however
        those are rounded, and what stays of a write that it erases does not add up."""
        frame, given = self.frame, self.given
        form, token, level = frame.form, frame.token, frame.scope.unit
        asked = self._asked_as_given()
        near = [given.vectors[key][0] for key in form.keys if key in given.vectors]
        for node in reachable(frame.roots):
            if not reduces(node) or node.args[0].op != "mul" or node not in frame.unit:
                continue
            first, second = (times_input(form, side) for side in node.args[0].args)
            if first is None or second is None:
                continue
            if first[0] not in asked or second[0] not in near:
                first, second = second, first
            if first[0] not in asked or second[0] not in near:
                continue
            whole, place, count = asked[first[0]]
            scores = self.of(whole, given.loaded[second[0]], level)
            text = f"_own({block(scores, place, count)}, token)"
            for _, scale in (first, second):
                number = emit_number(token, scale, level)
                text += f" * {number.inside(2)}" if number else ""
            token.bind(node, Text(text, PRODUCT, "T"))
            level += token.take()

    def _asked_as_given(self) -> dict[Node, tuple[str, int, int]]:
        """The inputs that ask: the rows they lie in, at which place of how many."""
        given = self.given
        found: dict[Node, tuple[str, int, int]] = {}
        for columns in self.operands():
            if all(column in given.vectors for column in columns):
                raw = [given.vectors[column][0] for column in columns]
                whole = self.stacked([given.loaded[each] for each in raw], self.frame.scope.unit)
                count = 1 << (len(raw) - 1).bit_length()
                found |= {each: (whole, place, count) for place, each in enumerate(raw)}
        return found
