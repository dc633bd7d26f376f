"""Bytes and operations of a token, at sizes in numbers or symbols; the best buffer length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import INPUT_BYTES, Records, Stored
from kvgen.codegen.arguments import arguments
from kvgen.codegen.levels import per_head
from kvgen.runtime.numbers import power_of_two

LENGTHS = (1, 2, 4, 8, 16, 32, 64)
# elements of the buffer's keys that one program can hold: half of a GPU's registers
KEYS = 32768


@dataclass(frozen=True)
class Cost:
    """Bytes of one token, one layer and one row, before any cache.

    state: what the state takes. read: what a decode reads of it. record: what a token leaves.
    record_read, record_fold: what a decode and a fold read of one record. carried: the carried
    states. io: a token's inputs, their past, and its output; parameters are read once for all
    rows. newest: what io holds of the newest record, a running sum, which a call reads once.
    """

    state: int
    read: int
    record: int
    record_read: int
    record_fold: int
    carried: int
    io: int
    newest: int = 0

    @property
    def moved(self) -> int:
        """State bytes a fold moves: it is a launch of its own, which reads and writes them."""
        return 2 * self.state + 2 * self.carried

    @property
    def best_buffer(self) -> float:
        """L* = sqrt(2 · state bytes a fold moves / record bytes a decode reads)."""
        return math.sqrt(2 * self.moved / max(self.record_read, 1))

    def decode_over(self, held: Any) -> Any:
        """A decode that finds so many records in the buffer, without a fold."""
        return self.read + held * self.record_read + self.record + 2 * self.carried + self.io

    def decode_only(self, buffer: Any) -> Any:
        """A decode without its share of a fold, over records at their mean number."""
        return self.decode_over((buffer - 1) / 2)

    def fold(self, held: Any) -> Any:
        """So many records applied to the state."""
        return self.moved + held * self.record_fold

    def decode(self, buffer: Any) -> Any:
        """A decode and its share of the folds."""
        return self.decode_only(buffer) + self.record_fold + self.moved / buffer

    def floor(self, buffer: Any) -> Any:
        """The least a buffered decode can move: the state is written once in `buffer` tokens."""
        return self.decode_only(buffer) + self.state / buffer

    def verify_only(self, buffer: Any, tokens: Any) -> Any:
        """A verify of so many tokens without a fold, over records at their mean number: there are
        up to buffer - tokens."""
        return self._verify((buffer - tokens) / 2, tokens)

    def verify_floor(self, buffer: int, tokens: int) -> float:
        """The least such a verify can move where all tokens are accepted: the state is written
        once in as many calls as the buffer has room for."""
        calls = buffer // tokens
        return self._verify(tokens * (calls - 1) / 2, tokens) + self.state / calls

    def _verify(self, held: Any, tokens: Any) -> Any:
        """The state and `held` records read once; for every token a record and the carried states
        written, inputs read, an output written."""
        each = self.record + self.carried + self.io - self.newest
        return self.read + self.carried + held * self.record_read + self.newest + tokens * each

    def extend(self, tokens: Any) -> Any:
        """A prompt on an empty buffer: the state read and written once, and every token."""
        return self.moved + tokens * (self.io - self.newest)

    def short(self, tokens: Any) -> Any:
        """A decode of a row that holds so many tokens and no state."""
        return tokens * self.record_read + self.record + 2 * self.carried + self.io

    def recurrent(self) -> int:
        """The plain kernel, which reads and writes the whole state."""
        return self.moved + self.io

    def gain(self, buffer: int) -> float:
        """How many times fewer bytes than the plain kernel."""
        return self.recurrent() / self.decode(buffer)


def cost(
    form: Form,
    records: Records,
    input_bytes: int = INPUT_BYTES,
    sizes: Mapping[str, Any] | None = None,
) -> Cost:
    """The bytes for the spec's sizes, or for others. input_bytes: an element of the inputs."""
    sizes = dict(form.spec.sizes) if sizes is None else sizes
    state = form.spec.storage.state
    elements = sizes["HV"] * sizes["K"] * sizes["V"]
    given = sizes["HV"] * sizes["V"]
    for argument in arguments(form, form.whole):
        if argument.is_input:
            given += _count(argument.axes, sizes)
    for past in form.spec.pasts:
        # what it was is read, and what it is kept
        given += (past.count + 1) * _count(past.tensor.axes, sizes)

    def total(stored: tuple[Stored, ...]) -> Any:
        return sum(each.bytes(sizes, input_bytes) for each in stored)

    # of a running sum a decode reads only the newest
    running = tuple(s for s in records.stored if form.factored and s.node is form.factored.after)
    newest = total(running) if form.factored else 0
    return Cost(
        state=elements * state.bytes,
        read=elements * (state.bytes if records.exact else state.read_bytes),
        record=total(records.stored),
        record_read=total(records.decoded(form)),
        record_fold=total(records.folded(form)),
        carried=sum(4 * _count(carry.tensor.axes, sizes) for carry in form.carries),
        io=given * input_bytes + newest,
        newest=newest,
    )


@dataclass(frozen=True)
class Operations:
    """Operations of one layer and one row, a multiply-add as two, gates and norms left out.

    decode: a token, all places of the buffer included, held or not. recurrent: a token of the
    plain kernel. fold: one record applied to the state. exponentials: those of a decode over the
    places, where decays act on a channel.
    """

    decode: int
    recurrent: int
    fold: int
    exponentials: int


def operations(
    form: Form, records: Records, buffer: Any, sizes: Mapping[str, Any] | None = None
) -> Operations:
    sizes = dict(form.spec.sizes) if sizes is None else sizes
    # records that no decode finds take none
    buffer = 0 if form.emptied else buffer
    heads = sizes["HV"]
    matrix = heads * sizes["K"] * sizes["V"]
    unit = heads if per_head(form, records) else sizes["H"]
    scores = weighed = 0
    for read in form.reads:
        near = read.args[0].axes.channels
        far = read.axes.channels
        sharers = unit if near == "K" else heads
        scores += 2 * len(form.writes) * sharers * sizes[near]
        weighed += 2 * len(form.writes) * heads * sizes[far]
    # every far channel's weights multiply what is read back, once for each write
    channels = [decay.channel for decay in form.summed_decays if decay.channel]
    exponentials = sum(heads * buffer * sizes[channel] for channel in channels)
    decayed = len(form.writes) * exponentials
    passes = 2 * len(form.reads) * matrix
    update = (len(form.decays) + 2 * len(form.writes)) * matrix
    replayed = [read for read in form.reads if _writes_with(form, read)] if records.replay else []
    return Operations(
        decode=passes + buffer * (scores + weighed) + decayed,
        recurrent=passes + update,
        fold=update + 2 * len(replayed) * matrix,
        exponentials=exponentials,
    )


def buffer_length(form: Form, records: Records) -> int:
    """The spec's buffer length, or the power of two that moves the fewest bytes, among those whose
    keys one program can hold; a place for one token where rows fold at the end of every step."""
    if form.spec.buffer is not None:
        return form.spec.buffer
    if form.emptied:
        return 1
    bytes_moved = cost(form, records).decode
    most = min(form.factored.most if form.factored else LENGTHS[-1], held(form))
    return min(
        (length for length in LENGTHS if length <= most),
        key=lambda length: (bytes_moved(length), length),
    )


def held(form: Form) -> int:
    """Places of a buffer whose keys one program can hold; at least 1."""
    return max(1, KEYS // power_of_two(form.spec.size("K")))


def _count(axes: tuple[str, ...], sizes: Mapping[str, Any]) -> Any:
    count = 1
    for axis in axes:
        count *= sizes[axis]
    return count


def _writes_with(form: Form, read: Node) -> bool:
    sides = [node for write in form.writes for node in (write.w, write.d)]
    return read in reachable(sides)
