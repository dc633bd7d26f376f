"""The configurations of a module on a GPU that nothing is known of."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.config import ANY_GPU, Configs
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
    return {ANY_GPU: {kernel.name: kernel.untuned(load) for kernel in has}}
