"""A form and its records as the text of a module."""

from __future__ import annotations

import hashlib
import re
import struct
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Protocol

import jinja2

from kvgen.algebra.chain import chains
from kvgen.algebra.chunk import chunks_channels, chunks_trees
from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node
from kvgen.algebra.records import Records, plan_records
from kvgen.codegen import cost, inlined
from kvgen.codegen.addresses import carried_address, head_count, mask_of, records_of_head, strided
from kvgen.codegen.arguments import arguments, window_arguments
from kvgen.codegen.chained import chain_scope
from kvgen.codegen.config import ANY_GPU, Tuned, configs_text, legend
from kvgen.codegen.features import ALL, completed
from kvgen.codegen.hint import command
from kvgen.codegen.levels import newest_first, per_head
from kvgen.codegen.literals import escaped, literal, quoted, text_literal, tuple_text
from kvgen.codegen.names import local, long_token, namer_for
from kvgen.codegen.operands import offered as offers_dots
from kvgen.codegen.paged import short_extend_scope, short_verify_scope
from kvgen.codegen.reference import reference_lines
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.short import short_decode_scope
from kvgen.codegen.table import Signature, axes_text, table_text
from kvgen.codegen.windows.window import extend_scope, verify_scope
from kvgen.codegen.wrapping import WIDTH, wrapped
from kvgen.data import data_dir
from kvgen.formats.state import Tile
from kvgen.functions.registry import torch_helpers, triton_helpers
from kvgen.language.spec import MAX_BUFFER, MAX_WINDOW

# the templates that call the runtime
SPOKEN = ("calls.py.jinja", "table.py.jinja")
# kernels of one tile of a head, and what others begin with
FOLDING = ("fold", "read", "load", "recurrent", "folded", "folded_staged")
# vectors that a function brings side by side
WIDTHS = (2, 4, 8, 16)


@dataclass(frozen=True)
class CacheTensor:
    """A tensor of the cache as the templates see it.

    shape: its text after `slots, layers`. head_offset: what a kernel adds to reach its head.
    """

    name: str
    shape: str
    dtype: str
    head_offset: str
    head: str | None

    @property
    def local(self) -> str:
        return local(self.name)

    @property
    def pointer(self) -> str:
        return f"{self.local}_ptr"

    @property
    def strides(self) -> tuple[str, ...]:
        """Of a slot, and of a layer or, where one alone is looked at, its offset."""
        return f"{self.local}_slot", f"{self.local}_layer"


class Prepared(Protocol):
    """What one kernel leaves for another of a block."""

    @property
    def facts(self) -> Mapping[str, int]: ...
    @property
    def matrices(self) -> Sequence[object]: ...
    @property
    def vectors(self) -> Sequence[object]: ...
    @property
    def parts(self) -> int: ...
    @property
    def vector_parts(self) -> int: ...


class Scheduled(Protocol):
    """A kernel's own lines, as a schedule gives them: and the functions that they call, of the
    module and of the language."""

    @property
    def lines(self) -> list[str]: ...
    @property
    def helpers(self) -> Collection[str]: ...
    @property
    def functions(self) -> Collection[str]: ...
    @property
    def prepared(self) -> Prepared | None: ...
    @property
    def per_head(self) -> bool: ...
    @property
    def given(self) -> Collection[str]: ...


Schedule = Callable[[Form, Records], Mapping[str, Scheduled]]


@dataclass(frozen=True)
class CarriedMove:
    """A carried state as the fold moves it to the first place, where it is called `value`."""

    name: str
    value: str
    form: Form
    mask_load: str
    mask_store: str
    shape_text: str

    def at(self, place: str) -> str:
        return carried_address(self.form, self.name, place)


@cache
def environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("templates")),
        undefined=jinja2.StrictUndefined,
        line_statement_prefix="#:",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.globals |= {"triton_helpers": triton_helpers, "torch_helpers": torch_helpers}
    env.globals["filled"] = _filled
    return env


def _filled(names: Iterable[str]) -> str:
    """Arguments of a kernel, as many a line as there is room for."""
    text = " ".join(f"{name}," for name in names)
    lines = textwrap.wrap(text, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return "".join(f"    {line}\n" for line in lines)


def render(
    form: Form,
    records: Records,
    form_text: str,
    tuned: Tuned,
    features: tuple[str, ...],
    schedule: Schedule,
) -> str:
    """The module's text: what is the same gives the same bytes. features: what it can do.
    schedule: gives the kernels whose lines it lays out, by name."""
    scheduled = schedule(form, records)
    context = _context(form, records, tuned, scheduled)
    context |= _window(form, records, context) | _features(form, features)
    context |= _scheduled(context, scheduled)
    signatures = _signatures(context)
    more = _more(form, context) | _chosen(form, context)
    context["table"] = table_text(form, records, signatures, more, context["fresh"])
    kernels = {*signatures, *(context["features"])}
    context["configs"] = configs_text(form, tuned.configs, kernels)
    context["legend"] = legend(context["configs"])
    context |= _short(form, records, tuned, schedule, dict(context))
    # what speaks of the runtime, which says what of it the module has
    spoken = [environment().get_template(name).render(context) for name in SPOKEN]
    context["host"] = inlined.host(context["features"], "\n".join(spoken))
    text = _spaced(environment().get_template("module.py.jinja").render(context))
    lines = [part for line in text.splitlines() for part in wrapped(line)]
    # not broken, whatever stands in it
    lines[lines.index('FORM = ""')] = f'FORM = """\\\n{escaped(form_text)}"""'
    return "".join(f"{line}\n" for line in lines)


def _scheduled(context: dict[str, Any], scheduled: Mapping[str, Scheduled]) -> dict[str, Any]:
    """Kernels that schedules lay out, as far as the module has them."""
    decode = scheduled["decode"]
    chunk = scheduled.get("chunk") if context["has_verify"] else None
    prepare, sweep = (
        scheduled.get(each) if context["has_extend"] else None for each in ("prepare", "sweep")
    )
    there = [each for each in (chunk, prepare, sweep) if each]
    # vectors that lie side by side, most of them
    operands = context["chain"].operands if context["chain"] else []
    widest = [n for n in WIDTHS if n in operands or f"_columns_{n}" in decode.helpers]
    return {
        "decode": decode,
        "chunk": chunk,
        "prepare": prepare,
        "sweep": sweep,
        "sweep_has_groups": (
            _has_groups("\n".join(sweep.lines if sweep else ()), context["step_tensors"])
            or _of_groups(context["folded"], [])
        ),
        "blocks": sweep.prepared.facts if sweep and sweep.prepared else None,
        "scheduled_helpers": {name for each in there for name in each.helpers},
        "helpers": context["helpers"].union(*(each.functions for each in (decode, *there))),
        # of 4 and more there are halves, of 2 there is no need for a function of its own
        "widths": [n for n in WIDTHS if n in widest or 2 < n < max(widest, default=0)],
    }


def _spaced(text: str) -> str:
    """Two blank lines around every top-level definition, one before a method."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("        "):
            lines.append(line)
            inside = True
            continue
        opens = line.startswith(("@", "def ", "class ", "# -- "))
        opens = opens or (inside and line[:1] not in ("", " ", ")", "]", "}"))
        inside = line.startswith(" ") if line else inside
        method = line.startswith(("    def ", "    @"))
        wanted = 2 if opens else 1 if method else 0
        decorated = lines and lines[-1].lstrip().startswith("@")
        if wanted and not decorated:
            while lines and not lines[-1]:
                lines.pop()
            lines += [""] * wanted
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines) + "\n"


def _context(
    form: Form, records: Records, tuned: Tuned, scheduled: Mapping[str, Scheduled]
) -> dict[str, Any]:
    spec = form.spec
    sizes = dict(spec.sizes)
    ratio = spec.ratio
    shapes = Shapes(sizes["K"], sizes["V"])
    single = per_head(form, records)
    fold, step, read = (scheduled[name] for name in ("fold", "recurrent", "read"))
    lines, reference_helpers = reference_lines(spec)
    tensors = _tensors(form, records, shapes, ratio)
    state = form.state.name
    planes = form.planes
    stored = {s.name for s in records.stored}
    # a correction that a fold recomputes is recorded for decodes alone
    step_tensors = [t for t in tensors if t.name not in stored or f"{t.local}_at" in fold.given]
    matrix_tensors = [t for t in step_tensors if t.name in planes or t.name in stored]
    decode_tensors = [t for t in tensors if records.exact or t.name not in planes[1:]]
    used = [*form.roots, *(s.node for s in records.stored)]
    like = next((t for t in spec.inputs if "V" in t.axes), None)
    buffer = cost.buffer_length(form, records)
    module_hash = hashlib.sha256(spec.text.encode()).hexdigest()[:16]
    carries = _carried(form, records, shapes, ratio)
    return {
        "spec": spec,
        "sizes": sizes,
        "storage": spec.storage,
        "newest_first": newest_first(form),
        "form": form,
        "hash": module_hash,
        "ratio": ratio,
        "shapes": shapes,
        "single": single,
        **{name: scheduled[name] for name in FOLDING},
        # whether anything that tensor cores multiply is stored in 16 bits
        "narrow": spec.storage.state.narrow or any(s.dtype.narrow for s in records.stored),
        "helpers": {*step.functions, *fold.functions},
        "reference_helpers": reference_helpers,
        "reference_lines": lines,
        "tensors": tensors,
        "planes": planes,
        "plane_tensors": [t for t in tensors if t.name in planes],
        "state_tile": partial(_tile, planes),
        "exact": records.exact,
        "matrix_tensors": matrix_tensors,
        "step_tensors": step_tensors,
        "fold_has_groups": _of_groups(fold, step_tensors),
        "read_has_groups": _of_groups(read, matrix_tensors),
        "step_has_groups": _of_groups(step, step_tensors),
        # whether only a group's first head leaves some carried state
        "carries_lead": ratio > 1 and any(carry.axes.head == "H" for carry in form.carries),
        "decode_tensors": decode_tensors,
        "decode_unit_tensors": [t for t in decode_tensors if single or t.head != "HV"],
        "decode_tile_tensors": [t for t in decode_tensors if not single and t.head == "HV"],
        "decode_arguments": arguments(form, used),
        "step_arguments": arguments(form, form.roots),
        "signature": ", ".join(t.name for t in (*spec.inputs, *spec.params)),
        "given": _given_text([t.name for t in (*spec.inputs, *spec.params)]),
        "argument_docs": _argument_docs(form),
        "output_like": like.name if like else spec.inputs[0].name,
        "state_name": state,
        "carries": carries,
        "fresh": {
            name: literal(value)
            for name, value in (*_initial_planes(form, planes), *_initial_carried(form))
        },
        "buffer": buffer,
        "buffers": _buffers_literal({"default": buffer, **tuned.buffers}),
        "most_places": form.factored.most if form.factored else MAX_BUFFER,
        "most_window": MAX_WINDOW,
        "fold_tile": tuned.configs[ANY_GPU]["fold"][64]["TILE"],
        "fold_warps": tuned.configs[ANY_GPU]["fold"][64]["num_warps"],
        "states": spec.states,
        "axes_text": axes_text,
        "tuple_text": tuple_text,
        "literal": literal,
        "long_token": long_token,
        "strided": strided,
        "literal_text": quoted,
        "tune": command(spec, "tune", "--gpu"),
        "docstring": _docstring(form),
        "spec_literal": text_literal(spec.text),
        "recorded_inputs": sorted(
            {_leaf(s.node) for s in records.stored if s.as_given and not s.node.reads}
        ),
        "state_shapes": {t.name: _shape(t.axes, sizes, ratio) for t in spec.states},
        "heads_from": _heads_from(form, ratio),
    }


def _signatures(context: dict[str, Any]) -> dict[str, Signature]:
    """What the host passes to each kernel of a cache without short contexts."""
    step, read = (_names(context[each]) for each in ("step_tensors", "matrix_tensors"))
    tokens = _names(context["decode_tensors"])
    found = {
        "decode": Signature(context["decode_arguments"], tokens, not context["single"]),
        "recurrent": Signature(context["step_arguments"], step),
        "fold": Signature((), step),
        "read": Signature((), read),
    }
    for name in ("verify", "chain"):
        if context[name] and "verify" in context["features"]:
            grouped = not context[name].per_head
            found[name] = Signature(context["window_arguments"], tokens, grouped)
    if context["chunk"]:
        found["chunk"] = Signature(context["window_arguments"], tokens)
    if "extend" in context["features"]:
        found["extend"] = Signature(context["extend_arguments"], step)
    if context["sweep"]:
        found["prepare"] = Signature(context["extend_arguments"], ())
        found["sweep"] = Signature(context["extend_arguments"], step)
    return found


def _short_signatures(context: dict[str, Any]) -> dict[str, Signature]:
    """The same of a cache of short contexts."""
    short = context["short"]
    tokens, every = _names(short["decode_tensors"]), _names(short["extend_tensors"])
    decode, verify = (not short[name].per_head for name in ("decode", "verify"))
    return {
        "short_decode": Signature(short["decode_arguments"], tokens, decode),
        "short_verify": Signature(short["arguments"], tokens, verify),
        "short_extend": Signature(short["arguments"], every),
        "short_fold": Signature((), _names(context["step_tensors"])),
        "short_read": Signature((), _names(context["matrix_tensors"])),
    }


def _names(tensors: list[CacheTensor]) -> list[str]:
    return [tensor.name for tensor in tensors]


def _more(form: Form, context: dict[str, Any]) -> dict[str, object]:
    """What else the host knows of a recurrence, as text."""
    several = form.spec.storage.state.narrow
    found: dict[str, object] = {
        "recorded": tuple_text(context["recorded_inputs"]),
        "output_like": f'"{context["output_like"]}"',
        "most_places": form.factored.most if form.factored else MAX_BUFFER,
        "most_window": MAX_WINDOW,
        "least_span": context["shapes"].least_span,
        "tile": context["fold_tile"],
        "warps": context["fold_warps"],
        "tune": quoted(context["tune"]),
        "dots": offers_dots(form),
        "several": several,
    }
    if context["without_short"]:
        found["without_short"] = quoted(context["without_short"])
    return found


def _chosen(form: Form, context: dict[str, Any]) -> dict[str, object]:
    """What it chooses kernels by that a cache of short contexts has no twins of."""
    found: dict[str, object] = {}
    if context["chain"]:
        found["chain"] = len(context["chain"].tokens)
    if context["chunk"]:
        # what tensor cores contract is 16 of a float32, or 8 in parts
        parts = form.spec.storage.state.narrow or form.decay("K")
        found["chunk"] = 8 if parts else 16
        if not chunks_trees(form):
            found["chunk_trees"] = False
        if chunks_channels(form):
            found["chunk_timed"] = True
    if context["blocks"]:
        facts = ", ".join(f"{name}={number}" for name, number in context["blocks"].items())
        found["blocks"] = f"Blocks({facts})"
    return found


def _features(form: Form, features: tuple[str, ...]) -> dict[str, object]:
    """What the module has, and the calls that say how it would have more."""
    offered = ALL if form.windows else ("decode",)
    chosen = tuple(name for name in ALL if name in features and name in offered)

    def more(name: str) -> str:
        wanted = ",".join(completed([*chosen, name]))
        return f"`{command(form.spec, 'compile', '--with', wanted)}` puts it there"

    left_out = [name for name in ("verify", "extend") if name in offered and name not in chosen]
    without = "this recurrence has no windows"
    if form.windows:
        without = f"this module has no short contexts: {more('short')}"
    return {
        "features": chosen,
        **{f"has_{name}": name in chosen for name in ALL},
        "left_out": {name: f"{name}: not in this module: {more(name)}" for name in left_out},
        "without_short": None if "short" in chosen else without,
        **({} if "verify" in chosen else {"chain": None}),
    }


def _given_text(names: list[str]) -> str:
    """The arguments by name, as a dict that its lines hold."""
    items = [f'"{name}": {name}' for name in names]
    text = "{" + ", ".join(items) + "}"
    if len(text) <= 70:
        return text
    lines = textwrap.wrap(", ".join(items) + ",", 100, break_long_words=False)
    return "\n".join(["{", *(f"        {line}" for line in lines), "    }"])


def _window(form: Form, records: Records, context: dict[str, Any]) -> dict[str, object]:
    """What `verify` and `extend` add, where several tokens can pass over the state at once."""
    if not form.windows:
        return {"verify": None, "chain": None}
    shapes, single = context["shapes"], context["single"]
    verify = verify_scope(form, records, shapes, single)
    extend = extend_scope(form, records, shapes)
    chain = chain_scope(form, records, shapes, single) if chains(form) else None
    used = [*form.roots, *(s.node for s in records.stored)]
    prompt = "\n".join([*extend.before, *extend.unit, *extend.tile, *extend.after, extend.output])
    return {
        "verify": verify,
        "extend": extend,
        "chain": chain,
        "helpers": context["helpers"] | verify.helpers | extend.helpers,
        "verify_text": "\n".join([*verify.unit, *verify.tile]),
        "extend_text": prompt,
        "window_arguments": window_arguments(form, used),
        "extend_arguments": window_arguments(form, form.roots),
        "extend_has_groups": _has_groups(prompt, context["step_tensors"], form)
        or _of_groups(context["folded"], []),
        "window_docs": _argument_docs(form, ("B", "T")),
    }


def _short(
    form: Form, records: Records, tuned: Tuned, schedule: Schedule, context: dict[str, Any]
) -> dict[str, object]:
    """What a cache of short contexts adds, as text: its records and states lie in pages.

    Keys are recorded with each token's own decay there: a row holds more of them than a running sum
    is safe for.
    """
    if "short" not in context["features"]:
        several = [name for name in ("verify", "extend") if name in context["features"]]
        parts = [context[f"{name}_text"] for name in several]
        return {"window_text": "\n".join(parts)}
    plain = form
    if form.factored:
        plain = replace(form, factored=None)
        records = plan_records(plain)
        kept = ("verify", "features", "without_short", "verify_text", "extend_text")
        kept += tuple(f"has_{name}" for name in ALL)
        same = {name: context[name] for name in kept}
        context = _context(plain, records, tuned, schedule(plain, records)) | same
    context |= _paged(plain, records, context)
    short = context["short"]
    env = environment()
    names = ("short.py.jinja", "short_decode.py.jinja", "short_window.py.jinja")
    kernels = [env.get_template(name).render(context) for name in names]
    more = _more(plain, context)
    # what is tuned holds for the records of a cache without short contexts
    more |= {"short_buffer": context["buffer"]} if form.factored else {}
    table = table_text(plain, records, _short_signatures(context), more, context["fresh"])
    return {
        "short_kernels": "".join(kernels),
        "short_table": table,
        "short": short,
        "window_text": "\n".join([context["verify_text"], context["extend_text"], *short["lines"]]),
        "helpers": context["helpers"].union(
            *(short[name].helpers for name in ("decode", "verify", "extend"))
        ),
    }


def _paged(form: Form, records: Records, context: dict[str, Any]) -> dict[str, Any]:
    """The tensors and scopes of a paged cache's kernels."""
    stored = {s.name for s in records.stored}
    carried = {carry.name for carry in context["carries"]}
    tensors = context["step_tensors"]
    carried_tensors = [t for t in tensors if t.name in carried]
    record_tensors = [t for t in context["tensors"] if t.name in stored]
    read = [t for t in context["decode_tensors"] if t.name not in stored | carried]
    shapes, single = context["shapes"], context["single"]
    decode = short_decode_scope(form, records, shapes, single)
    verify = short_verify_scope(form, records, shapes, single)
    extend = short_extend_scope(form, records, shapes)
    used = [*form.roots, *(s.node for s in records.stored)]
    prompt = [*extend.before, *extend.unit, *extend.tile, *extend.after, extend.output]
    prompt += [store.line for store in extend.tile_stores]
    every = [*context["plane_tensors"], *record_tensors, *carried_tensors]
    decoded = [*read, *record_tensors, *carried_tensors]
    return {
        "folded_tensors": [t for t in tensors if t.name in stored],
        "carried_tensors": carried_tensors,
        "short": {
            "recorded_inputs": context["recorded_inputs"],
            "decode": decode,
            "verify": verify,
            "extend": extend,
            "decode_arguments": arguments(form, used),
            "arguments": window_arguments(form, used),
            "planes": read,
            "decode_tensors": decoded,
            "extend_tensors": every,
            "extend_needs_leads": extend.needs_leads or context["carries_lead"],
            "extend_has_groups": _has_groups("\n".join(prompt), every, form)
            or _of_groups(context["folded"], []),
            "extend_text": "\n".join(prompt),
            "lines": [*verify.unit, *verify.pages, *verify.of_state, *verify.tile, *prompt],
        },
    }


def _of_groups(kernel: Scheduled, tensors: list[CacheTensor]) -> bool:
    """Whether a kernel, or where tensors begin, takes the number of the head's group."""
    return "group" in kernel.given or any(t.head == "H" for t in tensors)


def _has_groups(lines: str, tensors: list[CacheTensor], form: Form | None = None) -> bool:
    """Whether the code uses the number of the head's group."""
    places = [t.head_offset for t in tensors]
    if form is not None:
        places += [carried_address(form, carry.tensor.name, "0") for carry in form.carries]
    return re.search(r"\bgroup\b", "\n".join([lines, *places])) is not None


def _tensors(form: Form, records: Records, shapes: Shapes, ratio: int) -> list[CacheTensor]:
    sizes = dict(form.spec.sizes)
    storage = form.spec.storage
    k, v = sizes["K"], sizes["V"]
    name = form.state.name
    matrix = f", heads, {v}, {k}" if storage.layout == "vk" else f", heads, {k}, {v}"
    offset = f" + {shapes.of_heads('head')} * {k * v}"
    found = [
        CacheTensor(name + plane.suffix, matrix, plane.dtype.text, offset, "HV")
        for plane in storage.state.planes
    ]
    for stored in records.stored:
        shape = f", {head_count(stored.heads, ratio).strip('()')}" if stored.heads else ""
        shape += ", buffer" + (f", {sizes[stored.channel]}" if stored.channel else "")
        offset = records_of_head(stored, shapes)
        found.append(CacheTensor(stored.name, shape, stored.dtype.text, offset, stored.heads))
    for carry in form.carries:
        shape = ", buffer + 1"
        if carry.axes.head:
            shape += f", {head_count(carry.axes.head, ratio).strip('()')}"
        if carry.axes.channels:
            shape += f", {sizes[carry.axes.channels]}"
        found.append(CacheTensor(carry.tensor.name, shape, "torch.float32", "", None))
    return found


def _tile(planes: list[str], offsets: str, mask: str, lanes: str = "") -> Tile:
    """A tile of the state. lanes: what spreads the pointers, where there are several."""
    return Tile(tuple(f"{local(name)}_at{lanes}" for name in planes), offsets, mask)


def _carried(form: Form, records: Records, shapes: Shapes, ratio: int) -> list[CarriedMove]:
    moves: list[CarriedMove] = []
    namer = namer_for(form, records)
    sizes = dict(form.spec.sizes)
    for carry in form.carries:
        axes = carry.axes
        guards: list[str] = []
        if axes.head is None:
            guards.append("(head == 0)")
        elif axes.head == "H" and ratio > 1:
            guards.append(f"(head % {ratio} == 0)")
        if axes.channels != "V":
            guards.append("(value_tile == 0)")
        real = []
        if axes.channels and shapes.masked(axes.channels):
            real = [f"real_{shapes.index(axes.channels)}"]
        load = f", mask={real[0]}, other=0.0" if real else ""
        store = mask_of(guards, real, block=bool(axes.channels))
        store = f", mask={store}" if store else ""
        extents = []
        if axes.head:
            extents.append("heads" if axes.head == "HV" or ratio == 1 else f"heads // {ratio}")
        if axes.channels:
            extents.append(str(sizes[axes.channels]))
        text = "".join(f", {extent}" for extent in extents) or ","
        name = carry.tensor.name
        moves.append(CarriedMove(name, namer.new(name), form, load, store, text))
    return moves


def _shape(axes: tuple[str, ...], sizes: dict[str, int], ratio: int) -> str:
    """A state's shape for so many rows and heads."""
    extents = ["rows"]
    for axis in axes:
        if axis == "HV" or (axis == "H" and ratio == 1):
            extents.append("heads")
        else:
            extents.append(f"heads // {ratio}" if axis == "H" else str(sizes[axis]))
    return f"({', '.join(extents)}{',' if len(extents) == 1 else ''})"


def _argument_docs(form: Form, rows: tuple[str, ...] = ("B",)) -> list[str]:
    inputs = [f"{t.name} [{', '.join((*rows, *t.axes))}]" for t in form.spec.inputs]
    params = [f"{t.name} [{', '.join(t.axes)}]" for t in form.spec.params]
    text = f"inputs: {', '.join(inputs)}"
    if params:
        text += f"; parameters: {', '.join(params)}"
    text += ". Any float dtype, any strides with a contiguous last axis."
    return textwrap.wrap(text, 92)


def _initial_planes(form: Form, planes: list[str]) -> list[tuple[str, float]]:
    init = form.state.init
    values = _split(init) if len(planes) == 2 and init != 0 else (init,) * len(planes)
    return list(zip(planes, values, strict=True))


def _initial_carried(form: Form) -> list[tuple[str, float]]:
    return [(carry.tensor.name, carry.tensor.init) for carry in form.carries]


def _split(value: float) -> tuple[float, float]:
    """The two planes of a float32: the upper as its value, the lower as an integer."""
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    high = (bits + 0x8000) >> 16
    (upper,) = struct.unpack("<f", struct.pack("<i", high << 16))
    return upper, float(bits - (high << 16))


def _buffers_literal(buffers: Mapping[str, int]) -> str:
    inner = ", ".join(f"{quoted(gpu)}: {length}" for gpu, length in buffers.items())
    return f"{{{inner}}}"


def _docstring(form: Form) -> str:
    spec = form.spec
    text = spec.title or spec.name
    if spec.source:
        text += f" ({spec.source})"
    text = text.replace("\\", "\\\\").replace('"', "'")
    return "\n".join(textwrap.wrap(f'"""{text}."""', 100, break_long_words=False))


def _leaf(node: Node) -> str:
    leaf = node.args[0] if node.op == "index" else node
    return str(leaf.value)


def _heads_from(form: Form, ratio: int) -> str:
    """Value heads as a count read from an argument that has a head axis."""
    for tensor in (*form.spec.inputs, *form.spec.params):
        for axis in ("HV", "H"):
            if axis in tensor.axes:
                place = tensor.axes.index(axis) + (tensor.kind == "input")
                times = f" * {ratio}" if axis == "H" and ratio > 1 else ""
                return f"{tensor.name}.shape[{place}]{times}"
    return str(form.spec.size("HV"))
