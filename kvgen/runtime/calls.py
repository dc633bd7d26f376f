"""What the calls of a step have left, kept on the host where values are checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from kvgen.runtime.arguments import Sized, captured, is_row, strict, wrong
from kvgen.runtime.numbers import listed

# kernels that write states in place, and what ends their step
IN_PLACE = {"recurrent": "advance", "extend": "accept"}


class Call(NamedTuple):
    """A layer's last call for a row. parents: the tokens' where they are a tree's."""

    kernel: str
    tokens: int
    parents: list[int] | None

    def __str__(self) -> str:
        tree = " of a tree" if self.parents else ""
        return f"`{self.kernel}` of {self.tokens} token{'s' if self.tokens > 1 else ''}{tree}"


class Calls:
    """What each layer's last call of an open step has left of each row.

    of: slot -> layer -> call. A slot that is known to have nothing has no layers.
    unseen: calls were made whose values are not checked: the next end of a step is not either.
    captured: such calls are in a graph, which may be replayed at any time.
    """

    def __init__(self) -> None:
        self.of: dict[int, dict[int, Call]] = {}
        self.unseen = self.captured = False

    def add(
        self, cache: Sized, layer: int, slots: Tensor, kernel: str, tokens: int | Tensor,
        parents: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Remember a call. tokens: of every row, or of each; rows of 0 have no part in it."""
        if not self.sees(slots):
            self.unseen = True
            return
        rows = listed(slots)
        counts = listed(tokens) if isinstance(tokens, Tensor) else [tokens] * len(rows)
        trees = [None] * len(rows) if parents is None else listed(parents)
        for slot, count, tree in zip(rows, counts, trees, strict=True):
            if is_row(cache, slot) and count:
                self.of.setdefault(slot, {})[layer] = Call(kernel, count, tree)

    def end(
        self, cache: Sized, slots: Tensor, counts: Tensor | None = None,
        path: Tensor | None = None, late: bool = False,
    ) -> None:  # fmt: skip
        """Forget the rows' calls, once what the end of a step keeps of them is there: one token, or
        as given. late: rows that nothing waits for have no part in it."""
        if not self.sees(slots) or self.unseen or self.captured:
            self.of, self.unseen = {}, False
            return
        rows, pending = listed(slots), listed(cache.tensors["pending"])
        kept = [1] * len(rows) if counts is None else listed(counts)
        nodes: list[Any] = [None] * len(rows) if path is None else listed(path)
        stay: set[int] = set()
        end = "advance" if counts is None and path is None else "accept"
        for slot, count, given in zip(rows, kept, nodes, strict=True):
            if not is_row(cache, slot) or (slot not in self.of and pending[slot] != 0):
                # padding, or begun by what the host did not see
                continue
            if late and pending[slot] == 0:
                stay.add(slot)
                continue
            if given is not None:
                count = next((place for place, node in enumerate(given) if node < 0), len(given))
            # what keeps nothing of a step drops it
            if count:
                call = self.whole(cache, slot, end)
                if given is not None:
                    check_nodes(slot, given, count, call)
                elif counts is not None:
                    check_count(slot, count, call)
                elif call.kernel == "verify" and call.tokens > 1:
                    came = f"slot {slot} comes from `verify` of {call.tokens} tokens"
                    raise wrong("slots", came, "`accept`")
        self.drop(slot for slot in rows if slot not in stay)

    def whole(self, cache: Sized, slot: int, end: str) -> Call:
        """The one call that all layers have made for a row."""
        layers = self.of.get(slot, {})
        if not layers:
            expected = f"one in every layer before `{end}`"
            raise wrong("slots", f"slot {slot} has no token in this step", expected)
        left_out = [layer for layer in range(cache.layers) if layer not in layers]
        if left_out:
            expected = f"a call of all {cache.layers} layers before `{end}`"
            raise wrong("slots", f"slot {slot} has no token in layer {left_out[0]}", expected)
        for layer, call in layers.items():
            if call != layers[0]:
                came = f"slot {slot} had {layers[0]} in layer 0 and {call} in layer {layer}"
                raise wrong("slots", came, "the same in every layer")
        return layers[0]

    def check_once(
        self, cache: Sized, layer: int, slots: Tensor, lengths: Tensor | None = None
    ) -> None:
        """A kernel that writes in place takes a row's tokens once a step."""
        if not strict(slots):
            return
        counts = [1] * slots.numel() if lengths is None else listed(lengths)
        pending = listed(cache.tensors["pending"])
        for slot, count in zip(listed(slots), counts, strict=True):
            call = self.of.get(slot, {}).get(layer)
            # nothing is pending where the caller has set the row back
            if count and call and call.kernel in IN_PLACE and pending[slot] != 0:
                came = f"{layer} has run `{call.kernel}` for slot {slot} in this step, "
                came += "which writes in place"
                raise wrong("layer", came, f"`{IN_PLACE[call.kernel]}` first")

    def in_place(self, slot: int) -> str | None:
        """Which kernel has written a row's state in this step; none, as far as is known."""
        kernels = (call.kernel for call in self.of.get(slot, {}).values())
        return next((kernel for kernel in kernels if kernel in IN_PLACE), None)

    def drop(self, rows: Iterable[int]) -> None:
        for slot in rows:
            self.of.pop(slot, None)

    def reset(self, slots: Tensor) -> None:
        """Rows that start afresh have nothing."""
        if self.sees(slots):
            self.drop(listed(slots))

    def load(self, layer: int, slots: Tensor) -> None:
        """A row whose state in a layer is written anew may run there again."""
        if self.sees(slots):
            for slot in listed(slots):
                call = self.of.get(slot, {}).get(layer)
                if call and call.kernel in IN_PLACE:
                    del self.of[slot][layer]

    def flush(self, cache: Sized, slots: Tensor) -> None:
        """Rows that are folded lose what they had in this step, but for what is in their states."""
        if self.sees(slots):
            rows = (slot for slot in listed(slots) if is_row(cache, slot))
            self.of |= {slot: {} for slot in rows if self.in_place(slot) is None}

    def copy(self, cache: Sized, src: Tensor, dst: Tensor) -> None:
        """A copy has what its source has, the open step included."""
        if self.sees(dst):
            for one, other in zip(listed(src), listed(dst), strict=True):
                if is_row(cache, one) and is_row(cache, other):
                    self.drop([other])
                    self.of |= {other: dict(self.of[one])} if one in self.of else {}

    def sees(self, slots: Tensor) -> bool:
        """Whether the host may look at slots; where it may not, it knows of none."""
        if strict(slots):
            return True
        self.of = {}
        self.captured = self.captured or captured(slots)
        return False


def check_count(slot: int, count: int, call: Call) -> None:
    """What `accept` may keep of a row's tokens: the first of them, or all that are in its state."""
    came = f"{count} for slot {slot}"
    if call.kernel in IN_PLACE and count != call.tokens:
        expected = f"{call.tokens}, all that `{call.kernel}` has taken in"
        raise wrong("counts", came, expected)
    if count > call.tokens:
        expected = f"0 to {call.tokens}, as many as `{call.kernel}` has recorded"
        raise wrong("counts", came, expected)
    if call.parents and any(max(call.parents[node], -1) != node - 1 for node in range(count)):
        raise wrong("counts", came, "a `path`, as the first nodes of this tree are no chain")


def check_nodes(slot: int, path: list[int], count: int, call: Call) -> None:
    """Whether `accept` keeps a path of a row's tree, or of its chain."""
    before, tokens, parents = -1, call.tokens, call.parents
    for node in path[:count]:
        parent = node - 1 if parents is None or node >= tokens else max(parents[node], -1)
        if node >= tokens or parent != before:
            expected = f"nodes below {tokens}, which `{call.kernel}` has recorded, "
            expected += "a root first and then each the child of the one before"
            raise wrong("path", f"{path} for slot {slot}", expected)
        before = node
