"""A module on a GPU that nothing is known of: its configurations, and what does not run there."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.config import ANY_GPU, Configs, Measured
from kvgen.kernels.chain import CHAIN
from kvgen.kernels.chunk import CHUNK
from kvgen.kernels.load import load_of
from kvgen.kernels.registry import kernels_of
from kvgen.kernels.sweep import SWEEP


def configurations(form: Form, records: Records) -> Configs:
    """For ANY_GPU: kernel → batch → its constants, as `knobs` explains them."""
    load = load_of(form, records)
    # as modules list them, what is there for few recurrences last
    has = sorted(kernels_of(form), key=lambda kernel: kernel in (CHAIN, CHUNK, SWEEP))
    return {
        ANY_GPU: {
            kernel.name: {
                batch: kernel.constants(form, config)
                for batch, config in kernel.untuned(load).items()
            }
            for kernel in has
        }
    }


def waiting(form: Form, configs: Measured) -> frozenset[str]:
    """The kernels that no GPU of these runs: such as run only where there are times of them, of
    which there are none."""
    timed = {
        kernel
        for known in configs.values()
        for kernel, batches in known.items()
        if any("us" in config for config in batches.values())
    }
    return frozenset(x.name for x in kernels_of(form) if x.waits(form)) - timed
