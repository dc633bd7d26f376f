"""What a program takes of a GPU, from the form and a configuration, before anything is compiled.

Every kernel but those that go over the state alone has a token's vectors over K, or several
tokens', in its registers, and the keys of its buffer; what tensor cores multiply lies in shared
memory. Long keys fill either. The estimates follow what Triton does for NVIDIA's GPUs: of a product
the second operand is staged, of a loop with stages all that its turns load ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.cost import buffer_length
from kvgen.codegen.shapes import Shapes
from kvgen.kernels.knobs import Config
from kvgen.runtime.numbers import power_of_two

# bytes of shared memory that one program can have
SHARED = {
    "sm_80": 166912,
    "sm_90": 232448,
    "sm_100": 232448,
    "sm_120": 101376,
    "gfx942": 65536,
}
LARGEST = max(SHARED.values())
# values a thread may be estimated to hold: three times its 255 registers. What it streams is not
# held, and a few hundred bytes of spills cost little; beyond, a kernel is slow or does not compile
VALUES = 768
# operands of tensor cores have so many rows at least, smaller ones are added up in registers
ROWS = 16
# drafts that are verified together most often
DRAFTS = 4
# what a kernel over pages has in front of its name
PAGED = "short_"


@dataclass(frozen=True)
class Need:
    """What a kernel takes with one configuration. tokens: that it takes together.

    kernel: as the module calls it. shared: bytes of a program. values: numbers of 32 bits that a
    thread holds.
    """

    kernel: str
    tokens: int
    shared: int
    values: int

    @property
    def called(self) -> str:
        kernel = self.kernel.removeprefix(PAGED)
        return f"{kernel} of short contexts" if kernel != self.kernel else kernel

    @property
    def reason(self) -> str | None:
        """Why a GPU cannot hold it, None where one can."""
        if self.shared > LARGEST:
            return (
                f"about {self.shared:,} bytes of shared memory, and no GPU has more than "
                f"{LARGEST:,} for a program"
            )
        if self.values > VALUES:
            return f"about {self.values:,} values in each thread, beyond its 255 registers"
        return None


def shared_limit(target: str) -> int:
    """Bytes of shared memory that a program can have on a target, as in sm_90."""
    return SHARED[target]


class Size:
    """Elements and bytes of what a form's kernels hold, with K padded to a power of two."""

    def __init__(self, form: Form, records: Records) -> None:
        self.form, self.records = form, records
        self.shapes = Shapes(form.spec.size("K"), form.spec.size("V"))
        self.k = self.shapes.span("K")
        self.places = power_of_two(buffer_length(form, records))
        # of keys in the buffer, and of decays over their channels
        self.kept = sum(not write.w.is_const for write in form.writes)
        self.decays = sum(decay.channel == "K" for decay in form.summed_decays)
        self.columns = [column for column in form.columns if column.axes.channels == "K"]
        self.bytes = 2 if form.spec.storage.records.narrow else 4

    @property
    def vectors(self) -> int:
        """A token's vectors over K, of which the columns and the keys are some."""
        return len(dict.fromkeys((*self.columns, *self.form.keys)))

    @property
    def keys(self) -> int:
        """What a place of the buffer has over K."""
        return self.kept + self.decays

    def state(self, kernel: str, config: Config) -> Need:
        """Of what goes over the state, token by token."""
        elements = self.k * (config["TILE"] + self.vectors)
        return self.held(kernel, 1, elements, config)

    def streaming(self, kernel: str, config: Config, tokens: int) -> Need:
        """Of what streams the state and the buffer's keys through sums: a quarter of them is there
        at a time."""
        streamed = self.k * (config["TILE"] + self.places * self.keys)
        elements = streamed // 4 + self.k * tokens * self.vectors
        return self.held(kernel, tokens, elements, config)

    def window(
        self, kernel: str, config: Config, tokens: int, kept: int = 0, prompt: bool = False
    ) -> Need:
        """Several tokens at once: their columns meet the state's tile, each other's keys, and, of a
        verify, as many as are kept. A product that fills tensor cores has its second operand in
        shared memory, and its first, whole, in the registers of every warp."""
        # a prompt's go one after the other, for they fill an operand each
        asked = tokens * (min(1, len(self.columns)) if prompt else len(self.columns))
        others = [tokens, config["TILE"], *([kept] if kept else [])]
        multiplied = [other for other in others if other >= ROWS]
        added = [other for other in others if other < ROWS]
        shared = self.k * max(multiplied, default=0) * 4
        if len({column.axes.channels for column in self.form.columns}) > 1:
            # what reads from either side has the state's tile as an operand twice
            shared = max(shared, 2 * self.k * config["TILE"] * 4)
        if prompt:
            # a loop over blocks loads those to come, for all but one of its stages
            ahead = (config["STAGES"] - 1) * self.k * tokens * 2 * self.vectors
            shared = max(shared, ahead)
        # a verify streams the state, a prompt keeps it; products that are added up are streamed too
        state = config["TILE"] if prompt else config["TILE"] // 4
        streamed = state + asked * 3 * sum(added) // 4
        need = self.held(kernel, tokens, self.k * (tokens * self.vectors + streamed), config)
        values = need.values
        if multiplied:
            # float32 in parts, two of them at once
            values += self.k * max(ROWS, power_of_two(max(asked, 1))) // 32 * self._parts()
        return Need(kernel, tokens, shared, values)

    def held(
        self, kernel: str, tokens: int, elements: int, config: Config, shared: int = 0
    ) -> Need:
        """Of a program with so many elements in all of its threads."""
        return Need(kernel, tokens, shared, elements // (32 * config["num_warps"]))

    def _parts(self) -> int:
        return 1 if self.form.spec.storage.state.narrow else 2
