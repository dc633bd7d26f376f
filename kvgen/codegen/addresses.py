"""Where tiles lie in memory, as texts: indices along axes, what is added to reach a head's records
or a carried state, and the masks that tiles are loaded and stored under."""

from __future__ import annotations

from collections.abc import Iterable

from kvgen.algebra.form import Form
from kvgen.algebra.records import Stored
from kvgen.codegen.names import local
from kvgen.codegen.printer import ATOM, Text, aligned
from kvgen.codegen.shapes import MOST_32, Shapes, long_head
from kvgen.language.spec import MAX_BUFFER


def strided(index: str, stride: str) -> str:
    """How far an index is along an axis whose stride comes from a tensor; empty for the first.

    A stride may be anything, so what it is times has 64 bits: rows, slots and `long_token` have
    them, numbers, heads and groups get them here.
    """
    if index.isdecimal():
        return {"0": "", "1": stride}.get(index, f"tl.cast({index}, tl.int64) * {stride}")
    return f"{long_head(index)} * {stride}"


def indexed(axis: str, dims: str, heads: str = "") -> str:
    """Where a tile of such dimensions lies along an axis."""
    name, own = {"H": ("group", ""), "HV": ("head", heads), "K": ("key", "K"), "V": ("value", "V")}[
        axis
    ]
    return aligned(Text(name, ATOM, own), dims).text


def mask_of(program: Iterable[str], lanes: Iterable[str] = (), *, block: bool = True) -> str:
    """Conditions of a whole program, then those of each of its elements, as the mask of a block.

    Triton's interpreter takes a comparison of scalars for a number of their type, and from Triton
    3.9 on a number is no mask: True makes it a bool, and leaves no trace in compiled code.
    """
    scalars = list(program)
    bools = ["True"] if block and scalars else []
    return " & ".join([*bools, *scalars, *lanes])


def records_of_head(stored: Stored, shapes: Shapes, dims: str = "", heads: str = "") -> str:
    """What is added to reach a head's records, of which each head has PLACES.

    dims: those of the tile that is addressed. heads: the dimension of `head`, if it has one.
    """
    if stored.heads is None:
        return ""
    width = shapes.size(stored.channel)
    size = f"(PLACES * {width})" if width > 1 else "PLACES"
    return f" + {shapes.of_heads(indexed(stored.heads, dims, heads))} * {size}"


def carried_address(form: Form, name: str, place: str, heads: str = "") -> str:
    """Where a carried state lies after `place` records, in [slots, layers, places + 1, *axes].

    heads: the dimension of `head`, if it has one.
    """
    carry = next(c for c in form.carries if c.tensor.name == name)
    sizes = dict(form.spec.sizes)
    ratio = form.spec.ratio
    axes = carry.axes
    width = sizes[axes.channels] if axes.channels else 1
    dims = (heads if axes.head == "HV" else "") + axes.channels
    index = indexed(axes.head, dims, heads) if axes.head else None
    parts = [f"{local(name)}_at"]
    if place != "0":
        inner = place if place.isidentifier() else f"({place})"
        # the states of all heads, as far as the last place
        if (MAX_BUFFER + 1) * sizes.get(axes.head or "", 1) * width >= MOST_32:
            inner = f"{inner}.to(tl.int64)"
        factors = [inner]
        factors += [head_count(axes.head, ratio)] if index else []
        factors += [str(width)] if width > 1 else []
        parts.append(" * ".join(factors))
    if index:
        parts.append(index if width == 1 else f"{index} * {width}")
    if axes.channels:
        parts.append(indexed(axes.channels, dims))
    return " + ".join(parts)


def head_count(axis: str | None, ratio: int) -> str:
    """How many heads a cache tensor has, in terms of the kernel's `heads`."""
    if axis is None:
        return "1"
    return "heads" if axis == "HV" or ratio == 1 else f"(heads // {ratio})"
