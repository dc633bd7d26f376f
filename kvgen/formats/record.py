"""What a format of records is: what is recorded of a token, in which types, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.formats.dtypes import FLOAT32, Dtype


@dataclass(frozen=True)
class RecordFormat:
    """What a decode and a fold need of a token, recorded as it is computed or derived from inputs.

    rank: its place among the formats, of which the first is meant where a spec names none.
    derives: inputs are recorded as they came, with numbers in float32 from which the rest follows;
    so is a corrected value where its rounding is not kept. replays: a value that is corrected by
    what is read is not recorded at all: rows fold at the end of every step, and compute it again.
    vectors: the type of what is recorded as computed; log decays and numbers are float32 always,
    for they add up. bound: what a check allows outputs and states to be off by, for what is rounded
    in records. warning: what disappoints, and what to do about it.
    """

    name: str
    rank: int
    derives: bool = False
    replays: bool = False
    vectors: Dtype = FLOAT32
    bound: float = 0.0
    warning: tuple[str, str] | None = None

    @property
    def narrow(self) -> bool:
        """Whether most of a record may have 16 bits."""
        return self.derives or self.vectors.narrow
