"""Tensor arguments of kernels: which inputs and parameters they need, and with which strides."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.codegen.names import pointer_name, stride_name


@dataclass(frozen=True)
class Argument:
    """A tensor argument of a kernel: an input or parameter, and the strides it is read with."""

    name: str
    pointer: str
    strides: tuple[str, ...]
    axes: tuple[str, ...]
    is_input: bool


def arguments(form: Form, roots: list[Node], known: Collection[Node] = ()) -> list[Argument]:
    """The inputs and parameters that the roots need, in the spec's order. known: nodes that need
    none."""
    used = {node.value for node in reachable(roots, known) if node.op in ("input", "param")}
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


def window_arguments(form: Form, roots: list[Node], known: Collection[Node] = ()) -> list[Argument]:
    """The arguments of a window of tokens: inputs have an axis of tokens behind that of rows."""
    return [
        replace(each, strides=(each.strides[0], f"{each.name}_token", *each.strides[1:]))
        if each.is_input
        else each
        for each in arguments(form, roots, known)
    ]
