"""Windows of rows whose records lie in pages, with a stored state or none.

What differs from a row with a state and one buffer: the places are gone over page by page, newest
first, so the decays since a place are summed as the pages come; and what is left of the stored
state is known when they are done.
"""

from __future__ import annotations

from kvgen.algebra.form import Decay, Form
from kvgen.algebra.records import Records
from kvgen.codegen.levels import per_head
from kvgen.codegen.shapes import Shapes
from kvgen.functions.exp import EXP
from kvgen.functions.maximum import MAXIMUM
from kvgen.ir.values import Helper, Kernel, Value
from kvgen.schedules.buffered import KEPT, SINCE, TOTAL
from kvgen.schedules.state import load_state
from kvgen.schedules.windows.decays import ALONG, DOT
from kvgen.schedules.windows.extend import blocks
from kvgen.schedules.windows.frame import Frame
from kvgen.schedules.windows.lanes import PagedWindow
from kvgen.schedules.windows.reads import Held, Reads, Stack
from kvgen.schedules.windows.stores import leave, record, store_output
from kvgen.schedules.windows.verify import begin_tile
from kvgen.schedules.windows.window import Window


def short_verify(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """A window on top of pages of records, and of a stored state where a row has one."""
    frame = Frame(form, records, shapes, per_head(form, records), program=PagedWindow)
    build, lanes = frame.build, frame.lanes
    lanes.pending(lanes.head if frame.single else lanes.group)
    with build.loop("step", "TILES", None) as step:
        begin_tile(frame, step)
        for name in form.planes if records.exact else form.planes[:1]:
            lanes.plane(name)
        output = Window(frame, PagedReads).output()
        leave(frame)
        store_output(frame, output)
    return build.kernel()


def short_extend(form: Form, records: Records, shapes: Shapes) -> Kernel:
    """Blocks of a prompt; tokens leave records where a row stays short."""
    frame = Frame(form, records, shapes, True, prompt=True, program=PagedWindow)
    lanes = frame.lanes
    assert isinstance(lanes, PagedWindow)
    with blocks(frame, lanes.of_prompt):
        for stored in records.stored:
            record(frame, stored, once=False)
    return frame.build.kernel()


class PagedReads(Reads):
    """Reads of pages, in a loop over them, and then of the state of rows that have one."""

    def held(self) -> Held:
        return Held()

    def of_stacks(self, stacks: list[Stack], held: Held) -> list[Value]:
        frame, build, form = self.frame, self.frame.build, self.frame.form
        if not stacks:
            # what nothing reads is only recorded
            return []
        totals = {decay: self._nothing(decay) for decay in form.summed_decays}
        found = [build.variable(self._zeros(stack), "found") for stack in stacks]
        with build.loop("back", "pages_held", "STAGES") as back:
            self._page(back)
            for decay, total in totals.items():
                self._sum_up(decay, total)
            held = Held({}, self.buffered.weight, self.keys(), self.buffered.values_given())
            for stack, whole in zip(stacks, found, strict=True):
                build.move(whole, self.of_buffer(stack, held, whole, False))
        # only a row that has a state loads it
        with build.when("stateful"):
            raw = not frame.records.exact and not form.state.init
            self._add_state(
                stacks, found, totals, load_state(frame.lanes, form, frame.records.exact, raw)
            )
        if form.state.init:
            with build.when("stateful", holds=False):
                self._add_state(stacks, found, totals, self._initial())
        return list(found)

    def _zeros(self, stack: Stack) -> Value:
        rows = stack.buffered.axes[0]
        return self.frame.zeros(rows + ("V" if stack.near == "K" else "K"), len(stack.columns))

    def _nothing(self, decay: Decay) -> Value:
        channel, build = decay.channel, self.frame.build
        zero = self.frame.zeros(channel) if channel else build.number(0.0)
        return build.variable(zero, TOTAL[channel])

    def _page(self, back: Value) -> None:
        """The next page: which of its places are held, and where its records begin."""
        build, lanes = self.frame.build, self.frame.lanes
        assert isinstance(lanes, PagedWindow)
        zero, place = build.number(0), lanes.place
        last = build.binary("sub", build.given("pages_held"), build.number(1))
        index = build.binary("sub", last, back, "index")
        lanes.page = build.cast(lanes.of_row("pages", index), "long", "page")
        word = lanes.of_row("skipped", index, name="word")
        number = build.add(build.mul(index, build.given("PLACES")), place)
        mark = build.binary("mod", build.binary("shr", word, place), build.number(2))
        lanes.held = build.every(
            build.binary("gt", lanes.page, build.number(-1)),
            build.binary("lt", number, lanes.count),
            build.binary("eq", mark, zero),
            name="held",
        )
        for stored in self.frame.records.stored:
            lanes.at(stored)

    def _sum_up(self, decay: Decay, total: Value) -> None:
        """The decay since each of its places, and until the next page."""
        build, buffered, channel = self.frame.build, self.buffered, decay.channel
        newer = build.given("newer", "PQ", "bool")
        log = buffered.buffered.value(decay.log)
        if channel:
            log = build.function(MAXIMUM, log, build.number(-1e30))
        else:
            log = self.frame.spread(log, "P")
        logs = build.where(buffered.lanes.held, log, 0.0, "logs")
        if channel:
            more = build.helper(DOT, build.cast(newer, "float"), logs, axes="P" + channel)
        else:
            more = build.helper(ALONG, newer, logs, axes="P")
        buffered.since[channel] = since = build.add(total, more, SINCE[channel])
        if not channel:
            buffered.weight = build.function(EXP, since, name="weight")
        build.move(total, build.add(total, build.sum(logs, "P")))

    def _add_state(
        self, stacks: list[Stack], found: list[Value], totals: dict[Decay, Value], state: Value
    ) -> None:
        """With what the columns read of the state."""
        build = self.frame.build
        self.frame.state = state
        kept = {
            decay.channel: build.function(EXP, total, name=KEPT[decay.channel])
            for decay, total in totals.items()
        }
        for stack, whole in zip(stacks, found, strict=True):
            build.move(whole, build.add(whole, self.of_state(stack, Held(kept))))

    def _initial(self) -> Value:
        """The state that a row has that has none."""
        frame, build = self.frame, self.frame.build
        shape = f"[{frame.shapes.span('K')}, TILE]"
        full = Helper("tl.full", (shape, repr(frame.form.state.init), "tl.float32"))
        state = build.helper(full, axes="KV")
        masks = [*frame.lanes.real("K"), *frame.lanes.real("V")]
        return build.where(build.every(*masks), state, 0.0, "state") if masks else state
