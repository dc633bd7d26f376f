"""What a decode of short contexts reads back, as finished lines of Triton: keys and values at all
places of some pages, with the weights that scores are times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Graph, Node, reachable
from kvgen.algebra.records import Records
from kvgen.codegen.names import by_channel
from kvgen.codegen.operands import as_given, emit_number
from kvgen.codegen.printer import ATOM, Emission, Text, aligned


@dataclass
class Buffer:
    """The lines of keys and of values, and the texts the reads use."""

    unit: list[str] = field(default_factory=list)
    tile: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    # what a key is times, at every place, where only its input was loaded
    scales: list[str | None] = field(default_factory=list)
    weight: str | None = None

    def sides(self, near: str) -> Iterator[tuple[str, str, str | None]]:
        """Of every write what meets a column over `near`, what comes back, and the key's number."""
        if near == "K":
            return zip(self.keys, self.values, self.scales, strict=True)
        return zip(self.values, self.keys, [None] * len(self.keys), strict=True)


def sides_at_places(
    form: Form,
    records: Records,
    held: Emission,
    buffer: Buffer,
    given: Mapping[Node, tuple[Node, Node]],
    dims: tuple[str, str],
) -> None:
    """Both sides of every write at the places of a tile, with the decays over their channels.

    given: for tensor cores, which take 16 bits as they are: sides that are a recorded input times
    a number for each place. dims: those of the tiles that the two sides are.
    """
    narrow = {stored.node for stored in records.stored if stored.dtype.narrow}
    values = [write.d for write in form.writes]
    strays = [strays_from(write, held.load) for write in zip(form.keys, values, strict=True)]
    for node, stray in zip(form.keys, strays, strict=True):
        raw, scale = given.get(node, (None, None))
        if raw in narrow and "K" not in buffer.kept:
            assert raw is not None and scale is not None
            load = held.load(raw)
            assert load is not None
            name = held.namer.new(f"{held.name_of(raw)}_given")
            buffer.unit.append(f"{name} = {as_given(load)}")
            buffer.keys.append(name)
            number = emit_number(held, scale, buffer.unit)
            # one number for all places is spread over them as well
            if number and (stray or "P" not in number.dims):
                number = Text(f"tl.where(held, {number.text}, 0.0)", ATOM, number.dims)
            buffer.scales.append(number.inside(ATOM) if number else None)
            continue
        buffer.scales.append(None)
        text = _at_places(node, dims[0], stray, held, "write_key")
        buffer.unit += held.take()
        if "K" in buffer.kept:
            name = held.namer.new("keys_now")
            buffer.unit.append(f"{name} = {text} * tl.exp(since_key)")
            text = name
        buffer.keys.append(text)
    for node, stray in zip(values, strays, strict=True):
        if node in narrow and not stray and "V" not in buffer.kept:
            load = held.load(node)
            assert load is not None
            name = held.namer.new(f"{held.name_of(node)}_given")
            buffer.tile.append(f"{name} = {as_given(load)}")
            buffer.values.append(aligned(Text(name, ATOM, load.dims), dims[1]).text)
            continue
        text = _at_places(node, dims[1], stray, held, "write_value")
        buffer.tile += held.take()
        if "V" in buffer.kept:
            name = held.namer.new("values_now")
            buffer.tile.append(f"{name} = {text} * tl.exp(since_value)")
            text = name
        buffer.values.append(text)


def _at_places(node: Node, dims: str, stray: bool, held: Emission, name: str) -> str:
    """One side of a write at all places; stray: 0 has to be put where no record is held."""
    held.emit([node])
    text = held.clean(node)
    if stray:
        mask = aligned(Text("held", ATOM, "P"), dims).text
        chosen = f"tl.where({mask}, {aligned(text, dims).text}, 0.0)"
        text = Text(chosen, ATOM, dims)
    if text.binds != ATOM or "(" in text.text:
        text = held.bind(node, text, name)
    return aligned(text, dims).text


def strays_from(write: tuple[Node, Node], loaded: Callable[[Node], object]) -> bool:
    """Whether the outer product of what is derived from zeros, as they are loaded where no record
    is held, is not zero. loaded: whether a node is loaded, by its truth."""
    graph = Graph()
    found: dict[Node, Node] = {}
    for node in reachable(write, below=lambda node: () if loaded(node) else node.args):
        if loaded(node):
            found[node] = graph.const(0.0)
        elif node.is_const:
            found[node] = node
        else:
            try:
                found[node] = graph.rebuild(node, tuple(found[arg] for arg in node.args))
            except (ValueError, OverflowError):
                return True
    key, value = (found[node] for node in write)
    # an infinity times 0 is not 0 either
    return not (key.is_const and value.is_const and key.const * value.const == 0)


SINCE, KEPT, TOTAL = by_channel("since"), by_channel("kept"), by_channel("total")
