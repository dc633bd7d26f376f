"""What a kernel is, to all who choose, price, launch, time, check or report one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, Protocol, TypeVar

from kvgen.algebra.form import Form
from kvgen.codegen.cost import Cost
from kvgen.codegen.operands import choices, offered, parts_keys
from kvgen.kernels.knobs import LIMITS, Config
from kvgen.kernels.load import ANY, BATCHES, Load
from kvgen.kernels.rules import Rule
from kvgen.kernels.size import Need, Size
from kvgen.language.spec import MAX_BUFFER
from kvgen.runtime.numbers import power_of_two

T = TypeVar("T")


class Rows(Protocol):
    """Rows that a kernel is timed on, as far as it says where their cursors stand."""

    @property
    def cache(self) -> Any: ...

    @property
    def cycle(self) -> int:
        """Steps after which as many rows have folded as do on average."""
        ...

    def staggered(self) -> Any: ...

    def spread(self, phases: int) -> Any: ...


class Subject(ABC):
    """What is tuned and has records: a kernel, or the length of a cache's buffer."""

    # as records, CONFIGS and the command line have it
    name: ClassVar[str]
    # the constants of its configuration, all of them, in order
    knobs: ClassVar[tuple[str, ...]]
    # of these, such as must be powers of two here, though they need not be elsewhere
    powers: ClassVar[tuple[str, ...]] = ()
    # whether one configuration is for all batches, so that its records name none
    every_batch: ClassVar[bool] = False
    # of these, such as records may lack that are older, and what they mean there
    newer: ClassVar[Config] = {}
    # the most tokens of a row that a record may be for
    most_tokens: ClassVar[int] = 1

    def exists(self, form: Form) -> bool:
        """Whether a recurrence has it."""
        return True

    def dots(self, form: Form) -> bool:
        """Whether tensor cores may do what DOT says."""
        return offered(form)

    def tokens(self, form: Form) -> int:
        """Tokens a row that it is tuned with."""
        return 1

    def batches(self, asked: Sequence[int]) -> Sequence[int]:
        """Those that it is tuned at where these are asked for; 0 for all."""
        return asked

    def is_safe(self, form: Form, config: Mapping[str, float]) -> bool:
        """Whether it computes what it should with these constants, however fast.

        A tile wider than V, for one, would reach into the next head where nothing masks it.
        """
        v = power_of_two(form.spec.size("V"))
        most = form.factored.most if form.factored else MAX_BUFFER
        keys = power_of_two(form.spec.size("K")) if parts_keys(form) else 0
        upper = {
            "TILE": v, "TOKENS": most, "DOT": int(self.dots(form)), "KEYS": keys, "buffer": most,
        }  # fmt: skip
        if not self.dots(form):
            upper["maxnreg"] = 0
        lower = {"TILE": v if form.whole_v else 1}
        return set(config) == set(self.knobs) and all(
            LIMITS[knob].admits(value)
            and lower.get(knob, value) <= value <= upper.get(knob, value)
            and (knob not in self.powers or power_of_two(int(value)) == value)
            for knob, value in config.items()
        )


class Kernel(Subject):
    """One of the kernels that a module launches."""

    # which configurations are worth compiling
    rules: ClassVar[tuple[Rule, ...]]
    # the module's function whose outputs it makes, or that runs before it
    function: ClassVar[str]
    # what it is called beside the others in reports
    words: ClassVar[str] = ""

    # whether whole model steps of single tokens are made of it, so that any search tunes it
    in_steps: ClassVar[bool] = False
    # whether its records have the times of such steps, so that they can be compared
    takes_steps: ClassVar[bool] = False
    # whether it leaves no records, so that rows served by it hold nothing
    plain: ClassVar[bool] = False
    # whether it is what applies records to the state, and no outputs are its own
    folds: ClassVar[bool] = False
    # whether its inputs are several tokens a row; drafts: such as may be rejected
    several: ClassVar[bool] = False
    drafts: ClassVar[bool] = False
    # tokens of the prompts that it takes in, else 0
    prompt: ClassVar[int] = 0
    # tokens from which on a row of its cache has a state, and that it holds without one, else 0
    context: ClassVar[int] = 0
    held: ClassVar[int] = 0
    # whether a program has one tile of one value head, whatever the group
    one_tile: ClassVar[bool] = False
    # whether a rule of thumb takes the same for all batches
    alike: ClassVar[bool] = False
    # kernels that run in its place wherever they have configurations of their own
    behind: ClassVar[tuple[str, ...]] = ()
    # registers for each element of a tile, about
    streamed: ClassVar[float] = 1.25
    # bytes of a thread from which on a program that spills is not timed if another does not
    spills: ClassVar[int] = 256

    # what it costs

    @abstractmethod
    def moved(self, total: Cost, form: Form, buffer: int) -> float:
        """The fewest bytes of a row, layer and step, of the kernel alone."""

    def floor(self, total: Cost, form: Form, buffer: int) -> float:
        """The same as its record counts time."""
        return self.moved(total, form, buffer)

    def need(self, size: Size, config: Config) -> Need | None:
        """What a program takes of a GPU; None where only that of short contexts is looked at."""
        return size.state(self.name, config)

    def paged_need(self, size: Size, config: Config) -> Need | None:
        """The same of its twin over pages, where it has one."""
        return None

    # how it is configured where nothing is tuned

    @abstractmethod
    def rule(self, load: Load, batch: int) -> Config:
        """The rule of thumb."""

    def untuned(self, load: Load) -> dict[int, Config]:
        """By batch."""
        batches = (ANY,) if self.alike else BATCHES
        return {batch: self.rule(load, batch) for batch in batches}

    # how it is launched and timed

    def window(self, tokens: int) -> int:
        """The cache's window where rows have so many tokens."""
        return tokens if self.drafts else 0

    def places(self, form: Form, buffer: int) -> int:
        """Of the buffer that it is launched with where one of `buffer` is tuned."""
        return max(buffer, self.window(self.tokens(form)))

    def alone(self, table: Mapping[str, T]) -> dict[str, T]:
        """Of configurations by kernel, those beside which it runs where it can."""
        return {name: known for name, known in table.items() if name not in self.behind}

    def constants(self, form: Form, config: Mapping[str, T]) -> dict[str, T]:
        """Those of a configuration that the form's kernel has."""
        known = choices(form) | dict.fromkeys(("DOT", "maxnreg"), self.dots(form))
        return {name: x for name, x in config.items() if known.get(name, True)}

    def asked(self, config: Config) -> dict[str, float]:
        """A configuration as a module has it that is to run with it."""
        return dict(config)

    def comparable(self, form: Form, same: bool, cut: bool) -> bool:
        """Whether a time of it goes into a module, to be compared with that of another kernel which
        computes the same.

        same: it was timed with the buffer that the module has, as a decode with another takes
        another time. cut: its search was cut short, so that the time may not be of whole steps.
        """
        return self.takes_steps and (self.plain or same) and not cut

    def waits(self, form: Form) -> bool:
        """Whether it runs only where a module has times of it, from the GPU that it runs on."""
        return False

    def launch(
        self, module: ModuleType, cache: Any, layer: int, slots: Any, given: Mapping[str, Any]
    ) -> None:
        """In one layer. given: inputs, parameters and what else its function takes."""
        getattr(module, self.function)(cache, layer, slots, **given)

    def cursors(self, rows: Rows, form: Form) -> Any:
        """Where they stand while it is timed: spread, and not moving."""
        return rows.spread(rows.cache.buffer)

    def cycle(self, rows: Rows) -> int:
        """Runs after which cursors stand where they began."""
        return 1
