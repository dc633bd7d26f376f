"""Which kernels a GPU cannot hold, from the form and a configuration, before anything is compiled.

Every kernel but those that go over the state alone has a token's vectors over K, or several
tokens', in its registers, and the keys of its buffer; what tensor cores multiply lies in shared
memory. Long keys fill either. The estimates follow what Triton does for NVIDIA's GPUs: of a product
the second operand is staged, of a loop with stages all that its turns load ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kvgen.algebra.chain import chains
from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.config import PAGE
from kvgen.codegen.cost import buffer_length, held
from kvgen.codegen.kernels import Shapes, per_head, power_of_two
from kvgen.codegen.untuned import configurations
from kvgen.language.spec import MAX_WINDOW

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


@dataclass(frozen=True)
class Need:
    """What a kernel takes with one configuration. tokens: that it takes together.

    shared: bytes of a program. values: numbers of 32 bits that a thread holds.
    """

    kernel: str
    tokens: int
    shared: int
    values: int

    @property
    def reason(self) -> str | None:
        """Why a GPU cannot hold it, None where one can."""
        if self.shared > LARGEST:
            return (
                f"about {self.shared:,} bytes of shared memory, and no GPU has more than "
                f"{LARGEST:,} for a program"
            )
        if self.values > VALUES:
            return f"about {self.values:,} values in each thread, which has 255 registers"
        return None


def shared_limit(target: str) -> int:
    """Bytes of shared memory that a program can have on a target, as in sm_90."""
    return SHARED[target]


def needs(form: Form, records: Records) -> list[Need]:
    """What every kernel takes by rules of thumb, by the batch that takes most."""
    table = configurations(form, records, per_head(form, records))["default"]
    size = _Size(form, records)
    rules = {
        "decode": size.decode,
        "recurrent": size.recurrent,
        "fold": size.recurrent,
        "verify": lambda config: size.window("verify", config, DRAFTS),
        "chain": size.chain,
        "extend": lambda config: size.window("extend", config, config["TOKENS"]),
        "short": size.short,
    }
    found: list[Need] = []
    for kernel, configs in table.items():
        several = [rules[kernel](config) for config in configs.values()]
        found.append(max(several, key=lambda need: (need.shared > LARGEST, need.values)))
    return found


def unheld(form: Form, records: Records) -> list[Need]:
    """Those that no GPU can hold."""
    return [need for need in needs(form, records) if need.reason is not None]


class _Size:
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
        self.bytes = 4 if form.spec.storage.records == "float32" else 2

    def _threads(self, config: Mapping[str, int]) -> int:
        return 32 * config["num_warps"]

    def _vectors(self) -> int:
        """A token's vectors over K, of which the columns and the keys are some."""
        return len(dict.fromkeys((*self.columns, *self.form.keys)))

    def recurrent(self, config: Mapping[str, int]) -> Need:
        elements = self.k * (config["TILE"] + self._vectors())
        return Need("recurrent", 1, 0, elements // self._threads(config))

    def decode(self, config: Mapping[str, int]) -> Need:
        # the state and the keys are streamed through sums: a quarter of them is there at a time
        streamed = self.k * (config["TILE"] + self.places * (self.kept + self.decays))
        elements = streamed // 4 + self.k * self._vectors()
        return Need("decode", 1, 0, elements // self._threads(config))

    def chain(self, config: Mapping[str, int]) -> Need:
        streamed = self.k * (config["TILE"] + self.places * (self.kept + self.decays))
        elements = streamed // 4 + self.k * DRAFTS * self._vectors()
        return Need("chain", DRAFTS, 0, elements // self._threads(config))

    def window(self, kernel: str, config: Mapping[str, int], tokens: int) -> Need:
        vectors = tokens * self._vectors()
        asked = tokens * len(self.columns)
        held_, staged = vectors + config["TILE"], []
        products = []
        others = [tokens, config["TILE"]]
        if kernel == "verify":
            span = max(self.shapes.least_span, self.places)
            others.append(span)
            held_ += span * self.decays
        for other in others:
            if other >= ROWS:
                staged.append(self.k * other * 4)
            else:
                products.append(asked * other)
        # a loop over blocks loads the next ones ahead, for all but one of its stages
        ahead = (config["STAGES"] - 1) * self.k * tokens * 2 * self._vectors()
        shared = max([ahead if kernel == "extend" else 0, *staged])
        elements = self.k * (held_ + max(products, default=0))
        return Need(kernel, tokens, shared, elements // self._threads(config))

    def short(self, config: Mapping[str, int]) -> Need:
        rows = PAGE * config["PAGES"]
        elements = self.k * (rows * (self.kept + self.decays) // 4 + self._vectors())
        ahead = (config["STAGES"] - 1) * self.k * rows * self.bytes * self.kept
        return Need("short", 1, ahead, elements // self._threads(config))
