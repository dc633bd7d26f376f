"""What of the store goes into a module, and what `kvgen compile` says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.analysis import Analysis
from kvgen.codegen.config import Tuned
from kvgen.codegen.cost import buffer_length
from kvgen.kernels.buffer import BUFFER
from kvgen.kernels.decode import DECODE
from kvgen.kernels.kernel import Kernel
from kvgen.kernels.registry import SUBJECTS, subject
from kvgen.kernels.untuned import configurations
from kvgen.language.spec import Spec
from kvgen.shipped import command
from kvgen.wisdom.folder import warn
from kvgen.wisdom.identity import form_hash, shape_of
from kvgen.wisdom.places import requires_tuned
from kvgen.wisdom.record import EFFORTS
from kvgen.wisdom.store import Answer, Store, Table


class NotTuned(RuntimeError):
    """KVGEN_REQUIRE_TUNED is 1, and a module would run on estimates everywhere."""


def known(analysis: Analysis, store: Store | None = None) -> Table:
    """What a store, by default the user's with all that ships, knows of this form at its sizes.

    A GPU on which the decode is not tuned counts as unknown. What would be wrong for this form,
    as only a damaged record can be, is left out and said aloud.
    """
    store = Store.default() if store is None else store
    spec, form = analysis.spec, analysis.form
    tokens = {each.name: each.tokens(form) for each in SUBJECTS}
    table = store.table(form_hash(analysis), shape_of(spec), tokens)
    kept: Table = {}
    for gpu, kernels in table.items():
        for kernel, answers in kernels.items():
            for batch, answer in answers.items():
                assert answer.record is not None
                if subject(kernel).is_safe(form, answer.record.config):
                    kept.setdefault(gpu, {}).setdefault(kernel, {})[batch] = answer
                else:
                    text = f"{kernel} at batch {batch} of {spec.name} on {gpu}"
                    warn(f"wisdom for {text} is not safe for it and is left out")
    return {gpu: kernels for gpu, kernels in kept.items() if DECODE.name in kernels}


def baked(analysis: Analysis, table: Table) -> Tuned:
    """The same as constants of a module, in an order that hangs on nothing else."""
    spec = analysis.spec
    buffers: dict[str, int] = {}
    configs: dict[str, Mapping[str, Mapping[int, Mapping[str, float]]]] = {
        **configurations(analysis.form, analysis.records)
    }
    for gpu in sorted(table):
        length = buffer_length(analysis.form, analysis.records)
        lengths = table[gpu].get(BUFFER.name)
        # a spec that names its buffer's length means it
        if lengths and spec.buffer is None:
            length = buffers[gpu] = _config(lengths[min(lengths)])["buffer"]
        configs[gpu] = {
            name: {
                batch: _constants(kernel, answers[batch], length, analysis.form)
                for batch in sorted(answers)
            }
            for name, answers in table[gpu].items()
            if isinstance(kernel := subject(name), Kernel)
        }
    return Tuned(configs, buffers)


def _config(answer: Answer) -> dict[str, int]:
    assert answer.record is not None
    return answer.record.config


def _constants(kernel: Kernel, answer: Answer, buffer: int, form: Form) -> dict[str, float]:
    record = answer.record
    assert record is not None
    same = record.at.get("buffer", buffer) == buffer
    comparable = kernel.comparable(form, same, record.is_cut)
    us = {"us": round(record.median, 2)} if comparable else {}
    return kernel.constants(form, record.config) | us


@dataclass(frozen=True)
class Standing:
    """What stands behind a module's configurations on a GPU.

    effort: the least behind its decode. batches: those of its decode. buffer: the length tuned for
    it, or None. aged: versions of Triton, not the one here, that records were tuned with. cut:
    whether a search for its decode was cut short.
    """

    gpu: str
    effort: str
    batches: tuple[int, ...]
    buffer: int | None
    aged: tuple[str, ...]
    cut: bool = False

    def __str__(self) -> str:
        text = f"{self.effort}, {len(self.batches)} batch{'es' if len(self.batches) > 1 else ''}"
        if self.cut:
            text += ", cut short"
        if self.buffer is not None:
            text += f", buffer {self.buffer}"
        if self.aged:
            text += f", aged: with triton {' and '.join(self.aged)}"
        return f"{self.gpu} ({text})"


def standings(analysis: Analysis, table: Table) -> list[Standing]:
    found = []
    buffers = baked(analysis, table).buffers
    for gpu in sorted(table):
        records = [a.record for a in table[gpu][DECODE.name].values() if a.record]
        every = [each for kernel in table[gpu].values() for each in kernel.values()]
        aged = {each.record.env["triton"] for each in every if each.record and each.tier == "aged"}
        effort = min((record.effort for record in records), key=EFFORTS.index)
        batches = tuple(sorted(table[gpu][DECODE.name]))
        cut = any(record.is_cut for record in records)
        found.append(Standing(gpu, effort, batches, buffers.get(gpu), tuple(sorted(aged)), cut))
    return found


def said(analysis: Analysis, table: Table) -> str:
    """In one line what stands behind a module's configurations."""
    if not table:
        return f"no GPU: it runs on estimates ({command('tune', analysis.spec, '--gpu')})"
    here = ", ".join(map(str, standings(analysis, table)))
    return f"{here}; others, and {vectors(analysis.spec)} of 32 bits, run on estimates"


def vectors(spec: Spec) -> str:
    """The inputs over K or V, whose numbers have 16 bits where kernels are tuned."""
    names = [each.name for each in spec.inputs if {"K", "V"} & set(each.axes)]
    return f"{', '.join(names[:-1])} and {names[-1]}" if names[1:] else names[0]


def required(analysis: Analysis, table: Table) -> None:
    """Raises NotTuned where KVGEN_REQUIRE_TUNED asks for what is not there."""
    if requires_tuned() and not table:
        name = analysis.spec.name
        raise NotTuned(
            f"nothing is tuned for {name} in this form, and KVGEN_REQUIRE_TUNED is 1: "
            f"{command('tune', analysis.spec, '--gpu')}, or kvgen wisdom import FILE"
        )
