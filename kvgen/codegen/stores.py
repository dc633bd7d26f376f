"""What a token leaves, records and carried states, and which programs store it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kvgen.algebra.form import Carry, Form
from kvgen.algebra.graph import Node
from kvgen.algebra.records import Records
from kvgen.codegen.addresses import carried_address, mask_of
from kvgen.codegen.names import local
from kvgen.codegen.printer import Emission, Text
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


def token_stores(
    form: Form,
    records: Records,
    shapes: Shapes,
    per_head: bool,
    unit: set[Node],
    token: Emission,
    values: Mapping[Node, Node],
    number: int,
) -> tuple[list[Store], list[Store]]:
    """The stores once a program, and those once a tile of values.

    values: for every node what it is for this token; number: which of the chain's it is.
    """
    unit_stores: list[Store] = []
    tile_stores: list[Store] = []
    spot = f"count + {number}" if number else "count"
    for stored in records.stored:
        node = values[stored.node]
        address = f"{local(stored.name)}_at + "
        if stored.channel:
            place = f"({spot})" if number else spot
            address += f"{place} * {shapes.size(stored.channel)} + {shapes.index(stored.channel)}"
        else:
            address += spot
        chosen = guards(form, stored.node, shapes, per_head, node in unit)
        level = unit_stores if node in unit else tile_stores
        text, block = token.known[node].text, bool(stored.channel)
        level.append(Store(address, text, (*_fits(number), *chosen), block))
    for carry in form.carries:
        node = values[carry.after]
        at_unit = node in unit and same_head(carry.axes.head, per_head)
        level = unit_stores if at_unit else tile_stores
        value = token.known[node]
        level.append(carried_store(carry, form, shapes, per_head, at_unit, value, number))
    return unit_stores, tile_stores


def _fits(number: int) -> tuple[str, ...]:
    # the first token always has room
    return (f"(count + {number} < PLACES)",) if number else ()


def carried_store(
    carry: Carry,
    form: Form,
    shapes: Shapes,
    per_head: bool,
    at_unit: bool,
    value: Text,
    number: int,
) -> Store:
    """A carried state's next value, beside the current one."""
    address = carried_address(form, carry.tensor.name, f"count + {number + 1}")
    chosen = (*_fits(number), *guards(form, carry.before, shapes, per_head, at_unit))
    channels = carry.axes.channels
    return Store(address, _spread(value, channels, shapes), chosen, bool(channels))


def same_head(head: str | None, per_head: bool) -> bool:
    return per_head or head != "HV"


def _spread(text: Text, channel: str, shapes: Shapes) -> str:
    """A scalar stored to a vector state is broadcast by the store's address block."""
    if not channel or text.dims:
        return text.text
    return f"{text.text} + tl.zeros([{shapes.extent(channel)}], tl.float32)"


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
