"""Tokens by one reading of the stored state: what one alone and a short chain have in common.

A program goes over tiles of values of a head, or of all value heads of a group where these share
what is computed of keys. That it computes once: the buffer's keys and decays, which need nothing of
the kernels before, then the tokens' vectors and their scores with the buffer. In a tile there are
left the reads of the state, what the buffer's values add to them, and what follows from them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from kvgen.algebra.form import Decay, Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.naming import described
from kvgen.algebra.records import Records
from kvgen.codegen.levels import boundary, per_head, unit_level
from kvgen.codegen.operands import component, times_input
from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.ir.build import Builder
from kvgen.ir.values import TOKEN, TURNED, Helper, Kernel, Value, Wish
from kvgen.schedules.buffered import Buffered
from kvgen.schedules.lowering import Lowering
from kvgen.schedules.state import load_state
from kvgen.schedules.token import StepLoads, TokenProgram, give_lines

# whether a program has one tile, of which it loads the state before it computes anything
EARLY = "EARLY"


@dataclass(frozen=True)
class Given:
    """A vector that tensor cores take as its input came, and the number it is still to be times."""

    called: str
    came: Value
    number: Node


class OnePass(ABC):
    """names: what the tokens' values are called. loads: what is there of them. roots: what is
    computed, columns: what of it reads the state. raw: whether the state, and what reads it, are
    multiplied as they lie in memory. oldest_last: in which order decays are loaded. parted: whether
    a key has two numbers, so that as few threads as KEYS says lie along them.
    """

    oldest_last = False

    def __init__(
        self,
        form: Form,
        records: Records,
        shapes: Shapes,
        names: dict[Node, str],
        loads: type[StepLoads],
        roots: list[Node],
        columns: tuple[Node, ...],
        raw: bool,
        parted: bool = False,
    ) -> None:
        self.form, self.records, self.names = form, records, names
        self.parted, self.turned = parted, parted and form.spec.storage.layout == "vk"
        self.build = build = Builder(TURNED if self.turned else TOKEN, "K" if parted else "")
        self.single = per_head(form, records)
        self.lanes = lanes = TokenProgram(build, shapes, form.spec.ratio, self.single)
        self.inputs = loads(build, lanes, names, form, records)
        self.token = Lowering(build, form.graph, self.inputs, names, lanes.masks)
        self.buffer = Buffered(self.token, form, records, lanes)
        self.roots, self.columns, self.raw = roots, columns, raw
        # what a program computes once
        self.unit = unit_level(reachable([*roots, *form.remembered]), self.single)
        self.given: dict[Node, Given] = {}

    @abstractmethod
    def find_keys(self) -> None:
        """The buffer's, which need nothing of the kernels before."""

    @abstractmethod
    def once(self) -> None:
        """What follows from the tokens' vectors before the tiles."""

    @abstractmethod
    def begin(self) -> None:
        """A tile begins."""

    @abstractmethod
    def of_tile(self, state: Value) -> None:
        """The reads of a tile of the state, and all that follows."""

    def kernel(self) -> Kernel:
        build, lanes, token = self.build, self.lanes, self.token
        before_tiles, before_reads = boundary(self.columns, self.roots, self.unit)
        give_lines(self.names, (*before_tiles, *before_reads))
        note = "with one tile a program, its state is on the way before anything else is computed"
        lanes.begin(lanes.part, "only_")
        with build.when(EARLY, note=note):
            early = self._state()
        self._decays(at_unit=True)
        self.find_keys()
        self.wait()
        self._given(at_unit=True)
        self.vectors(before_tiles)
        if self.form.factored:
            # keys that are recorded before their decay have all of it in what reads them
            before = token.value(self.form.factored.before)
            self.buffer.kept["K"] = build.function(EXP, before, name="kept_key")
        self.once()
        with build.loop("step", "TILES", "STAGES") as step:
            first = build.mul(lanes.part, build.given("TILES"))
            lanes.begin(build.add(first, step, "tile"))
            self.begin()
            with build.when(EARLY, holds=False):
                late = self._state()
            state = build.either(EARLY, early, late)
            self._given(at_unit=False)
            for node in before_reads:
                token.value(node)
            self._decays(at_unit=False)
            self.of_tile(state)
        return build.kernel()

    def wait(self) -> None:
        note = "only what this cache alone writes has been read; here all kernels before have ended"
        with self.build.when("PDL", note=note):
            self.build.do("tl.extra.cuda.gdc_wait")
            self.build.do("tl.extra.cuda.gdc_launch_dependents")

    def vectors(self, nodes: Iterable[Node]) -> None:
        """What a program computes of its tokens before the tiles."""
        for node in nodes:
            self.token.value(node)

    def _state(self) -> Value:
        return load_state(self.lanes, self.form, self.records.exact, raw=self.raw)

    def _decays(self, at_unit: bool) -> None:
        for decay in self.summed_decays(at_unit):
            self.buffer.sum_up(decay, self.oldest_last)

    def summed_decays(self, at_unit: bool) -> list[Decay]:
        once = [(self.single and decay.channel != "V", decay) for decay in self.buffer.decays]
        return [decay for at, decay in once if at == at_unit]

    def _given(self, at_unit: bool) -> None:
        for column, raw, number in self.columns_given(at_unit):
            name = str(self.names.get(raw) or component(raw))
            came = self.inputs.stored(raw, f"{name}_given")
            self.token.known[raw] = self.build.cast(came, "float", name)
            self.names.setdefault(number, described(number, self.names) or f"{name}_scale")
            self.given[column] = Given(name, came, number)

    def columns_given(self, at_unit: bool) -> list[tuple[Node, Node, Node]]:
        """Columns that are an input times a number, but for what decays along their channel; with
        the input, and the number."""
        form = self.form
        columns = self.columns if self.raw else ()
        plain = [x for x in columns if not x.reads and not form.decay(x.axes.channels)]
        pairs = [(column, times_input(form, column)) for column in plain]
        found = [(column, *pair) for column, pair in pairs if pair is not None]
        return [each for each in found if (each[1] in self.unit) == at_unit]

    def left(self, far: str) -> list[Value]:
        """What of the state is left to a read, but for what its column is times already."""
        kept = self.buffer.kept
        return [kept[each] for each in ("", far) if each in kept]

    def through(self, near: str) -> list[Node]:
        """The columns over a channel."""
        return [column for column in self.columns if column.axes.channels == near]

    def number(self, column: Node) -> Value | None:
        """What a column is still to be times where only its input is multiplied, if anything."""
        given = self.given.get(column)
        if given is None or given.number.is_number(1.0):
            return None
        return self.token.value(given.number)

    # -- columns

    def beside(self, vectors: list[Value], near: str) -> Value:
        """As the columns of one operand, a power of two of them: the last stands for those that
        lack."""
        if len(vectors) == 1:
            vector = vectors[0]
            return self.build.let("column", (vector,), f"{near}C", vector.type, name=Wish("column"))
        count = 1 << (len(vectors) - 1).bit_length()
        vectors = vectors + vectors[-1:] * (count - len(vectors))
        helper = Helper("_beside" if count == 2 else f"_columns_{count}")
        return self.build.helper(helper, *vectors, axes=f"{near}C", name="columns")

    def apart(self, product: Value, names: list[str]) -> list[Value]:
        """The columns of a product one by one."""
        if len(names) == 1:
            return [self.build.sum(product, "C", Wish(names[0]))]
        count = 1 << (len(names) - 1).bit_length()
        helper = Helper("tl.split" if count == 2 else f"_apart_{count}")
        whole = self.build.helper(helper, product, axes=product.axes)
        rest = [None] * (count - len(names))
        return self.build.parts(whole, product.axes[0], [*names, *rest])[: len(names)]
