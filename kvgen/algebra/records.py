"""What a token leaves in the buffer, and what is derived from it when it is read back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvgen.algebra.form import Form
from kvgen.algebra.graph import LEAVES, Node, reachable
from kvgen.formats.dtypes import FLOAT32, GIVEN, Dtype
from kvgen.formats.registry import STATES
from kvgen.functions.norm import root_below
from kvgen.functions.registry import reduces

INPUT_BYTES = 2


@dataclass(frozen=True)
class Stored:
    """One recorded value a token: its tensor's name, the node, and what it is kept in."""

    name: str
    node: Node
    dtype: Dtype

    @property
    def as_given(self) -> bool:
        """Whether it is kept in the inputs' dtype, the cache's."""
        return self.dtype == GIVEN

    @property
    def heads(self) -> str | None:
        return self.node.axes.head

    @property
    def channel(self) -> str:
        return self.node.axes.channels

    def elements(self, sizes: Mapping[str, Any]) -> int:
        """Elements a token leaves, all heads together."""
        count = sizes[self.heads] if self.heads else 1
        return count * (sizes[self.channel] if self.channel else 1)

    def bytes(self, sizes: Mapping[str, Any], input_bytes: int = INPUT_BYTES) -> int:
        return self.elements(sizes) * self.dtype.bytes(input_bytes)


@dataclass(frozen=True)
class Records:
    """The stored values, and whether a fold recomputes the writes from the full state.

    replay: the state keeps more precision than a decode reads, and the writes depend on reads, so a
    fold runs each recorded token again on the full state. exact: a decode of such a state reads all
    of it, for what is carried from a read is not computed again.
    """

    stored: tuple[Stored, ...]
    replay: bool
    exact: bool = False

    def bytes(self, sizes: Mapping[str, Any], input_bytes: int = INPUT_BYTES) -> int:
        return sum(stored.bytes(sizes, input_bytes) for stored in self.stored)

    def decoded(self, form: Form) -> tuple[Stored, ...]:
        """What a decode reads of every record: what only a replay needs is left out."""
        if form.emptied:
            return ()
        known = {stored.node for stored in self.stored}
        used = _derived_from(decode_needs(form), known)
        return tuple(stored for stored in self.stored if stored.node in used)

    def folded(self, form: Form) -> tuple[Stored, ...]:
        """What a fold reads of every record: a replay computes again what depends on a read."""
        if not self.replay:
            return self.decoded(form)
        return tuple(stored for stored in self.stored if not stored.node.reads)


def plan_records(form: Form) -> Records:
    """Choose the stored values for the spec's storage mode."""
    storage = form.spec.storage
    exact = storage.state.partial and form.carries_read
    replay = form.replays and not form.carries_read
    stored: list[Stored] = []
    if form.factored:
        # the point of factored keys is that nothing is left to do when they are read back
        kept = (form.factored.after, *form.factored.keys)
        stored += [_computed(node, form) for node in dict.fromkeys(kept)]
    for node in _needs(form, replay):
        _store(stored, node, form, replay)
    if form.emptied:
        stored = _without_sums(stored)
    return Records(_named(stored, form), replay, exact)


def decode_needs(form: Form) -> list[Node]:
    """What a decode reads of every record: its summed decays, w and d."""
    needed = [decay.log for decay in form.summed_decays]
    for key, write in zip(form.keys, form.writes, strict=True):
        needed += [key, write.d]
    return list(dict.fromkeys(needed))


def replay_needs(form: Form) -> list[Node]:
    """What a fold needs to run a recorded token again: columns, and all that no read touches."""
    needed: dict[Node, None] = {decay.log: None for decay in form.decays}
    seen: set[Node] = set()
    pending = [node for write in form.writes for node in (write.w, write.d)]
    while pending:
        node = pending.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if node.op == "read":
            needed[node.args[0]] = None
        elif node.reads:
            pending.extend(node.args)
        else:
            needed[node] = None
    return list(needed)


def _needs(form: Form, replay: bool) -> list[Node]:
    needed = dict.fromkeys(replay_needs(form) if replay else ())
    needed.update(dict.fromkeys(() if form.emptied else decode_needs(form)))
    # decays first, for other factors may follow from their logs
    logs = {decay.log for decay in form.decays}
    return sorted(needed, key=lambda node: (node.reads, node not in logs, node.order))


def _derivable(root: Node, stored: Collection[Node], summed: str = "") -> set[Node]:
    """What follows from the stored ones, of these and all that is above them below a root. summed:
    a channel over which sums do, too."""
    found = set(stored)
    for node in reachable([root], found):
        alone = node.op in (*LEAVES, "read", "index") or (reduces(node) and node.value != summed)
        if node.is_const or (not alone and all(arg in found for arg in node.args)):
            found.add(node)
    return found


def _derived_from(nodes: list[Node], stored: set[Node]) -> set[Node]:
    """The stored nodes that the given ones are derived from."""
    used: set[Node] = set()
    seen: set[Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in stored:
            used.add(node)
        elif node not in seen:
            seen.add(node)
            pending.extend(node.args)
    return used


def _computed(node: Node, form: Form) -> Stored:
    """A value as it is computed. Numbers and log decays are float32, for they add up."""
    added = {decay.log for decay in form.decays}
    added |= {form.factored.after} if form.factored else set()
    number = node in added or not node.axes.channels
    return Stored("", node, FLOAT32 if number else form.spec.storage.records.vectors)


def _store(stored: list[Stored], node: Node, form: Form, replay: bool) -> None:
    if node in _derivable(node, {kept.node for kept in stored}):
        return
    exact, storage = _computed(node, form), form.spec.storage
    if not storage.records.derives:
        stored.append(exact)
        return
    if node.reads:
        # a correction read from the rounded half of the state may be rounded itself, for its exact
        # value is recomputed when it is folded; so may one that a fold rounds as much
        rounded = replay or storage.state.coarse
        stored.append(replace(exact, dtype=GIVEN) if rounded else exact)
        return
    sizes = dict(form.spec.sizes)
    cover = _cover(node, stored)
    if cover is None or sum(s.bytes(sizes) for s in cover) >= exact.bytes(sizes):
        stored.append(exact)
    else:
        stored.extend(cover)


def _without_sums(stored: list[Stored]) -> list[Stored]:
    """Without the numbers that follow from other values: a fold, which has a token's whole key,
    sums up again what is a norm of it."""
    left = list(stored)
    for number in [kept for kept in stored if not kept.channel]:
        others = [kept.node for kept in left if kept is not number]
        if number.node in _derivable(number.node, others, summed="K"):
            left.remove(number)
    return left


def _cover(root: Node, stored: list[Stored]) -> list[Stored] | None:
    """Inputs as they came plus float32 scalars from which the node follows, or None."""
    cover: list[Stored] = []
    follows = _derivable(root, {kept.node for kept in stored})
    seen: set[Node] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if node in seen or node in follows:
            continue
        seen.add(node)
        raw = node.args[0] if node.op == "index" else node
        as_it_came = raw.op == "input" and node.axes.channels
        if as_it_came or not node.axes.channels:
            cover.append(Stored("", node, GIVEN if as_it_came else FLOAT32))
            follows = _derivable(root, {*follows, node})
        elif node.op in (*LEAVES, "index") or reduces(node) or node.reads:
            return None
        else:
            pending.extend(node.args)
    return cover


def _named(stored: list[Stored], form: Form) -> tuple[Stored, ...]:
    """Names from the spec where it has one for the value, else from its part in the form."""
    roles: dict[Node, str] = {}
    for decay in form.decays:
        roles[decay.log] = f"log_decay_{decay.channel}" if decay.channel else "log_decay"
    for key, write in zip(form.keys, form.writes, strict=True):
        roles.setdefault(key, "write_key")
        roles.setdefault(write.d, "write_value")
    taken = {"cursors", "skipped", "pending", "work", *(c.tensor.name for c in form.carries)}
    taken |= {past.name for past in form.spec.pasts}
    # in every format, so that records have the same names in all
    taken |= {plane for each in STATES.values() for plane in each.names(form.state.name)}
    taken |= {"pages", "state_pages", "stateful"}
    named: list[Stored] = []
    # how often a name was wanted, so that a much wanted one is found at once
    counts: dict[str, int] = {}
    for kept in stored:
        node = kept.node
        base = form.graph.names.get(node)
        if base is None and node.op == "index":
            base = f"{node.args[0].value}{node.value}"
        base = base or roles.get(node) or _described(node, form) or "factor"
        name, count = base, counts.get(base, 1)
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        counts[base] = count
        named.append(replace(kept, name=name))
    return tuple(named)


def _described(node: Node, form: Form) -> str | None:
    """A name for a function of one named value, such as sigmoid_b, or for a norm's reciprocal."""
    if root_below(node) is not None:
        return "inverse_norm"
    if len(node.args) == 1 and node.args[0] in form.graph.names:
        return f"{node.op}_{form.graph.names[node.args[0]]}"
    return None
