"""A spec: one recurrence as its YAML file declares it, checked and completed.

`sample` says how random values of an input or parameter are drawn for checks:

- `normal`: N(0, 1), the default
- `small`: 0.1 N(0, 1)
- `tiny`: 0.01 N(0, 1)
- `unit`: N(0, 1), scaled to length 1 over the channel axis
- `positive`: uniform in (0, 1)
- `gate`: N(-4, 1), a gate before its activation that lets a state decay slowly
- `log_uniform`: the logarithm of a uniform value in (1, 16), as A_log is initialised
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from kvgen.diagnostics import Diagnostic, Span, tidy
from kvgen.formats.state import StateFormat
from kvgen.language import overrides as options
from kvgen.language import past, source, step, storage
from kvgen.language.declarations import MATRIX, STANDARD, Declarations, Kind, Tensor
from kvgen.language.names import refusal
from kvgen.language.namespace import Scope
from kvgen.language.schema import Reader
from kvgen.language.storage import Storage
from kvgen.language.syntax import Stmt

__all__ = ["SAMPLES", "Kind", "Past", "Spec", "Storage", "Tensor", "read", "show"]

SAMPLES = ("normal", "small", "tiny", "unit", "positive", "gate", "log_uniform")
MAX_BUFFER = 64
# tokens that one step may add to a row
MAX_WINDOW = 16

_REQUIRED = ("kvgen", "name", "sizes", "inputs", "state", "step")
_OPTIONAL = ("title", "source", "params", "storage", "buffer", "sample")
# what a file means that does not say it
SILENT: dict[source.Where, source.Value] = {
    ("buffer",): "auto",
    **{("storage", key): value for key, value in Storage().said.items()},
}


@dataclass(frozen=True)
class Past:
    """An input of which the last `count` tokens are kept."""

    tensor: Tensor
    count: int

    @property
    def name(self) -> str:
        """What it is called among a row's states."""
        return past.past_name(self.tensor.name)


@dataclass(frozen=True)
class Spec:
    """One recurrence; `text` is the completed YAML, `original` the file that spans point into."""

    name: str
    title: str
    source: str
    sizes: tuple[tuple[str, int], ...]
    inputs: tuple[Tensor, ...]
    params: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    steps: tuple[Stmt, ...]
    storage: Storage
    # None: the compiler's choice
    buffer: int | None
    sample: tuple[tuple[str, str], ...]
    text: str
    path: str
    original: str = field(default="", repr=False)
    # sizes of its own that neither an axis nor `step` names, and where they stand
    idle_sizes: tuple[tuple[str, Span | None], ...] = ()
    # what was put over the file's own values and says something else
    overrides: tuple[tuple[str, str], ...] = ()

    @property
    def ratio(self) -> int:
        """Value heads to a key head."""
        return self.size("HV") // self.size("H")

    @cached_property
    def pasts(self) -> tuple[Past, ...]:
        """The inputs of which tokens before are used, in their order."""
        counts = past.counts(self.steps)
        return tuple(Past(each, counts[each.name]) for each in self.inputs if each.name in counts)

    def size(self, name: str) -> int:
        """The value of a size."""
        return dict(self.sizes)[name]


def read(
    path_or_text: str | Path, overrides: Mapping[str, str] | None = None
) -> tuple[Spec | None, list[Diagnostic]]:
    """Read a spec; all that is wrong with it comes back beside whatever could be made of it."""
    path, text, found = source.open_text(path_or_text)
    if found:
        return None, found
    document = source.parse(text)
    if not document.values:
        return None, list(tidy(document.diagnostics))
    changed, telling = options.apply(document, overrides or {}, SILENT)
    spec, more = _Builder(Reader(document, changed), path).build()
    if spec is not None:
        spec = replace(spec, overrides=telling)
    # what is no plain value has been reported, and its type is no second mistake
    known = {each.span for each in document.diagnostics if each.span}
    more = [each for each in more if each.span not in known]
    return (None if document.diagnostics else spec), list(tidy(document.diagnostics + more))


def show(spec: Spec) -> str:
    """The completed YAML with all defaults, itself a legal spec."""
    return spec.text


class _Builder:
    """Reads the keys of one document in turn."""

    def __init__(self, reader: Reader, path: str) -> None:
        self.reader = reader
        self.path = path
        self.declared = Declarations(reader)

    def build(self) -> tuple[Spec | None, list[Diagnostic]]:
        reader = self.reader
        keys = reader.keys((), _REQUIRED, _OPTIONAL)
        if "kvgen" in keys and (keys["kvgen"] != 1 or keys["kvgen"] is True):
            help = "this kvgen reads 'kvgen: 1'"
            reader.report("bad-version", "an unknown version of the language", ("kvgen",), help)
        name = self._name() if "name" in keys else ""
        title = reader.text(("title",)) if keys.get("title") is not None else name
        origin = reader.text(("source",)) if keys.get("source") is not None else ""
        self.declared.read(keys)
        kept = storage.read(reader) if keys.get("storage") is not None else Storage()
        self._planes(kept.state)
        buffer = self._buffer(kept) if "buffer" in keys else None
        sample = self._sample() if keys.get("sample") is not None else ()
        whole = not reader.found and {*_REQUIRED} <= keys.keys()
        block = self._block() if "step" in keys else None
        if block is None:
            return None, reader.found
        read = step.read(block, self._scope())
        found = [*reader.found, *read.diagnostics]
        places = {each.name: each.span for each in self.declared.tensors.values()}
        found += past.clashes(past.counts(read.statements), places, read.statements)
        if read.whole:
            found += self._assignments(read.statements)
        if not whole or not read.whole:
            return None, found
        tensors = self.declared.tensors.values()
        sizes = {each: self.declared.sizes[each] for each in STANDARD} | self.declared.sizes
        spec = Spec(
            name=name,
            title=title or "",
            source=origin or "",
            sizes=tuple(sizes.items()),
            inputs=tuple(each for each in tensors if each.kind == "input"),
            params=tuple(each for each in tensors if each.kind == "param"),
            states=tuple(each for each in tensors if each.kind == "state"),
            steps=read.statements,
            storage=kept,
            buffer=buffer,
            sample=sample,
            text="",
            path=self.path,
            original=reader.document.text,
            idle_sizes=self._idle_sizes([text for _, _, text in block]),
        )
        return replace(spec, text=_complete(spec, [text for _, _, text in block])), found

    def _idle_sizes(self, rows: list[str]) -> tuple[tuple[str, Span | None], ...]:
        used = {axis for each in self.declared.tensors.values() for axis in each.axes}
        used |= {word for row in rows for word in re.findall(r"\w+", row.partition("#")[0])}
        idle = (name for name in self.declared.sizes if name not in {*STANDARD, *used})
        return tuple((name, self.reader.span(("sizes", name))) for name in idle)

    def _name(self) -> str:
        name = self.reader.text(("name",), longest=64)
        if name is None:
            return ""
        refused = refusal(name)
        if refused is None and name in sys.stdlib_module_names:
            message = f"'{name}' is a module of Python's library"
            refused = ("reserved-name", message, "choose another name")
        if refused:
            self.reader.report(refused[0], refused[1], ("name",), refused[2])
        return name

    def _planes(self, format: StateFormat) -> None:
        """The planes of a matrix state have names in the cache, beside those of other states."""
        tensors = self.declared.tensors.values()
        matrices = [each.name for each in tensors if each.axes == MATRIX]
        planes = {plane for name in matrices for plane in format.names(name)} - {*matrices}
        largest = format.planes[0].dtype.largest
        for each in tensors:
            if each.axes == MATRIX and abs(each.init) > largest:
                message = (
                    f"'init' is beyond {largest:g}, the largest number of a {format.name} state"
                )
                self.reader.report("bad-value", message, ("state", each.name, "init"))
            if each.kind == "state" and each.name in planes:
                message = f"'{each.name}' is the name of a plane of the {format.name} state"
                where = ("state", each.name)
                self.reader.report("duplicate-name", message, where, "choose another", key=True)

    def _buffer(self, kept: Storage) -> int | None:
        if self.reader.value(("buffer",)) == "auto":
            return None
        if kept.records.replays:
            message = f"a buffer between steps, where 'records: {kept.records.name}' leaves none"
            self.reader.report("bad-value", message, ("buffer",), "write 'buffer: auto'")
        return self.reader.integer(("buffer",), 1, MAX_BUFFER)

    def _sample(self) -> tuple[tuple[str, str], ...]:
        if not self.reader.table(("sample",), "names to kinds of random values"):
            return ()
        names = [each.name for each in self.declared.tensors.values() if each.kind != "state"]
        broken = [name for name in self.declared.where if name in self.declared.broken]
        keys = self.reader.keys(("sample",), (), [*names, *broken])
        chosen = [(name, self.reader.choice(("sample", name), SAMPLES)) for name in keys]
        return tuple((name, kind) for name, kind in chosen if kind)

    def _block(self) -> list[tuple[int, int, str]] | None:
        """The lines of `step`, if they can be mapped back to the file."""
        where = ("step",)
        value, place = self.reader.value(where), self.reader.document.places.get(where)
        help = "write 'step: |' and the statements below it, indented"
        if not isinstance(value, str) or place is None:
            self.reader.report("bad-step", "step is a block of statements", where, help, key=True)
        elif not value.strip():
            self.reader.report("bad-step", "step is empty", where, help, key=True)
        elif place.style not in ("", "|") or (place.style == "" and place.lines > 1):
            what = {">": "is a folded block", "": "goes on over lines without a '|'"}
            message = f"step {what.get(place.style, 'is a text in quotes')}"
            self.reader.report("bad-step", message, where, help)
        else:
            return self.reader.document.block(where)
        return None

    def _scope(self) -> Scope:
        declared = self.declared
        extras = {
            name: next((declared.sizes.get(axis) for axis in t.axes if axis not in STANDARD), None)
            for name, t in declared.tensors.items()
        }
        tensors = declared.tensors.values()
        return Scope(
            frozenset(extras), extras, declared.sizes, {each.name: each.axes for each in tensors},
            frozenset(each.name for each in tensors if each.kind == "input"),
            frozenset(declared.broken),
        )  # fmt: skip

    def _assignments(self, statements: Sequence[Stmt]) -> list[Diagnostic]:
        """What `step` should have assigned and has not."""
        targets = {each.target for each in statements}
        found: list[Diagnostic] = []
        if "o" not in targets:
            message, help = "step assigns no output 'o'", "such as 'o = q @ S'"
            found.append(Diagnostic("missing-output", message, self.reader.span(("step",)), help))
        for each in self.declared.tensors.values():
            if each.kind == "state" and each.name not in targets:
                message = f"step never updates the state '{each.name}'"
                help = "what does not change is a parameter"
                if each.axes == MATRIX:
                    help = f"such as '{each.name} = {each.name} + outer(k, v)'"
                found.append(Diagnostic("state-not-updated", message, each.span, help))
        return found


def _complete(spec: Spec, rows: list[str]) -> str:
    """The spec's YAML with every default written out."""
    lines = ["kvgen: 1", f"name: {spec.name}", f"title: {_text(spec.title)}"]
    lines += [f"source: {_text(spec.source)}"] if spec.source else []
    lines += ["", f"sizes: {_map({name: str(value) for name, value in spec.sizes})}", ""]
    for section, tensors in (
        ("inputs", spec.inputs),
        ("params", spec.params),
        ("state", spec.states),
    ):
        if tensors:
            lines += [f"{section}:", *(f"  {each.name}: {_tensor(each)}" for each in tensors)]
    body = "\n".join(f"  {row}".rstrip() for row in rows).strip("\n")
    lines += ["", "step: |", body, ""]
    lines += [f"storage: {_map(spec.storage.said)}", f"buffer: {spec.buffer or 'auto'}"]
    lines += [f"sample: {_map(dict(spec.sample))}"] if spec.sample else []
    return "\n".join(lines) + "\n"


def _map(items: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"


def _tensor(tensor: Tensor) -> str:
    axes = f"[{', '.join(tensor.axes)}]"
    items = {"axes": axes}
    if tensor.init:
        items["init"] = _number(tensor.init)
    if tensor.range:
        items["range"] = f"[{', '.join(map(_number, tensor.range))}]"
    return _map(items) if len(items) > 1 else axes


def _number(value: float) -> str:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _text(text: str) -> str:
    """A plain scalar where YAML reads it back as this text, else one in quotes."""
    plain = re.fullmatch(r"[A-Za-z][\w ,.()/+-]*", text) and isinstance(source.resolve(text), str)
    return text if plain else json.dumps(text, ensure_ascii=False)
