"""Where a cache's tensors lie in memory, as texts: what is added to reach a head's records or a
carried state, and the masks that tiles are stored under."""

from __future__ import annotations

from collections.abc import Iterable

from kvgen.algebra.form import Form
from kvgen.algebra.records import Stored
from kvgen.codegen.names import KERNEL_NAMES, local
from kvgen.codegen.shapes import MOST_32, Shapes
from kvgen.language.spec import MAX_BUFFER

# what a program's heads and channels are called
INDICES = {"H": "group", "HV": "head", "K": "key", "V": "value"}


def mask_of(program: Iterable[str], lanes: Iterable[str], *, block: bool) -> str:
    """Conditions of a whole program, then those of each of its elements, as the mask of a block.

    Triton's interpreter takes a comparison of scalars for a number of their type, and from Triton
    3.9 on a number is no mask: True makes it a bool, and leaves no trace in compiled code.
    """
    scalars = list(program)
    bools = ["True"] if block and scalars else []
    return " & ".join([*bools, *scalars, *lanes])


def records_of_head(stored: Stored, shapes: Shapes) -> str:
    """What is added to reach a head's records, of which each head has PLACES."""
    if stored.heads is None:
        return ""
    width = shapes.size(stored.channel)
    size = f"(PLACES * {width})" if width > 1 else "PLACES"
    return f" + {shapes.of_heads(INDICES[stored.heads])} * {size}"


def carried_address(form: Form, name: str, place: str) -> str:
    """Where a carried state lies after `place` records, in [slots, layers, places + 1, *axes]."""
    axes = next(c for c in form.carries if c.tensor.name == name).axes
    sizes = dict(form.spec.sizes)
    width = sizes[axes.channels] if axes.channels else 1
    parts = [f"{local(name)}_at"]
    if place != "0":
        inner = place if place in KERNEL_NAMES else f"({place})"
        # the states of all heads, as far as the last place
        if (MAX_BUFFER + 1) * sizes.get(axes.head or "", 1) * width >= MOST_32:
            inner = f"{inner}.to(tl.int64)"
        heads = head_count(axes.head, form.spec.ratio)
        factors = [inner, *([f"({heads})" if "/" in heads else heads] if axes.head else [])]
        parts.append(" * ".join([*factors, *([str(width)] if width > 1 else [])]))
    if axes.head:
        index = INDICES[axes.head]
        parts.append(index if width == 1 else f"{index} * {width}")
    if axes.channels:
        parts.append(INDICES[axes.channels])
    return " + ".join(parts)


def head_count(axis: str | None, ratio: int) -> str:
    """How many heads a cache tensor has, in terms of the kernel's `heads`."""
    if axis is None:
        return "1"
    return "heads" if axis == "HV" or ratio == 1 else f"heads // {ratio}"
