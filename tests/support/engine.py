"""A serving engine that does at random all that a server may, beside the recurrence in float64."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from twins import made

from kvgen.checking.checker import bounds
from kvgen.checking.errors import worst
from kvgen.checking.samples import Sampler, packed, padded, plain
from kvgen.checking.twin import BOOKS, Made
from kvgen.checking.windows import accepted, tree

LAYERS, SLOTS, WINDOW, BUFFER, CONTEXT = 2, 7, 3, 6, 20
Tensors = dict[str, torch.Tensor]


class Engine:
    """Rows by slot, and what each of them is exactly.

    kind: "whole" for one tensor over all layers, "apart" for one of each layer, "short" for pages.
    past: by slot, what the row was at the cursors that it may be set back to.
    """

    def __init__(self, name: str, *storage: str, kind: str = "whole", seed: int = 0) -> None:
        self.draw, self.kind = random.Random(seed), kind
        self.made: Made = made(name, *storage)
        self.module: Any = self.made.module
        self.first = self.draw.randint(0, 1)
        self.cache = self.allocated(BUFFER, WINDOW)
        self.sampler = Sampler(self.made.analysis.spec, "cpu", seed)
        self.params = [self.sampler.params() for _ in range(LAYERS)]
        self.rows: dict[int, list[Tensors]] = {}
        self.past: dict[int, dict[int, list[Tensors]]] = {}
        # windows that are accepted late: by slot, how many tokens or which nodes, and the states
        self.late: dict[int, tuple[Any, list[Tensors]]] = {}
        self.reserved = dict.fromkeys(range(SLOTS), 0)
        self.outputs = self.states = self.rounding = 0.0
        self.log = ["begun"]

    def allocated(self, buffer: int, window: int, context: int = CONTEXT) -> Any:
        """A cache whose memory is not what it was made with."""
        options = {"dtype": torch.float32, "buffer": buffer, "window": window}
        if self.kind == "short":
            options["short_context"] = context
        cache = self.module.Cache.empty(
            SLOTS, LAYERS, device="cpu", first_slot=self.first, **options
        )
        tensors = cache.tensors
        for name, tensor in tensors.items():
            if name not in BOOKS:
                tensor.fill_(math.nan if tensor.is_floating_point() else -12345)
        if self.kind == "apart":
            lists = {
                held.name: [tensors[held.name][:, layer].clone() for layer in range(LAYERS)]
                for held in self.module.Cache.table.held
            }
            cache = self.module.Cache.wrap(lists, window=window, first_slot=self.first)
        return cache

    # -- drawing

    def ids(self, slots: list[int]) -> torch.Tensor:
        return torch.tensor(slots, dtype=self.draw.choice([torch.int32, torch.int64]))

    def padded(self, slots: list[int]) -> list[int]:
        """The slots in any order, padding among them."""
        padding = [-1, -3, *range(self.first)]
        found = slots + [self.draw.choice(padding) for _ in range(self.draw.randint(0, 2))]
        self.draw.shuffle(found)
        return found

    def some(self, slots: Any) -> list[int]:
        return [slot for slot in slots if self.draw.random() < 0.5]

    def inputs(self, tokens: int, real: torch.Tensor) -> Tensors:
        """Inputs of tokens in memory of any layout, NaN where nobody may look."""
        drawn = self.sampler.inputs(tokens, torch.float32)
        for x in drawn.values():
            x[~real] = math.nan
        return self.draw.choice([plain, packed, padded])(drawn)

    def out(self, *front: int) -> torch.Tensor:
        spec = self.made.analysis.spec
        shape = (*front, self.cache.heads, spec.size("V"))
        wide = torch.full((*shape[:-1], shape[-1] + 3), math.nan)
        return wide[..., : shape[-1]]

    # -- rows come and go

    def fresh(self) -> list[Tensors]:
        spec = self.made.analysis.spec
        return [
            {
                each.name: torch.full(
                    (1, *map(spec.size, each.axes)), each.init, dtype=torch.float64
                )
                for each in spec.states
            }
            for _ in range(LAYERS)
        ]

    def reserve(self, slot: int, tokens: int) -> None:
        if self.kind == "short" and tokens > self.reserved[slot]:
            self.cache.reserve([slot, -1], tokens - self.reserved[slot])
            self.reserved[slot] = tokens

    def hold(self, slot: int, saved: tuple[int, bool]) -> None:
        """Room for a row that comes back, for its state too where it has one or folds at once."""
        cursor, stateful = saved
        if self.kind == "short":
            context, window = self.cache.short_context, self.cache.window
            folds = stateful or context - cursor < window
            self.reserve(slot, max(self.reserved[slot], cursor, 1))
            if folds and self.cache.state_of[slot] < 0:
                self.reserve(slot, max(self.reserved[slot], context - window) + 1)

    def admit(self, slots: list[int]) -> None:
        self.log.append(f"admit {slots}")
        self.cache.reset(self.ids(self.padded(slots)))
        loaded = self.draw.random() < 0.3
        for slot in slots:
            self.rows[slot] = self.fresh()
            if loaded:
                self.hold(slot, (0, True))
                for layer in range(LAYERS):
                    given = self.sampler.states(1)
                    state = given if len(given) > 1 else given[self.made.analysis.form.state.name]
                    self.cache.load(layer, self.ids([slot]), state)
                    self.rows[slot][layer] = {key: x.double() for key, x in given.items()}
            self.past[slot] = {0: self.rows[slot]}

    def leave(self, slot: int) -> None:
        self.log.append(f"leave {slot}")
        if self.kind == "short" and self.draw.random() < 0.5:
            self.cache.release([slot])
            self.reserved[slot] = 0
        for known in (self.rows, self.past, self.late):
            known.pop(slot, None)

    def free(self) -> list[int]:
        taken = {*self.rows, *self.late}
        return [slot for slot in range(self.first, SLOTS) if slot not in taken]

    def settled(self) -> list[int]:
        return [slot for slot in self.rows if slot not in self.late]

    def move(self) -> None:
        """A row leaves for the host and comes back elsewhere, or into another cache."""
        slots = self.some(self.settled())
        if not slots:
            return
        order = self.padded(slots)
        saved = {key: x.clone() for key, x in self.cache.save(self.ids(order)).items()}
        if self.draw.random() < 0.5 and not self.late:
            self.elsewhere()
        free = self.free()
        self.draw.shuffle(free)
        targets = [
            free.pop() if slot in slots and free and self.draw.random() < 0.7 else slot
            for slot in order
        ]
        self.log.append(f"move {order} to {targets}")
        for slot, target in zip(order, targets, strict=True):
            if slot in slots:
                self.hold(target, saved_row(saved, order.index(slot)))
        self.cache.restore(self.ids(targets), saved)
        for slot, target in zip(order, targets, strict=True):
            if slot != target:
                for known in (self.rows, self.past):
                    known[target] = known.pop(slot)
        for slot in targets:
            if slot in self.rows:
                # of a row in pages only what it holds now is there
                cursor = int(self.cache.cursors[slot])
                self.past[slot] = {cursor: self.rows[slot]}

    def elsewhere(self) -> None:
        """All rows go on in a cache with another buffer and window."""
        rows, window = list(self.rows), self.draw.randint(WINDOW, 4)
        # a row that is longer than the buffer would not fit
        longest = max((int(self.cache.cursors[slot]) for slot in rows), default=0)
        buffer = self.draw.randint(max(longest, window), max(longest, window) + 5)
        context = self.draw.randint(max(longest, 8), 40)
        saved = self.cache.save(self.ids(rows))
        self.cache = self.allocated(buffer, window, context)
        self.log.append(f"another cache: buffer {buffer}, window {window}, context {context}")
        self.cache.reset(self.ids(list(range(SLOTS))))
        self.reserved = dict.fromkeys(range(SLOTS), 0)
        for slot in rows:
            self.hold(slot, saved_row(saved, rows.index(slot)))
        self.cache.restore(self.ids(rows), saved)
        for slot in rows:
            self.past[slot] = {int(self.cache.cursors[slot]): self.rows[slot]}

    def copy(self) -> None:
        free, rows = self.free(), self.settled()
        if not free or not rows:
            return
        targets = self.some(free)
        sources = [self.draw.choice(rows) for _ in targets]
        self.log.append(f"copy {sources} to {targets}")
        for source, target in zip(sources, targets, strict=True):
            self.reserve(target, self.reserved[source])
        padding = [-1] if self.draw.random() < 0.5 else []
        self.cache.copy(self.ids(sources + padding), self.ids(targets + padding))
        for source, target in zip(sources, targets, strict=True):
            self.rows[target], self.past[target] = self.rows[source], dict(self.past[source])

    def seek(self) -> None:
        """Rows go back, and some of them forward again."""
        carried = self.kind == "short" and self.module.Cache.table.carried
        slots = [] if carried else self.some(self.settled())
        wanted = {slot: self.draw.choice(list(self.past[slot])) for slot in slots}
        order = self.padded(slots)
        cursors = [wanted.get(slot, 99) for slot in order]
        self.log.append(f"seek {order} {cursors}")
        self.cache.seek(self.ids(order), torch.tensor(cursors, dtype=torch.int32))
        for slot, cursor in wanted.items():
            self.rows[slot] = self.past[slot][cursor]
            self.past[slot] = {at: x for at, x in self.past[slot].items() if at <= cursor}

    def flush(self) -> None:
        slots = self.some(self.settled())
        self.log.append(f"flush {slots}")
        self.module.flush(self.cache, self.ids(self.padded(slots)))
        for slot in slots:
            self.note_past(slot)

    def note_past(self, slot: int) -> None:
        cursor = int(self.cache.cursors[slot])
        if cursor == 0:
            self.past[slot] = {}
        self.past[slot][cursor] = self.rows[slot]

    # -- a step

    def follow(
        self, slot: int, layer: int, before: Tensors, inputs: Tensors, got: torch.Tensor
    ) -> Tensors:
        exact = {key: x.double() for key, x in {**inputs, **self.params[layer]}.items()}
        wanted, after = self.module.reference(before, **exact)
        storage, name = self.made.analysis.spec.storage, self.made.analysis.form.state.name
        if storage.state.narrow:
            # what rounding the state alone does to an output that is a small difference
            rounded = {**before, name: storage.state.read(before[name])}
            found, _ = self.module.reference(rounded, **exact)
            self.rounding = max(self.rounding, worst(found, wanted))
        self.outputs = max(self.outputs, worst(got, wanted))
        return after

    def chain(self, slot: int, layer: int, inputs: Tensors, got: torch.Tensor) -> list[Tensors]:
        """What a row is after each of its tokens."""
        found = [self.rows[slot][layer]]
        for token in range(got.shape[0]):
            own = {key: x[token : token + 1] for key, x in inputs.items()}
            found.append(self.follow(slot, layer, found[-1], own, got[token : token + 1]))
        return found

    def step(self) -> None:
        rows = [slot for slot in self.rows if self.draw.random() < 0.8]
        kinds = {slot: self.draw.choice(["decode", "verify", "extend", "plain"]) for slot in rows}
        chosen = {
            kind: [slot for slot in rows if kinds[slot] == kind]
            for kind in sorted(set(kinds.values()))
        }
        if self.kind == "short":
            chosen.setdefault("decode", []).extend(chosen.pop("plain", []))
        calls = [getattr(self, kind)(slots) for kind, slots in chosen.items() if slots]
        self.log.append(f"step {chosen}")
        for layer in range(LAYERS):
            for run, _ in calls:
                run(layer)
        for _, end in calls:
            end()

    def used(self, slots: list[int], tokens: int) -> None:
        """Room for more tokens, by what rows hold now."""
        for slot in slots if self.kind == "short" else ():
            cursor = int(self.cache.cursors[slot])
            stateful = bool(self.cache.tensors["stateful"][slot])
            folds = stateful or self.cache.short_context - cursor - tokens < self.cache.window
            self.hold(slot, (cursor + tokens, folds))

    def decode(self, slots: list[int], call: str = "decode") -> Any:
        self.used(slots, 1)
        order = self.padded(slots)
        after: dict[int, list[Tensors]] = {slot: [] for slot in slots}
        live = torch.tensor([slot in slots for slot in order])

        def run(layer: int) -> None:
            inputs, out = self.inputs(len(order), live), self.out(len(order))
            getattr(self.module, call)(
                self.cache, layer, self.ids(order), **inputs, **self.params[layer], out=out
            )
            for row, slot in enumerate(order):
                if slot in after:
                    own = {key: x[row : row + 1] for key, x in inputs.items()}
                    after[slot].append(self.chain(slot, layer, own, out[row : row + 1])[-1])
                else:
                    assert not out[row].any()

        def end() -> None:
            force = torch.tensor([self.draw.random() < 0.2 for _ in order])
            self.module.advance(self.cache, self.ids(order), self.draw.choice([None, force]))
            for slot in slots:
                self.rows[slot] = after[slot]
                self.note_past(slot)

        return run, end

    def plain(self, slots: list[int]) -> Any:
        return self.decode(slots, "recurrent")

    def extend(self, slots: list[int]) -> Any:
        order = self.padded(slots)
        lengths = {slot: self.draw.choice([0, 1, 2, 5, 9]) for slot in slots}
        for slot, length in lengths.items():
            if length:
                self.used([slot], length)
        apart = self.draw.random() < 0.5
        given = [lengths.get(slot, self.draw.randint(0, 3)) for slot in order]
        most = max(1, max(given)) + self.draw.randint(0, 2)
        begin = self.draw.randint(0, 2)
        starts = [begin + sum(given[:row]) for row in range(len(given) + 1)]
        total = starts[-1] + self.draw.randint(0, 2)
        if not apart and not total:
            total = 1
        after: dict[int, list[Tensors]] = {slot: [] for slot in slots}
        counts = torch.tensor(given, dtype=torch.int32)

        def run(layer: int) -> None:
            ids = self.ids(order)
            if apart:
                real = torch.tensor(
                    [
                        [slot in lengths and t < given[row] for t in range(most)]
                        for row, slot in enumerate(order)
                    ]
                ).flatten()
                drawn = self.inputs(len(order) * most, real)
                inputs = {key: x.unflatten(0, (len(order), most)) for key, x in drawn.items()}
                out = self.out(len(order), most)
                self.module.extend(
                    self.cache, layer, ids, **inputs, **self.params[layer], lengths=counts, out=out
                )
                parts = [
                    {key: x[row, : given[row]] for key, x in inputs.items()}
                    for row in range(len(order))
                ]
                outs = [out[row, : given[row]] for row in range(len(order))]
                assert not any(out[row, given[row] :].any() for row in range(len(order)))
            else:
                real = torch.zeros(total, dtype=torch.bool)
                for row, slot in enumerate(order):
                    real[starts[row] : starts[row + 1]] = slot in lengths
                inputs, out = self.inputs(total, real), self.out(total)
                self.module.extend(
                    self.cache,
                    layer,
                    ids,
                    **inputs,
                    **self.params[layer],
                    out=out,
                    starts=torch.tensor(starts, dtype=torch.int32),
                )
                cuts = [slice(starts[row], starts[row + 1]) for row in range(len(order))]
                parts = [{key: x[cut] for key, x in inputs.items()} for cut in cuts]
                outs = [out[cut] for cut in cuts]
                assert not out[: starts[0]].any() and not out[starts[-1] :].any()
            for slot, part, got in zip(order, parts, outs, strict=True):
                if slot in after:
                    after[slot].append(self.chain(slot, layer, part, got)[-1])
                else:
                    assert not got.any()

        def end() -> None:
            late = self.draw.random() < 0.3
            self.module.accept(self.cache, self.ids(order), counts=counts, late=late)
            for slot in slots:
                self.rows[slot] = after[slot]
                self.note_past(slot)

        return run, end

    def verify(self, slots: list[int]) -> Any:
        tokens = self.draw.randint(1, self.cache.window)
        order = self.padded(slots)
        self.used(slots, tokens)
        is_tree = self.draw.random() < 0.5
        trees = [tree(self.draw, tokens) for _ in order]
        paths = [(accepted(self.draw, each) + [-1] * tokens)[:tokens] for each in trees]
        counts = [self.draw.randint(0, tokens) for _ in order]
        after: dict[int, list[Tensors]] = {slot: [] for slot in slots}
        live = torch.tensor([slot in slots for slot in order]).repeat_interleave(tokens)

        def run(layer: int) -> None:
            drawn = self.inputs(len(order) * tokens, live)
            inputs = {key: x.unflatten(0, (len(order), tokens)) for key, x in drawn.items()}
            out = self.out(len(order), tokens)
            given = {"parents": torch.tensor(trees, dtype=torch.int32)} if is_tree else {}
            self.module.verify(
                self.cache, layer, self.ids(order), **inputs, **self.params[layer], **given, out=out
            )
            for row, slot in enumerate(order):
                if slot not in after:
                    assert not out[row].any()
                    continue
                own = {key: x[row] for key, x in inputs.items()}
                if not is_tree:
                    after[slot].append(self.chain(slot, layer, own, out[row])[counts[row]])
                    continue
                found: list[Tensors] = []
                for node, parent in enumerate(trees[row]):
                    before = found[parent] if parent >= 0 else self.rows[slot][layer]
                    part = {key: x[node : node + 1] for key, x in own.items()}
                    found.append(self.follow(slot, layer, before, part, out[row, node : node + 1]))
                kept = [node for node in paths[row] if node >= 0]
                after[slot].append(found[kept[-1]] if kept else self.rows[slot][layer])

        def end() -> None:
            if self.draw.random() < 0.5:
                for row, slot in enumerate(order):
                    if slot in slots:
                        kept = paths[row] if is_tree else counts[row]
                        self.late[slot] = kept, after[slot]
                return
            kept = (
                {"path": torch.tensor(paths, dtype=torch.int32)}
                if is_tree
                else {"counts": torch.tensor(counts, dtype=torch.int32)}
            )
            force = torch.tensor([self.draw.random() < 0.2 for _ in order])
            self.module.accept(self.cache, self.ids(order), **kept, force=force)
            for slot in slots:
                self.rows[slot] = after[slot]
                self.note_past(slot)

        return run, end

    def accept_late(self) -> None:
        """What waits is accepted, and rows that wait for nothing are in the call too."""
        if not self.late:
            return
        for is_tree in (True, False):
            waiting = {
                slot: each
                for slot, each in self.late.items()
                if isinstance(each[0], list) == is_tree
            }
            others = [slot for slot in self.rows if slot not in self.late]
            order = self.padded([*waiting, *others])
            self.log.append(f"late {list(waiting)} {order}")
            force = torch.tensor([self.draw.random() < 0.2 for _ in order])
            if is_tree:
                width = self.cache.window
                kept = [
                    (waiting[s][0] + [-1] * width if s in waiting else list(range(width)))[:width]
                    for s in order
                ]
                given = {"path": torch.tensor(kept, dtype=torch.int32)}
            else:
                kept = [waiting[s][0] if s in waiting else 1 for s in order]
                given = {"counts": torch.tensor(kept, dtype=torch.int32)}
            self.module.accept(self.cache, self.ids(order), **given, force=force, late=True)
            for slot, (_, after) in waiting.items():
                del self.late[slot]
                self.rows[slot] = after
                self.note_past(slot)

    # -- at random

    def turn(self) -> None:
        if self.draw.random() < 0.6 or not self.rows:
            free = self.free()
            self.admit(free[: self.draw.randint(1, 3)])
        between = [self.move, self.copy, self.seek, self.flush]
        if self.draw.random() < 0.5:
            self.accept_late()
        for act in self.draw.sample(between, 2):
            act()
        self.accept_late()
        if len(self.rows) > 4:
            self.leave(self.draw.choice(list(self.rows)))
        self.step()
        self.compare()

    def compare(self) -> None:
        slots = self.settled()
        order = self.padded(slots)
        for layer in range(LAYERS):
            read = self.cache.read(layer, self.ids(order))
            read = read if isinstance(read, dict) else {self.made.analysis.form.state.name: read}
            for name, got in read.items():
                for row, slot in enumerate(order):
                    if slot in slots:
                        error = worst(got[row : row + 1], self.rows[slot][layer][name])
                        self.states = max(self.states, error)
                    else:
                        assert not got[row].any()

    def run(self, turns: int) -> None:
        output, state = bounds(self.made.analysis.spec.storage, torch.float32)
        for turn in range(turns):
            self.log.append(f"turn {turn}")
            self.turn()
            # a mistake is larger than what a small difference of large numbers is off by
            assert self.outputs <= max(1e-3, 3 * output, 3 * self.rounding), (
                self.outputs,
                self.log[-12:],
            )
            assert self.states <= 3 * state, (self.states, self.log[-12:])


def saved_row(saved: Tensors, row: int) -> tuple[int, bool]:
    """A saved row's cursor, and whether it has a state."""
    return int(saved["cursors"][row]), "stateful" in saved and bool(saved["stateful"][row])
