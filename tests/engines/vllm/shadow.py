"""Beside every call of every layer in a running engine the recurrence in float64."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from kvgen.formats import registry
from kvgen.integrations.vllm.group import Group, Groups

# a layer's row: the group, which of its layers, the block
Row = tuple[int, int, int]


class Shadow:
    """states: of each row as they must be, what inputs were among them. worst: errors of outputs
    and of folded states, as ‖x − x*‖ / ‖x*‖. counts: what was seen of each."""

    def __init__(self, state: str) -> None:
        self.format = registry.STATES[state]
        self.states: dict[Row, dict[str, torch.Tensor]] = {}
        self.windows: dict[Row, dict[str, torch.Tensor]] = {}
        self.worst: dict[str, float] = {"output": 0.0, "state": 0.0}
        self.counts: Counter[str] = Counter()

    def watch(self) -> None:
        """From now on all groups are looked at."""
        begin, decode, verify = Groups.begin, Group.decode, Group.verify

        def watched_begin(groups: Groups, rows: Any) -> None:
            begin(groups, rows)
            for group, own in zip(groups.each, rows, strict=True):
                self.begun(group, **own)

        def watched_decode(group: Group, layer: int, given: Any, out: torch.Tensor) -> None:
            self.look_up(group, layer, group.decoding)
            decode(group, layer, given, out)
            for at, block in enumerate(group.decoding.tolist()):
                if block:
                    self.taken(group, (id(group), layer, block), row_of(group, given, at), out[at])
                    self.counts["decoded"] += 1

        def watched_verify(group: Group, layer: int, given: Any) -> torch.Tensor:
            self.look_up(group, layer, group.drafted)
            out = verify(group, layer, given)
            for at, block in enumerate(group.drafted.tolist()):
                if block:
                    self.checked(
                        group, (id(group), layer, block), row_of(group, given, at), out[at]
                    )
                    self.counts["verified"] += 1
            return out

        Groups.begin, Group.decode, Group.verify = watched_begin, watched_decode, watched_verify

    def begun(self, group: Group, **rows: Any) -> None:
        drafted, accepted = rows.get("drafted"), rows.get("accepted")
        if drafted is not None:
            for block, count in zip(drafted.tolist(), accepted.tolist(), strict=True):
                for layer in range(group.size):
                    row = id(group), layer, block
                    window = self.windows.pop(row, None)
                    for token in range(count if window else 0):
                        one = {name: x[token] if name in group.module.INPUTS else x
                               for name, x in window.items()}  # fmt: skip
                        self.states[row] = self.next(group, row, one)[1]
                        self.counts["kept"] += 1
        prompts, continued = rows.get("prompts"), rows.get("continued")
        if prompts is not None:
            for block, more in zip(prompts.tolist(), continued.tolist(), strict=True):
                self.counts["continued" if more else "started"] += 1
                for layer in range(group.size):
                    row = id(group), layer, block
                    if more and row in self.states:
                        self.folded(group, row)
                    self.states.pop(row, None)
                    self.windows.pop(row, None)

    def look_up(self, group: Group, layer: int, blocks: torch.Tensor) -> None:
        """Rows without records have all in the state that is kept."""
        for block in blocks.tolist():
            row = id(group), layer, block
            if block and int(group.cache.cursors[block]) == 0:
                if row in self.states:
                    self.folded(group, row)
                    self.counts["folded"] += 1
                else:
                    self.states[row] = {"S": self.kept(group, row), **self.past(group, row)}

    def kept(self, group: Group, row: Row) -> torch.Tensor:
        """What lies in a page, [HV, K, V]."""
        _, layer, block = row
        table = group.module.Cache.table
        planes = [group.cache.tensors[name][block, layer] for name in table.planes]
        state = self.format.joined(planes).double().clone()
        return state.mT if table.held[0].axes[-1] == "K" else state

    def past(self, group: Group, row: Row) -> dict[str, torch.Tensor]:
        """What inputs were, of a module that convolves."""
        _, layer, block = row
        if not hasattr(group.cache, "pasts"):
            return {}
        found = group.past(layer, torch.tensor([block], dtype=torch.int32))
        return {name: rows[0].double() for name, rows in found.items()}

    def folded(self, group: Group, row: Row) -> None:
        found, state = self.kept(group, row), self.states[row]["S"]
        self.note("state", found, state)

    def next(
        self, group: Group, row: Row, given: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        module = group.module
        one = {
            name: x.double()[None] if name in module.INPUTS else x.double()
            for name, x in given.items()
        }
        before = {name: state[None] for name, state in self.states[row].items()}
        o, states = module.reference(before, **one)
        return o[0], {name: state[0] for name, state in states.items()}

    def taken(self, group: Group, row: Row, given: Any, out: torch.Tensor) -> None:
        o, self.states[row] = self.next(group, row, given)
        self.note("output", out, o)

    def checked(self, group: Group, row: Row, given: Any, out: torch.Tensor) -> None:
        kept = self.states[row]
        for token in range(out.shape[0]):
            one = {
                name: x[token] if name in group.module.INPUTS else x for name, x in given.items()
            }
            o, self.states[row] = self.next(group, row, one)
            self.note("output", out[token], o)
        self.states[row] = kept
        self.windows[row] = given

    def note(self, what: str, found: torch.Tensor, exact: torch.Tensor) -> None:
        error = float((found.double() - exact).norm() / exact.norm().clamp(min=1e-30))
        self.worst[what] = max(self.worst[what], error)


def row_of(group: Group, given: Any, at: int) -> dict[str, torch.Tensor]:
    """One row's inputs, kept as they are now, and the parameters."""
    inputs = group.module.INPUTS
    return {name: x[at].clone() if name in inputs else x for name, x in given.items()}
