"""What decays within a window: logs summed along each token's ancestors, and products that bring
what has decayed between two tokens."""

from __future__ import annotations

from kvgen.algebra.form import Decay
from kvgen.codegen.loads import newest_sum
from kvgen.codegen.names import by_channel
from kvgen.codegen.printer import ATOM, Text
from kvgen.codegen.windows.frame import Frame

PATH, LOG, KEPT, REST, LASTING = (
    by_channel(name) for name in ("path", "log", "since", "rest", "lasting")
)
# how columns and keys are scaled for products to bring what has decayed between them
SCALES = {
    channel: ", ".join(f"{name}_{part}" for part in ("lead", "tail", "up", "down"))
    for channel, name in (("K", "key"), ("V", "value"))
}


class Decays:
    """The decays of one window, by the channel that they depend on."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def paths(self, lines: list[str], at_unit: bool) -> None:
        """For each decay the sum of its logs along a token's ancestors."""
        frame, form, token = self.frame, self.frame.form, self.frame.token
        for decay in form.decays:
            if (decay.log in frame.unit) != at_unit:
                continue
            channel = decay.channel
            token.emit([decay.log])
            lines += token.take()
            log, path = LOG[channel], PATH[channel]
            text = frame.spread(token.clean(decay.log), "T" + channel)
            if not channel:
                lines.append(f"{log} = {text}")
                lines.append(f"{path} = _along(ancestors, {log})")
            else:
                lines.append(f"{log} = {frame.real(f'tl.maximum({text}, -1e30)')}")
                self._channel_paths(channel, lines)
            if form.factored and channel == "K":
                before = f"{path}"
                if not frame.prompt:
                    newest = newest_sum(form, frame.records, frame.shapes).text
                    name = token.namer.new("decay_sum_before")
                    lines.append(f"{name} = {path} + {newest}[None, :]")
                    before = name
                token.known[form.factored.before] = Text(before, ATOM, "TK")
            elif not channel:
                between = "_between_in_prompt" if frame.prompt else "_between"
                weights = f"tl.where(ancestors, tl.exp({between}(ancestors, log)), 0.0)"
                lines.append(f"weights = {weights}")

    def _channel_paths(self, channel: str, lines: list[str]) -> None:
        """The sums of what decays channel by channel, or the scales that bring them."""
        prompt, log = self.frame.prompt, LOG[channel]
        if self.scaled(channel):
            turned = "" if prompt else ", True"
            lines.append(f"{SCALES[channel]} = _scales({log}, token, TOKENS{turned})")
        if self.in_blocks(channel):
            scales = f"{KEPT[channel]}, {REST[channel]}, {LASTING[channel]}"
            lead, tail, *_ = SCALES[channel].split(", ")
            lines.append(f"{scales} = _over_blocks({log}, {lead}, {tail}, token, TOKENS)")
        else:
            summed = f"_sums(ancestors.to(tl.float32), {log}, {not prompt})"
            if not self.scaled(channel):
                summed = f"_dot(ancestors.to(tl.float32), {log})"
            lines.append(f"{PATH[channel]} = {summed}")

    def summed(self, channel: str) -> Decay | None:
        """The decay over the channel whose logs are summed, if there is one."""
        return next((d for d in self.frame.form.summed_decays if d.channel == channel), None)

    def scaled(self, channel: str) -> bool:
        """Whether products of scaled vectors bring what decays by this channel within the window,
        where its tokens follow one another."""
        return any(decay.channel == channel for decay in self.frame.form.scaled_decays)

    def in_blocks(self, channel: str) -> bool:
        """Whether that is also what scales columns that read the state, and keys that go there."""
        return self.frame.prompt and self.scaled(channel)

    def since_start(self, channel: str) -> str:
        """What has decayed in the window before each token, for every channel."""
        return KEPT[channel] if self.in_blocks(channel) else f"tl.exp({PATH[channel]})"

    def product(self, helper: str, first: str, second: str, channel: str) -> str:
        """A product over tokens or channels with what decays by `channel` between its tokens."""
        pairs = f"_pair_{helper}({first}, {second}, {LOG[channel]}, ancestors, token, TOKENS)"
        if not self.scaled(channel):
            return pairs
        scaled = f"_block_{helper}({first}, {second}, {SCALES[channel]}, token, TOKENS)"
        # along the paths of a tree there is no one sum that the others are parts of
        return scaled if self.frame.prompt else f"{pairs} if TREE else {scaled}"

    def end(self, lines: list[str]) -> None:
        """What a block of a prompt leaves of the state, and of what its tokens write."""
        form = self.frame.form
        for channel in ("", "K", "V"):
            decay = form.decay(channel)
            if decay is None:
                continue
            log, rest, lasting = LOG[channel], REST[channel], LASTING[channel]
            raised = form.factored and channel == "K"
            if not channel:
                lines.append(f"real_log = tl.where(real_token, {log}, 0.0)")
                log = "real_log"
            blocks = self.in_blocks(channel)
            if not blocks:
                lines.append(f"{lasting} = tl.exp(tl.sum({log}, 0))")
            if raised:
                continue
            if channel and not blocks:
                lines.append(f"{rest} = tl.exp(_dot(later.to(tl.float32), {log}))")
            elif not channel:
                lines.append(f"{rest} = tl.exp(_along(later, {log}))")
            scaled = {"": lasting, "K": f"{lasting}[:, None]", "V": f"{lasting}[None, :]"}[channel]
            lines.append(f"state = state * {scaled}")
