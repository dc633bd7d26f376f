"""What a kernel brings from memory of a token: inputs, parameters and carried states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of
from kvgen.algebra.naming import value_names
from kvgen.algebra.records import Records
from kvgen.codegen.addresses import carried_address, indexed, strided
from kvgen.codegen.names import namer_for, pointer_name, stride_name
from kvgen.codegen.printer import ATOM, Emission, Text, aligned
from kvgen.codegen.shapes import Shapes


def token_emission(
    form: Form, records: Records, shapes: Shapes, loads: Callable[[Node], Text | None]
) -> Emission:
    """Where a kernel computes a token's values, under the names that its documentation has."""
    namer, called = namer_for(form, records), value_names(form, records)
    return Emission(form.graph, namer, loads, masks=shapes.masks, called=called)


@dataclass
class TokenLoads:
    """Loads the current token's inputs, parameters and carried states.

    heads: the dimension of `head` where a program holds several of them, G. before: the place of
    the carried states as they are before the token.
    """

    form: Form
    shapes: Shapes
    heads: str
    before: str

    def __call__(self, node: Node) -> Text | None:
        leaf = leaf_of(node)
        if leaf.op == "carried":
            return self._carried(leaf)
        if leaf.op not in ("input", "param"):
            return None
        dims = self._dims(leaf, node.axes.channels)
        loads = loaded(self._address(leaf, node, dims), dims, self.shapes)
        return Text(f"{loads}.to(tl.float32)", ATOM, dims)

    def _address(self, leaf: Node, node: Node, dims: str) -> str:
        """Where a tile of an input or parameter lies."""
        name, axes = str(leaf.value), leaf.axes.names
        parts = [pointer_name(name)]
        if leaf.op == "input":
            parts.append(f"row * {name}_row")
        for position, axis in enumerate(axes):
            last = position == len(axes) - 1
            known = axis in ("H", "HV", "K", "V")
            index = indexed(axis, dims, self.heads) if known else str(node.value)
            parts.append(index if last else strided(index, f"{name}_{stride_name(axis)}"))
        return " + ".join(filter(None, parts))

    def _carried(self, leaf: Node) -> Text:
        address = carried_address(self.form, str(leaf.value), self.before, self.heads)
        dims = self._dims(leaf, leaf.axes.channels)
        return Text(loaded(address, dims, self.shapes), ATOM, dims)

    def _dims(self, leaf: Node, channel: str) -> str:
        return (self.heads if leaf.axes.head == "HV" else "") + channel


def loaded(address: str, dims: str, shapes: Shapes) -> str:
    masks: list[str] = []
    for channel, real in shapes.masks.items():
        if channel in dims:
            masks.append(aligned(Text(real, ATOM, channel), dims).text)
    return (
        f"tl.load({address}, mask={' & '.join(masks)}, other=0.0)"
        if masks
        else f"tl.load({address})"
    )
