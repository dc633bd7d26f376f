"""Bytes and operations of a token as formulas, and the best buffer length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kvgen.form import Form
from kvgen.kernels import arguments
from kvgen.records import Records

STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "split": 4}
READ_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "split": 2}


@dataclass(frozen=True)
class Cost:
    """Bytes of one layer and one row. `input_bytes` is an element of the cache's dtype.

    state: what the state takes. read: what a decode reads of it. record: what one token leaves.
    record_read: what a decode reads of one record. io: a token's inputs and its output.
    """

    state: int
    read: int
    record: int
    record_read: int
    io: int

    @property
    def best_buffer(self) -> float:
        """L* = sqrt(2 · state bytes a fold moves / record bytes a decode reads)."""
        return math.sqrt(2 * (2 * self.state) / self.record_read)

    def decode(self, buffer: int) -> float:
        """Bytes a decode step moves, its share of the folds included, records at mean length."""
        mean = self.record_read * (buffer - 1) / 2
        return self.read + mean + self.record + 2 * self.state / buffer + self.io

    def recurrent(self) -> int:
        return 2 * self.state + self.io


def cost(form: Form, records: Records, input_bytes: int = 2) -> Cost:
    sizes = dict(form.spec.sizes)
    elements = sizes["HV"] * sizes["K"] * sizes["V"]
    storage = form.spec.storage.state
    count = sizes["HV"] * sizes["V"]
    for argument in arguments(form, form.roots):
        if argument.is_input:
            size = 1
            for axis in argument.axes:
                size *= sizes[axis]
            count += size
    carried = 0
    for carry in form.carries:
        size = 4
        for axis in carry.tensor.axes:
            size *= sizes[axis]
        carried += size
    return Cost(
        elements * STATE_BYTES[storage],
        elements * READ_BYTES[storage],
        records.bytes(sizes, input_bytes) + carried,
        max(records.read_bytes(form, input_bytes), 1),
        count * input_bytes + carried,
    )


def buffer_length(form: Form, records: Records) -> int:
    """The spec's buffer length, or the power of two that moves the fewest bytes."""
    if form.spec.buffer is not None:
        return form.spec.buffer
    bytes_moved = cost(form, records).decode
    return min((1, 2, 4, 8, 16, 32, 64), key=lambda length: (bytes_moved(length), length))
