"""A prompt in blocks of tokens: what they are to each other is prepared for all blocks side by
side, then the state goes through one block after the other.

A block is a window whose tokens are columns, as in `chunk`, on a state that is at hand. Of its
tokens' numbers for a head, and of what is solved of their scores, nothing hangs on the state: a
first kernel computes them, with a program for each block and head, and leaves them in memory. To
the other are left products: the state times the block's columns, what each token writes of itself
times what is solved, and what that adds to the state.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.shapes import Shapes
from kvgen.ir.values import Kernel
from kvgen.schedules.prepare import Prepare
from kvgen.schedules.prepared import Prepared
from kvgen.schedules.sweep import Sweep


@dataclass(frozen=True)
class Blocks:
    """The two kernels, and how much of a block the first leaves for the second."""

    prepare: Kernel
    sweep: Kernel
    prepared: Prepared


def blocks(form: Form, records: Records, shapes: Shapes) -> Blocks:
    """An extend of a form that `chunks`."""
    sweep = Sweep(form, records, shapes)
    kernel = sweep.kernel()
    return Blocks(Prepare(form, records, shapes).kernel(sweep.prepared), kernel, sweep.prepared)
