"""A window's vectors that are an input times a number for each head: the input goes into products
as it is given, and the number comes after."""

from __future__ import annotations

from kvgen.algebra.graph import Node
from kvgen.codegen.operands import component, emit_number, load_given, times_input
from kvgen.codegen.windows.frame import Frame


class Given:
    """vectors: by node the input and the number. loaded: what inputs are called as they came."""

    def __init__(self, frame: Frame) -> None:
        self.frame, form = frame, frame.form
        self.vectors: dict[Node, tuple[Node, Node]] = {}
        self.loaded: dict[Node, str] = {}
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
        frame = self.frame
        for node, (raw, scale) in self.vectors.items():
            if raw not in self.loaded:
                called = component(raw)
                self.loaded[raw] = load_given(frame.token, raw, called, frame.level(raw))
            frame.token.call(scale, f"{component(raw)}_scale")
            if node in frame.unit:
                frame.unit.add(scale)

    def number(self, node: Node) -> str | None:
        """What an input's vector is times in the given node, for every token; None for 1."""
        _, scale = self.vectors[node]
        level = self.frame.level(node)
        number = emit_number(self.frame.token, scale, level)
        return self.frame.named(number, "T", "scale", level) if number else None
