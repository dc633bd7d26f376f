"""What an integration says at start: what it accelerates and how, what it leaves alone and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Accelerated:
    """Layers that one module serves. layers: their names in the model."""

    layers: Sequence[str]
    module: ModuleType
    state: str
    buffer: int
    window: int = 0


@dataclass(frozen=True)
class LeftAlone:
    """A layer that stays the server's own, and why."""

    layer: str
    reason: str


def text(server: str, done: Sequence[Accelerated], left: Sequence[LeftAlone], gpu: str) -> str:
    """The report, a line for each module and for each reason. gpu: the device's name, as torch has
    it; "cpu" where there is none."""
    lines = [f"kvgen accelerates {server}:" if done else f"kvgen leaves {server} as it is:"]
    for each in done:
        drafts = f", drafts of up to {each.window - 1}" if each.window > 1 else ""
        lines.append(
            f"  {each.module.SPEC['name']}: {_named(each.layers)}; state {each.state}, buffer of "
            f"{each.buffer}{drafts}, {_configurations(each.module, gpu)}"
        )
    reasons: dict[str, list[str]] = {}
    for one in left:
        reasons.setdefault(one.reason, []).append(one.layer)
    lines += [f"  left alone: {_named(layers)}: {why}" for why, layers in reasons.items()]
    return "\n".join(lines)


def _configurations(module: ModuleType, gpu: str) -> str:
    if gpu == "cpu":
        return "in Triton's interpreter"
    if gpu in module.CONFIGS:
        return f"tuned for {gpu}"
    return f"not tuned for {gpu} (kvgen tune {module.SPEC['name']} --gpu)"


def _named(layers: Sequence[str]) -> str:
    shown = ", ".join(layers[:3])
    if len(layers) > 3:
        shown += f" and {len(layers) - 3} more"
    return f"{len(layers)} layer{'s' if len(layers) > 1 else ''} ({shown})"
