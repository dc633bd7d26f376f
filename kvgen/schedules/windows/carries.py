"""A window's carried states, which go along the parents: after turn n every token with at most n
ancestors is right."""

from __future__ import annotations

from kvgen.algebra.form import Carry
from kvgen.algebra.graph import reachable, users_of
from kvgen.ir.values import Helper, Value
from kvgen.schedules.token import carried_at
from kvgen.schedules.windows.frame import Frame

FROM_PARENT = {"": Helper("_from_parent")}
FROM_PARENT |= dict.fromkeys("KV", Helper("_from_parent_channels"))


class Carries:
    """The carried states of one window, before each token and after the last. contexts: as they
    stand before the window, by their names."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.contexts: dict[str, Value] = {}

    def chain(self) -> None:
        """Carried states that follow from inputs alone, from parent to child."""
        frame, carries = self.frame, self.frame.early_carries
        if not carries:
            return
        nodes = reachable([carry.after for carry in carries])
        users = users_of(nodes, {carry.before for carry in carries})
        ready = {
            arg: None for node in nodes if node in users for arg in node.args if arg not in users
        }
        frame.token.emit([node for node in ready if not node.is_const])
        for carry in carries:
            self.start(carry)
        turn = frame.token.again("_turn", {})
        with frame.build.loop("turn", "TOKENS - 1", None):
            turn.emit([carry.after for carry in carries])
            for carry in carries:
                self.move(carry, turn.value(carry.after))

    def start(self, carry: Carry) -> None:
        """The carried state before each token, right for those without a parent."""
        frame, name, channel = self.frame, carry.tensor.name, carry.axes.channels
        lanes, build = frame.lanes, frame.build
        called = f"{name}_context"
        if frame.prompt:
            context = build.given(called, channel, "float")
        else:
            pointer, offset = carried_at(lanes, frame.form, carry, lanes.after(lanes.count))
            real = lanes.real(channel)
            mask = build.every(*real) if real else None
            context = build.load(pointer, offset, mask, called, type="float")
        self.contexts[name] = context
        begun = build.add(frame.zeros("T" + channel), context)
        frame.token.known[carry.before] = build.variable(begun, f"{name}_before")

    def move(self, carry: Carry, after: Value) -> None:
        """Each token's value before, from its parent's after."""
        frame, channel = self.frame, carry.axes.channels
        build, axes = frame.build, "T" + channel
        args = (frame.spread(after, axes), build.given("parent", "T"), frame.lanes.token)
        context = self.contexts[carry.tensor.name]
        above = build.helper(FROM_PARENT[channel], *args, context, axes=axes)
        build.move(frame.token.known[carry.before], above)

    def end(self) -> None:
        """What a block of a prompt leaves to the next: the values after its last token."""
        frame, build = self.frame, self.frame.build
        for carry in frame.form.carries:
            value = frame.spread(frame.token.value(carry.after), "T" + carry.axes.channels)
            chosen = build.where(frame.lanes.last, value, 0.0)
            build.move(self.contexts[carry.tensor.name], build.sum(chosen, "T"))
