"""Configurations of kernels as modules have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvgen.algebra.form import Form
from kvgen.codegen.columns import offered

# what stands in a module for any GPU that is not tuned; no GPU may be called so
ANY_GPU = "default"

# GPU name -> kernel -> batch -> constants
Configs = dict[str, dict[str, dict[int, dict[str, int]]]]
# the same with microseconds, "us", where they were measured
Measured = Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]


@dataclass(frozen=True)
class Tuned:
    """What a module runs with: configurations, ANY_GPU's in front, and the buffer length of a cache
    where one is tuned, by GPU name."""

    configs: Measured
    buffers: Mapping[str, int] = field(default_factory=dict)


# records of a page, as the generated modules have them
PAGE = 16


def constants(form: Form, config: Mapping[str, float]) -> dict[str, float]:
    """Those of a configuration that the form's kernel has."""
    return {name: x for name, x in config.items() if name != "DOT" or offered(form)}
