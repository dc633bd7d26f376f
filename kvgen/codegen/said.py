"""What a module says of its recurrence: its docstring, arguments, shapes and buffers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from kvgen.algebra.form import Form
from kvgen.codegen.literals import quoted


def docstring_of(form: Form) -> str:
    """The module's own docstring: its title and source."""
    spec = form.spec
    text = spec.title or spec.name
    if spec.source:
        text += f" ({spec.source})"
    text = text.replace("\\", "\\\\").replace('"', "'")
    return "\n".join(textwrap.wrap(f'"""{text}."""', 100, break_long_words=False))


def argument_docs(form: Form, rows: tuple[str, ...] = ("B",)) -> list[str]:
    """What a call takes, as lines of its docstring. rows: the axes in front of an input's own."""
    inputs = [f"{t.name} [{', '.join((*rows, *t.axes))}]" for t in form.spec.inputs]
    params = [f"{t.name} [{', '.join(t.axes)}]" for t in form.spec.params]
    text = f"inputs: {', '.join(inputs)}"
    if params:
        text += f"; parameters: {', '.join(params)}"
    text += ". Any float dtype, any strides with a contiguous last axis."
    return textwrap.wrap(text, 92)


def given_text(names: list[str]) -> str:
    """The arguments by name, as a dict that its lines hold."""
    items = [f'"{name}": {name}' for name in names]
    text = "{" + ", ".join(items) + "}"
    if len(text) <= 70:
        return text
    lines = textwrap.wrap(", ".join(items) + ",", 100, break_long_words=False)
    return "\n".join(["{", *(f"        {line}" for line in lines), "    }"])


def extents_text(
    axes: tuple[str, ...], sizes: dict[str, int], ratio: int, front: str = "rows"
) -> str:
    """A state's shape for so many rows and heads. front: what stands before its own axes."""
    extents = [front]
    for axis in axes:
        if axis == "HV" or (axis == "H" and ratio == 1):
            extents.append("heads")
        else:
            extents.append(f"heads // {ratio}" if axis == "H" else str(sizes[axis]))
    return f"({', '.join(extents)}{',' if len(extents) == 1 else ''})"


def heads_from(form: Form, ratio: int) -> str:
    """Value heads as a count read from an argument that has a head axis."""
    for tensor in (*form.spec.inputs, *form.spec.params):
        for axis in ("HV", "H"):
            if axis in tensor.axes:
                place = tensor.axes.index(axis) + (tensor.kind == "input")
                times = f" * {ratio}" if axis == "H" and ratio > 1 else ""
                return f"{tensor.name}.shape[{place}]{times}"
    return str(form.spec.size("HV"))


def buffers_literal(buffers: Mapping[str, int]) -> str:
    """Places for records, by the GPU's name."""
    inner = ", ".join(f"{quoted(gpu)}: {length}" for gpu, length in buffers.items())
    return f"{{{inner}}}"
