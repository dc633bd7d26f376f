"""What a token leaves, records and carried states, and which programs store it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node
from kvgen.codegen.addresses import mask_of
from kvgen.codegen.shapes import Shapes


@dataclass(frozen=True)
class Store:
    """One value a decode leaves: the address, the text, and which programs store it.

    block: whether the address is that of several elements.
    """

    address: str
    value: str
    guards: tuple[str, ...]
    block: bool

    @property
    def line(self) -> str:
        lanes = [guard for guard in self.guards if guard.startswith("real_")]
        program = [guard for guard in self.guards if guard not in lanes]
        mask = f", mask={mask_of(program, lanes, block=self.block)}" if self.guards else ""
        return f"tl.store({self.address}, {self.value}{mask})"


def needs_leads(stores: Iterable[Store]) -> bool:
    """Whether only a group's first head stores something."""
    return any("leads" in guard for store in stores for guard in store.guards)


def same_head(head: str | None, per_head: bool) -> bool:
    return per_head or head != "HV"


def guards(
    form: Form, node: Node, shapes: Shapes, per_head: bool, at_unit: bool
) -> tuple[str, ...]:
    """Of the programs that compute the same value, one stores it."""
    found: list[str] = []
    axes = node.axes
    if axes.head is None:
        found.append("(head == 0)" if per_head or not at_unit else "(group == 0)")
    elif axes.head == "H" and form.spec.ratio > 1 and (per_head or not at_unit):
        found.append("leads")
    if axes.channels != "V":
        found.append("(part == 0)" if at_unit else "(value_tile == 0)")
    if axes.channels and shapes.masked(axes.channels):
        found.append(f"real_{shapes.index(axes.channels)}")
    return tuple(found)
