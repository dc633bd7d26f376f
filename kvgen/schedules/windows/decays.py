"""What decays within a window: logs summed along each token's ancestors, and products that bring
what has decayed between two tokens."""

from __future__ import annotations

from kvgen.algebra.form import Decay
from kvgen.codegen.names import by_channel
from kvgen.functions.exp import EXP
from kvgen.functions.maximum import MAXIMUM
from kvgen.ir.values import Helper, Value, Wish
from kvgen.schedules.token import newest_sum
from kvgen.schedules.windows.frame import Frame

PATH, LOG, SINCE, REST, LASTING = (
    by_channel(name) for name in ("path", "log", "since", "rest", "lasting")
)
# how columns and keys are scaled for products to bring what has decayed between them
SCALES = ("lead", "tail", "up", "down")
DOT, ALONG = Helper("_dot"), Helper("_along")
BETWEEN, IN_PROMPT = Helper("_between"), Helper("_between_in_prompt")


class Decays:
    """The decays of one window, by the channel that they depend on. log: of each token. path: their
    sums along its ancestors. weights: what has decayed between two tokens of a head. scales: of
    columns and keys. since, rest, lasting: over the blocks of a prompt's, for columns, for keys and
    of the state."""

    weights: Value | None = None

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.log: dict[str, Value] = {}
        self.path: dict[str, Value] = {}
        self.scales: dict[str, list[Value]] = {}
        self.since: dict[str, Value] = {}
        self.rest: dict[str, Value] = {}
        self.lasting: dict[str, Value] = {}

    def find(self, once: bool) -> None:
        """For each decay the sum of its logs along a token's ancestors: of those that are computed
        once, or of the others."""
        for decay in self.frame.form.decays:
            if (decay.log in self.frame.unit) == once:
                with self.frame.at(once):
                    self._find(decay)

    def _find(self, decay: Decay) -> None:
        frame, build, channel = self.frame, self.frame.build, decay.channel
        frame.token.emit([decay.log])
        log = frame.spread(frame.token.clean(decay.log), "T" + channel, LOG[channel])
        factored = frame.form.factored if channel == "K" else None
        if channel:
            least = build.function(MAXIMUM, log, build.number(-1e30))
            self.log[channel] = frame.real(least, LOG[channel])
            self._of_channels(channel)
        else:
            self.log[""] = log
            self.path[""] = build.helper(ALONG, frame.ancestors, log, axes="T", name="path")
            helper = IN_PROMPT if frame.prompt else BETWEEN
            between = build.helper(helper, frame.ancestors, log, axes="TS")
            left = build.function(EXP, between)
            self.weights = build.where(frame.ancestors, left, 0.0, "weights")
        if factored:
            before = self.path["K"]
            if not frame.prompt:
                newest = newest_sum(build, frame.lanes, frame.form, frame.records)
                before = build.add(before, newest, "decay_sum_before")
            frame.token.known[factored.before] = before

    def _of_channels(self, channel: str) -> None:
        """The sums of what decays channel by channel, or the scales that bring them."""
        frame, build, log = self.frame, self.frame.build, self.log[channel]
        axes, token, lane = "T" + channel, frame.lanes.token, {"K": "key", "V": "value"}[channel]
        ancestors = build.cast(frame.ancestors, "float")
        if self.scaled(channel):
            turned = () if frame.prompt else ("True",)
            whole = build.helper(Helper("_scales", ("TOKENS", *turned)), log, token, axes=axes)
            names = [f"{lane}_{part}" for part in SCALES]
            self.scales[channel] = build.parts(whole, axes, names)
        if self.in_blocks(channel):
            lead, tail, *_ = self.scales[channel]
            helper = Helper("_over_blocks", ("TOKENS",))
            whole = build.helper(helper, log, lead, tail, token, axes=axes)
            names = [SINCE[channel], REST[channel], LASTING[channel]]
            parts = build.parts(whole, (axes, axes, channel), names)
            self.since[channel], self.rest[channel], self.lasting[channel] = parts
        elif self.scaled(channel):
            helper = Helper("_sums", (str(not frame.prompt),))
            self.path[channel] = build.helper(helper, ancestors, log, axes=axes, name=PATH[channel])
        else:
            self.path[channel] = build.dot(ancestors, log, DOT, name=PATH[channel])

    def summed(self, channel: str) -> bool:
        """Whether a decay over the channel has logs that are summed."""
        return any(decay.channel == channel for decay in self.frame.form.summed_decays)

    def scaled(self, channel: str) -> bool:
        """Whether products of scaled vectors bring what decays by this channel within the window,
        where its tokens follow one another."""
        return any(decay.channel == channel for decay in self.frame.form.scaled_decays)

    def in_blocks(self, channel: str) -> bool:
        """Whether that is also what scales columns that read the state, and keys that go there."""
        return self.frame.prompt and self.scaled(channel)

    def since_start(self, channel: str) -> Value:
        """What has decayed in the window before each token, for every channel."""
        if channel in self.since:
            return self.since[channel]
        build, name = self.frame.build, by_channel("since_start")[channel]
        return build.again(build.function(EXP, self.path[channel], name=Wish(name)))

    def product(
        self, kind: str, first: Value, second: Value, channel: str, name: str | None = None
    ) -> Value:
        """A product over tokens or channels, `mix` or `scores`, with what decays by `channel`
        between its tokens."""
        frame, build = self.frame, self.frame.build
        axes, token = "TS" if kind == "scores" else second.axes, frame.lanes.token

        def called(way: str, *args: Value) -> Value:
            helper = Helper(f"_{way}_{kind}", ("TOKENS",))
            return build.helper(helper, first, second, *args, token, axes=axes, name=name)

        pairs = self.log[channel], frame.ancestors
        if not self.scaled(channel):
            return called("pair", *pairs)
        if frame.prompt:
            return called("block", *self.scales[channel])
        # along the paths of a tree there is no one sum that the others are parts of
        with build.when("TREE"):
            of_tree = called("pair", *pairs)
        with build.when("TREE", holds=False):
            of_chain = called("block", *self.scales[channel])
        return build.either("TREE", of_tree, of_chain)

    def end(self) -> None:
        """What a block of a prompt leaves of the state, and of what its tokens write."""
        frame, build = self.frame, self.frame.build
        later = build.given("later", "TS", "bool")
        for channel in ("", "K", "V"):
            if channel not in self.log:
                continue
            log, blocks = self.log[channel], self.in_blocks(channel)
            if not channel:
                log = frame.real(log, "real_log")
            if not blocks:
                whole = build.sum(log, "T")
                self.lasting[channel] = build.function(EXP, whole, name=LASTING[channel])
            if frame.form.factored and channel == "K":
                # of keys that are raised, what they write decays as well
                continue
            if not blocks and channel:
                behind = build.dot(build.cast(later, "float"), log, DOT, name=Wish("behind"))
                self.rest[channel] = build.function(EXP, behind, name=REST[channel])
            elif not blocks:
                behind = build.helper(ALONG, later, log, axes="T")
                self.rest[channel] = build.function(EXP, behind, name=REST[channel])
            build.move(frame.state, build.mul(frame.state, self.lasting[channel]))
