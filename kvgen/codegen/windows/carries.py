"""A window's carried states, which go along the parents: after turn n every token with at most n
ancestors is right."""

from __future__ import annotations

from kvgen.algebra.form import Carry
from kvgen.algebra.graph import reachable
from kvgen.codegen.addresses import carried_address
from kvgen.codegen.loads import loaded
from kvgen.codegen.printer import ATOM, Text
from kvgen.codegen.tokens import loop, users_of
from kvgen.codegen.windows.frame import Frame


class Carries:
    """The carried states of one window, before each token and after the last."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def chain(self, lines: list[str]) -> None:
        """Carried states that follow from inputs alone, from parent to child."""
        carries = self.frame.early_carries
        if not carries:
            return
        token = self.frame.token
        nodes = reachable([carry.after for carry in carries])
        users = users_of(nodes, {carry.before for carry in carries})
        ready = {
            arg: None for node in nodes if node in users for arg in node.args if arg not in users
        }
        token.emit([node for node in ready if not node.is_const])
        lines += token.take()
        for carry in carries:
            lines += self.start(carry)
        turn = self.frame.turn()
        turn.emit([carry.after for carry in carries])
        body = turn.take()
        moves = [self.move(carry, turn.known[carry.after]) for carry in carries]
        lines += loop("for turn in range(TOKENS - 1):", body + moves)

    def start(self, carry: Carry) -> list[str]:
        """The carried state before each token, right for those without a parent."""
        frame, channel = self.frame, carry.axes.channels
        name = frame.token.namer.new(f"{carry.tensor.name}_before")
        frame.token.known[carry.before] = Text(name, ATOM, "T" + channel)
        context = self.context(carry)
        width = frame.shapes.extent(channel)
        lines = []
        if not frame.prompt:
            at = carried_address(frame.form, carry.tensor.name, frame.now)
            lines.append(f"{context} = {loaded(at, channel, frame.shapes)}")
        shape = f"[TOKENS, {width}]" if channel else "[TOKENS]"
        row = f"{context}[None, :]" if channel else context
        return [*lines, f"{name} = tl.zeros({shape}, tl.float32) + {row}"]

    def context(self, carry: Carry) -> str:
        """What a carried state is called as it stands before the window."""
        return f"{carry.tensor.name}_context"

    def move(self, carry: Carry, after: Text) -> str:
        """Each token's value before, from its parent's after."""
        channel = carry.axes.channels
        name = self.frame.token.known[carry.before].text
        spread = self.frame.spread(after, "T" + channel)
        helper = "_from_parent_channels" if channel else "_from_parent"
        return f"{name} = {helper}({spread}, parent, token, {self.context(carry)})"

    def end(self, lines: list[str]) -> None:
        """What a block of a prompt leaves to the next: the values after its last token."""
        for carry in self.frame.form.carries:
            channel = carry.axes.channels
            name = self.context(carry)
            value = self.frame.spread(self.frame.token.known[carry.after], "T" + channel)
            chosen = "last[:, None]" if channel else "last"
            lines.append(f"{name} = tl.sum(tl.where({chosen}, {value}, 0.0), 0)")
