"""The scopes of each generated kernel: which values are computed where, as finished lines.

Templates hold the structure of a kernel; what the recurrence decides comes from here as text.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable
from kvgen.algebra.naming import value_names
from kvgen.algebra.records import Records, Stored
from kvgen.codegen.printer import ATOM, Emission, Namer, Text, aligned
from kvgen.language.spec import MAX_BUFFER, MAX_WINDOW
from kvgen.runtime.numbers import power_of_two

# names the templates use inside kernels; a spec's own names step aside
KERNEL_NAMES = """
tl triton torch math float int bool range min max abs sum len print
heads head group groups leads row slot part unit step tile value_tile key value blank
place skipped one marks counts held after newer oldest count j
since since_key since_value kept kept_key kept_value weight
total state high low item items entry layer listed real_key real_value
slot_count first_slot out_row out_head out_ptr dst_ptr src_ptr
slots_ptr cursors_ptr skipped_ptr pending_ptr work_ptr
PLACES SPAN TILE TILES PARTS PER_HEAD STAGES
token tokens real_token parent ancestors depth turn ready real_log position spot fits last later
long_token long_position
path path_key path_value log log_key log_value weights rest rest_key rest_value
lasting lasting_key lasting_value total_key total_value since_key since_value
whole start length stays back index word within spot_page pages_held real_state next
TOKENS WINDOW TREE
first final number page pages places state_page stateful table words
pages_ptr state_pages_ptr stateful_ptr table_ptr CONTEXT BUFFER TABLE RING PAGES
blocks newer_page newer_within oldest_page cursor row_key ROWS
brought source target
limit wanted PACKED LATE SAVE ahead out_token block wide layers src dst
lengths_ptr parents_ptr parents_row parents_token
numbers_ptr matrices_ptr numbers_at matrices_at vectors_at out_at
first_head in_front begun HEADS NUMBERS HALVES
EARLY PDL DOT INTERPRETED EXACT ROUGH PROMPT PROMPT_MARK
"""


# as many elements as 32 bits tell apart
MOST_32 = 2**31
# more heads than any layer has
HEADS = 4096


@dataclass(frozen=True)
class Argument:
    """A tensor argument of a kernel: an input or parameter, and the strides it is read with."""

    name: str
    pointer: str
    strides: tuple[str, ...]
    axes: tuple[str, ...]
    is_input: bool


@dataclass
class Shapes:
    """How tiles are padded and masked: a mask is written only where a size is no power of two."""

    k: int
    v: int

    @property
    def masks_k(self) -> bool:
        return self.k & (self.k - 1) != 0

    @property
    def masks_v(self) -> bool:
        return self.v & (self.v - 1) != 0

    @property
    def least_span(self) -> int:
        """Places that a window's operands have at least: as tensor cores take them, but of keys so
        long that they would not fit in shared memory."""
        return min(16, max(1, 32768 // self.span("K")))

    def size(self, channel: str) -> int:
        return {"": 1, "K": self.k, "V": self.v}[channel]

    def span(self, channel: str) -> int:
        return power_of_two(self.size(channel))

    def extent(self, channel: str) -> str:
        """How long a tile is along the channel, as a text."""
        return {"": "1", "K": str(self.span("K")), "V": "TILE"}[channel]

    def index(self, channel: str) -> str:
        return "key" if channel == "K" else "value"

    def row_of_state(self, index: str) -> str:
        """The number of a row of a head's state as it is times the row's length.

        The elements of a head's state, as of its records, are numbered in 32 bits, which these
        sizes suffice for, unless there are more of them.
        """
        return index if self.k * self.v < MOST_32 else f"{index}.to(tl.int64)"

    def of_heads(self, index: str) -> str:
        """The number of a head as it is times the elements of a head's state or of its records."""
        most = max(self.k * self.v, MAX_BUFFER * max(self.k, self.v))
        return index if HEADS * most < MOST_32 else long_head(index)

    def masked(self, channel: str) -> bool:
        return self.masks_k if channel == "K" else self.masks_v

    @property
    def masks(self) -> dict[str, str]:
        return {c: f"real_{self.index(c)}" for c in "KV" if self.masked(c)}


def namer_for(form: Form, records: Records) -> Namer:
    taken = set(KERNEL_NAMES.split()) | set(keyword.kwlist)
    for tensor in (*form.spec.inputs, *form.spec.params):
        taken |= {pointer_name(tensor.name)}
        taken |= {f"{tensor.name}_{stride_name(axis)}" for axis in ("B", "H", *tensor.axes)}
        taken |= {f"{tensor.name}_token"}
    for name in cache_names(form, records):
        taken |= {f"{local(name)}_{part}" for part in ("ptr", "slot", "layer", "at")}
    taken |= {f"{carry.tensor.name}_context" for carry in form.carries}
    taken |= {long_token(number) for number in range(MAX_WINDOW)}
    return Namer(taken)


def token_emission(
    form: Form, records: Records, shapes: Shapes, loads: Callable[[Node], Text | None]
) -> Emission:
    """Where a kernel computes a token's values, under the names that its documentation has."""
    namer, called = namer_for(form, records), value_names(form, records)
    return Emission(form.graph, namer, loads, masks=shapes.masks, called=called)


def local(name: str) -> str:
    """What a tensor of the cache is called inside kernels, where inputs have names too."""
    return f"{name}_cache"


def cache_names(form: Form, records: Records) -> list[str]:
    """Every tensor of the cache that belongs to slots, layer by layer."""
    return [*form.planes, *(s.name for s in records.stored), *(c.tensor.name for c in form.carries)]


def arguments(form: Form, roots: list[Node]) -> list[Argument]:
    """The inputs and parameters that the roots need, in the spec's order."""
    used = {node.value for node in reachable(roots) if node.op in ("input", "param")}
    found: list[Argument] = []
    for tensor in (*form.spec.inputs, *form.spec.params):
        if tensor.name not in used:
            continue
        is_input = tensor.kind == "input"
        axes = (("B",) if is_input else ()) + tensor.axes
        strided = axes[:-1] if len(axes) > 1 else axes[: 1 if is_input else 0]
        strides = tuple(f"{tensor.name}_{stride_name(axis)}" for axis in strided)
        pointer = pointer_name(tensor.name)
        found.append(Argument(tensor.name, pointer, strides, tensor.axes, is_input))
    return found


def window_arguments(form: Form, roots: list[Node]) -> list[Argument]:
    """The arguments of a window of tokens: inputs have an axis of tokens behind that of rows."""
    return [
        replace(each, strides=(each.strides[0], f"{each.name}_token", *each.strides[1:]))
        if each.is_input
        else each
        for each in arguments(form, roots)
    ]


def pointer_name(name: str) -> str:
    # an input may have the name that `local` gives to a tensor of the cache
    return f"{name}_ptr_" if name.endswith("_cache") else f"{name}_ptr"


def stride_name(axis: str) -> str:
    word = axis.lower()
    taken = ("row", "token", "head", "ptr", "slot", "layer", "at")
    given = f"{word}_axis" if word in taken else word
    return {"B": "row", "H": "head", "HV": "head"}.get(axis, given)


# -- loads


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
        return self.given(node) if leaf.op in ("input", "param") else None

    def given(self, node: Node, token: int = 0, mask: str | None = None) -> Text:
        """An input or parameter, or a component of one; of an input, what a token of a window has,
        and 0 where the mask does not hold."""
        dims = self._dims(leaf_of(node), node.axes.channels)
        address = self.address(node, dims, long_token(token) if token else "")
        return Text(f"{loaded(address, dims, self.shapes, mask)}.to(tl.float32)", ATOM, dims)

    def address(self, node: Node, dims: str, token: str) -> str:
        """Where a tile of an input or parameter lies; token: what holds the number of a token
        after the first, or numbers, in 64 bits."""
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


def strided(index: str, stride: str) -> str:
    """How far an index is along an axis whose stride comes from a tensor; empty for the first.

    A stride may be anything, so what it is times has 64 bits: rows, slots and `long_token` have
    them, numbers, heads and groups get them here.
    """
    if index.isdecimal():
        return {"0": "", "1": stride}.get(index, f"tl.cast({index}, tl.int64) * {stride}")
    return f"{long_head(index)} * {stride}"


def long_head(index: str) -> str:
    """The number of a head or of a group, or of several, as it is times what may be large."""
    return f"{index}.to(tl.int64)" if index.startswith(("head", "group")) else index


def long_token(number: int) -> str:
    """What holds the number of one of a chain's tokens in 64 bits; nothing is needed for 1."""
    return str(number) if number < 2 else f"token_{number}"


def loaded(address: str, dims: str, shapes: Shapes, mask: str | None = None) -> str:
    masks = [mask] if mask else []
    for channel, real in shapes.masks.items():
        if channel in dims:
            masks.append(aligned(Text(real, ATOM, channel), dims).text)
    if len(masks) > 1:
        masks[0] = f"({masks[0]})"
    return (
        f"tl.load({address}, mask={' & '.join(masks)}, other=0.0)"
        if masks
        else f"tl.load({address})"
    )


def mask_of(program: Iterable[str], lanes: Iterable[str] = (), *, block: bool = True) -> str:
    """Conditions of a whole program, then those of each of its elements, as the mask of a block.

    Triton's interpreter takes a comparison of scalars for a number of their type, and from Triton
    3.9 on a number is no mask: True makes it a bool, and leaves no trace in compiled code.
    """
    scalars = list(program)
    bools = ["True"] if block and scalars else []
    return " & ".join([*bools, *scalars, *lanes])


def newest_sum(form: Form, records: Records, shapes: Shapes) -> Text:
    """The running sum of log decays up to the newest record; 0 in an empty buffer."""
    assert form.factored is not None
    name = next(s.name for s in records.stored if s.node is form.factored.after)
    mask = mask_of(["(count > 0)"], ["real_key"] if shapes.masks_k else [])
    address = f"{local(name)}_at + (count - 1) * {shapes.k} + key"
    return Text(f"tl.load({address}, mask={mask}, other=0.0)", ATOM, "K")


def indexed(axis: str, dims: str, heads: str = "") -> str:
    """Where a tile of such dimensions lies along an axis."""
    name, own = {"H": ("group", ""), "HV": ("head", heads), "K": ("key", "K"), "V": ("value", "V")}[
        axis
    ]
    return aligned(Text(name, ATOM, own), dims).text


def by_channel(name: str) -> dict[str, str]:
    """What a decay's values are called, by the channel that it depends on."""
    return {"": name, "K": f"{name}_key", "V": f"{name}_value"}


def head_count(axis: str | None, ratio: int) -> str:
    """How many heads a cache tensor has, in terms of the kernel's `heads`."""
    if axis is None:
        return "1"
    return "heads" if axis == "HV" or ratio == 1 else f"(heads // {ratio})"


def records_of_head(stored: Stored, shapes: Shapes, dims: str = "", heads: str = "") -> str:
    """What is added to reach a head's records, of which each head has PLACES.

    dims: those of the tile that is addressed. heads: the dimension of `head`, if it has one.
    """
    if stored.heads is None:
        return ""
    width = shapes.size(stored.channel)
    size = f"(PLACES * {width})" if width > 1 else "PLACES"
    return f" + {shapes.of_heads(indexed(stored.heads, dims, heads))} * {size}"


def carried_address(form: Form, name: str, place: str, heads: str = "", tokens: str = "") -> str:
    """Where a carried state lies after `place` records, in [slots, layers, places + 1, *axes].

    heads, tokens: the dimensions of `head` and of `place`, if they have one.
    """
    carry = next(c for c in form.carries if c.tensor.name == name)
    sizes = dict(form.spec.sizes)
    ratio = form.spec.ratio
    axes = carry.axes
    width = sizes[axes.channels] if axes.channels else 1
    dims = tokens + (heads if axes.head == "HV" else "") + axes.channels
    index = indexed(axes.head, dims, heads) if axes.head else None
    parts = [f"{local(name)}_at"]
    if place != "0":
        inner = place if place.isidentifier() else f"({place})"
        # the states of all heads, as far as the last place
        if (MAX_BUFFER + 1) * sizes.get(axes.head or "", 1) * width >= MOST_32:
            inner = f"{inner}.to(tl.int64)"
        factors = [aligned(Text(inner, ATOM, tokens), dims).text]
        factors += [head_count(axes.head, ratio)] if index else []
        factors += [str(width)] if width > 1 else []
        parts.append(" * ".join(factors))
    if index:
        parts.append(index if width == 1 else f"{index} * {width}")
    if axes.channels:
        parts.append(indexed(axes.channels, dims))
    return " + ".join(parts)


# -- levels


def unit_level(nodes: list[Node], per_head: bool) -> set[Node]:
    """The nodes a program computes once, before it goes over value tiles."""
    found: set[Node] = set()
    for node in nodes:
        moves = node.reads or "V" in node.axes.channels
        moves = moves or (not per_head and node.axes.head == "HV")
        if not moves and all(arg in found for arg in node.args):
            found.add(node)
    return found


def per_head(form: Form, records: Records) -> bool:
    """Whether a decode program serves one value head, because scores differ between heads."""
    sizes = dict(form.spec.sizes)
    if sizes["HV"] == sizes["H"] or any(d.channel == "K" for d in form.decays):
        return True
    grouped = [*form.columns, *(write.w for write in form.writes)]
    if any(c.axes.channels == "V" for c in form.columns):
        return True
    return any(node.axes.head == "HV" for node in grouped)


def newest_first(form: Form) -> bool:
    """Whether a program's places begin with the last: sums of channels' decays are to run that way,
    and in the other direction take two shuffles an element more."""
    return any(decay.channel for decay in form.summed_decays)


def boundary(
    columns: tuple[Node, ...], roots: list[Node], unit: set[Node]
) -> tuple[list[Node], list[Node]]:
    """Values to be ready before the tiles, and before the reads within one tile."""
    nodes = reachable(roots)
    before_tiles: dict[Node, None] = {}
    before_reads: dict[Node, None] = {}
    for node in nodes:
        for arg in node.args if node.op != "index" else ():
            if arg in unit and node not in unit and not arg.is_const:
                before_tiles[arg] = None
            if not arg.reads and arg not in unit and node.reads:
                before_reads[arg] = None
    for node in (*roots, *columns):
        if node.is_const or node.reads:
            continue
        (before_tiles if node in unit else before_reads)[node] = None
    return list(before_tiles), list(before_reads)
