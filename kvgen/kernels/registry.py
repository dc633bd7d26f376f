"""All kernels, and which of them a recurrence has."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.kernels.buffer import BUFFER
from kvgen.kernels.chain import CHAIN
from kvgen.kernels.chunk import CHUNK
from kvgen.kernels.decode import DECODE
from kvgen.kernels.extend import EXTEND
from kvgen.kernels.fold import FOLD
from kvgen.kernels.kernel import Kernel, Subject
from kvgen.kernels.recurrent import RECURRENT
from kvgen.kernels.short import SHORT
from kvgen.kernels.sweep import SWEEP
from kvgen.kernels.verify import VERIFY

# in the order in which records stand
KERNELS: tuple[Kernel, ...] = (
    DECODE, RECURRENT, FOLD, VERIFY, CHAIN, CHUNK, EXTEND, SWEEP, SHORT,
)  # fmt: skip
SUBJECTS: tuple[Subject, ...] = (*KERNELS, BUFFER)
# what whole steps of single tokens are made of, in the order in which it is searched
STEPS: tuple[Kernel, ...] = (RECURRENT, DECODE, FOLD)

_BY_NAME: dict[str, Kernel] = {kernel.name: kernel for kernel in KERNELS}
_SUBJECTS = {subject.name: subject for subject in SUBJECTS}


def named(name: str) -> Kernel:
    """As records and configurations call it."""
    return _BY_NAME[name]


def subject(name: str) -> Subject:
    """A kernel, or what else has records."""
    return _SUBJECTS[name]


def kernels_of(form: Form) -> tuple[Kernel, ...]:
    """Those that a recurrence has."""
    return tuple(kernel for kernel in KERNELS if kernel.exists(form))


def subjects_of(form: Form) -> tuple[Subject, ...]:
    """All that is tuned for it."""
    return tuple(subject for subject in SUBJECTS if subject.exists(form))
