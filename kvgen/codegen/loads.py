"""What a kernel brings from memory: a token's inputs, parameters and carried states, and recorded
values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of
from kvgen.algebra.naming import value_names
from kvgen.algebra.records import Records
from kvgen.codegen.addresses import carried_address, indexed, mask_of, strided
from kvgen.codegen.names import local, namer_for, pointer_name, stride_name
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
    records: Records
    shapes: Shapes
    heads: str = field(default="", kw_only=True)
    before: str = field(default="count", kw_only=True)

    def __call__(self, node: Node) -> Text | None:
        leaf = leaf_of(node)
        if leaf.op == "carried":
            return self._carried(leaf)
        if leaf.op == "previous":
            return newest_sum(self.form, self.records, self.shapes)
        if leaf.op not in ("input", "param"):
            return None
        dims = self._dims(leaf, node.axes.channels)
        address = self.address(node, dims, "")
        return Text(f"{loaded(address, dims, self.shapes)}.to(tl.float32)", ATOM, dims)

    def address(self, node: Node, dims: str, token: str) -> str:
        """Where a tile of an input or parameter lies; token: what holds numbers of tokens in 64
        bits, empty where there is one alone."""
        leaf = leaf_of(node)
        name, axes = str(leaf.value), leaf.axes.names
        parts = [pointer_name(name)]
        if leaf.op == "input":
            parts.append(f"row * {name}_row")
        if token:
            parts.append(strided(token, f"{name}_token"))
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


@dataclass
class RecordLoads:
    """Loads recorded values: at one place (`0` or `j`), or at all places of a tile (dimension P).

    held: a mask, beyond which 0 is loaded.
    """

    records: Records
    shapes: Shapes
    place: str
    held: str | None

    def __post_init__(self) -> None:
        self.by_node = {stored.node: stored for stored in self.records.stored}

    def __call__(self, node: Node) -> Text | None:
        stored = self.by_node.get(node)
        if stored is None:
            return None
        many = self.place not in ("0", "j")
        channel = stored.channel
        if not channel:
            address = f"{local(stored.name)}_at"
            if self.place != "0":
                address += f" + {self.place}"
            mask = f", mask={self.held}, other=0.0" if self.held else ""
            text = f"tl.load({address}{mask})"
        else:
            size, index = self.shapes.size(channel), self.shapes.index(channel)
            row, column = (f"{self.place}[:, None]", f"{index}[None, :]") if many else (
                self.place, index
            )  # fmt: skip
            held = [f"{self.held}[:, None]" if many else self.held] if self.held else []
            real = [f"real_{index}[None, :]" if many else f"real_{index}"]
            real = real if self.shapes.masked(channel) else []
            masks = " & ".join([*held, *real]) if many else mask_of(held, real)
            mask = f", mask={masks}, other=0.0" if masks else ""
            start = "" if self.place == "0" else f"{row} * {size} + "
            text = f"tl.load({local(stored.name)}_at + {start}{column}{mask})"
        if stored.dtype.narrow:
            text += ".to(tl.float32)"
        return Text(text, ATOM, ("P" if many else "") + channel)


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


def newest_sum(form: Form, records: Records, shapes: Shapes) -> Text:
    """The running sum of log decays up to the newest record; 0 in an empty buffer."""
    assert form.factored is not None
    name = next(s.name for s in records.stored if s.node is form.factored.after)
    mask = mask_of(["(count > 0)"], ["real_key"] if shapes.masks_k else [])
    address = f"{local(name)}_at + (count - 1) * {shapes.k} + key"
    return Text(f"tl.load({address}, mask={mask}, other=0.0)", ATOM, "K")
