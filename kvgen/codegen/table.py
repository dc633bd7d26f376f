"""What a module's host side knows of its recurrence, as the text of a `kvgen.runtime` table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.codegen.arguments import Argument
from kvgen.codegen.literals import tuple_text
from kvgen.language.spec import Tensor


class Signature(NamedTuple):
    """A kernel's arguments beside those that all kernels have, as the kernel declares them and as
    the host passes them. grouped: a program has all value heads of a group."""

    arguments: Sequence[Argument]
    tensors: Sequence[str]
    grouped: bool = False

    @property
    def text(self) -> str:
        arguments = tuple_text(each.name for each in self.arguments)
        grouped = ", grouped=True" if self.grouped else ""
        return f"Signature({arguments}, {tuple_text(self.tensors)}{grouped})"


def table_text(
    form: Form,
    records: Records,
    signatures: Mapping[str, Signature],
    more: Mapping[str, object],
    initial: Mapping[str, str],
) -> list[str]:
    """The arguments of a Table, one a line. more: what stands there as it is. initial: the values
    of fresh rows, as text."""
    spec = form.spec
    lines = [
        f'name="{spec.name}",',
        'digest=int(SPEC["hash"][:15], 16),',
        "names=globals(),",
        "sizes=SIZES,",
        "inputs=arguments_of(INPUTS),",
        "params=arguments_of(PARAMS),",
        "states=arguments_of(STATES),",
        *_several("held", _held(form, records, initial)),
        "kernels={",
        *(f'    "{name}": {signature.text},' for name, signature in signatures.items()),
        "},",
        f'state="{form.state.name}",',
    ]
    return [*lines, *(f"{name}={value}," for name, value in more.items())]


def _several(name: str, items: Iterable[str]) -> list[str]:
    lines = [f"    {item}," for item in items]
    return [f"{name}=(", *lines, "),"] if lines else [f"{name}=(),"]


def axes_text(tensors: Iterable[Tensor]) -> str:
    """Tensors' axes by name."""
    return "{" + ", ".join(f'"{each.name}": {tuple_text(each.axes)}' for each in tensors) + "}"


def _held(form: Form, records: Records, initial: Mapping[str, str]) -> Iterable[str]:
    storage, name = form.spec.storage, form.state.name
    matrix = ("HV", "V", "K") if storage.layout == "vk" else ("HV", "K", "V")
    for plane in storage.state.planes:
        called = f"{name}{plane.suffix}"
        yield _tensor(called, "state", matrix, plane.dtype.text, initial.get(called))
    for stored in records.stored:
        axes = (stored.heads, "places", stored.channel)
        dtype = "None" if stored.as_given else stored.dtype.text
        yield _tensor(stored.name, "record", axes, dtype)
    for carry in form.carries:
        axes = ("places", carry.axes.head, carry.axes.channels)
        value = initial.get(carry.tensor.name)
        yield _tensor(carry.tensor.name, "carried", axes, "torch.float32", value)
    for past in form.spec.pasts:
        yield _tensor(past.name, "past", ("places", *past.tensor.axes), "None")


def _tensor(
    name: str, part: str, axes: tuple[str | None, ...], dtype: str, initial: str | None = None
) -> str:
    known = tuple_text([axis for axis in axes if axis])
    value = f", {initial}" if initial not in (None, "0.0") else ""
    return f'Held("{name}", "{part}", {known}, {dtype}{value})'
