"""In which order configurations are tried before anything is known of them."""

from __future__ import annotations

from collections.abc import Sequence

from kvgen.compiler import Analysis
from kvgen.tuning.gpu import Gpu
from kvgen.tuning.model import estimate
from kvgen.tuning.space import Config


def ordered(
    analysis: Analysis, kernel: str, configs: Sequence[Config], batch: int, gpu: Gpu, buffer: int
) -> list[Config]:
    """What the model thinks is fastest first."""
    return sorted(configs, key=lambda c: estimate(analysis, kernel, c, batch, gpu, buffer))


def covering(configs: Sequence[Config]) -> list[Config]:
    """Of ordered configurations the first few in which every knob has each of its values: a model
    may be wrong about a knob, but then one of these shows it."""
    missing = {(knob, value) for config in configs for knob, value in config.items()}
    found: list[Config] = []
    for config in configs:
        new = missing & set(config.items())
        if new:
            found.append(config)
            missing -= new
    return found
