"""What templates are filled with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from kvgen.algebra.chain import MOST_SUMS, TOKENS
from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node
from kvgen.algebra.records import Records
from kvgen.codegen import cost
from kvgen.codegen.arguments import arguments, window_arguments
from kvgen.codegen.config import ANY_GPU, Tuned
from kvgen.codegen.features import ALL, completed, without_short
from kvgen.codegen.hint import command
from kvgen.codegen.levels import newest_first, per_head
from kvgen.codegen.literals import literal, quoted, text_literal, tuple_text
from kvgen.codegen.operands import multiplies, parts_keys
from kvgen.codegen.reference import reference_lines
from kvgen.codegen.said import (
    argument_docs,
    buffers_literal,
    docstring_of,
    extents_text,
    given_text,
    heads_from,
)
from kvgen.codegen.scheduled import Scheduled, of_groups
from kvgen.codegen.shapes import Shapes
from kvgen.codegen.table import axes_text
from kvgen.codegen.tensors import (
    carried_of,
    initial_carried,
    initial_planes,
    pasts_of,
    tensors_of,
    tile_of,
)
from kvgen.language.spec import MAX_BUFFER, MAX_WINDOW

# kernels of one tile of a head, and what others begin with
FOLDING = ("fold", "read", "load", "recurrent", "folded", "folded_staged")


# vectors that a function brings side by side
WIDTHS = (4, 8, 16)


def context_of(
    form: Form, records: Records, tuned: Tuned, scheduled: Mapping[str, Scheduled]
) -> dict[str, Any]:
    """What every module has, and what its parts are made of."""
    spec = form.spec
    sizes = dict(spec.sizes)
    ratio = spec.ratio
    shapes = Shapes(sizes["K"], sizes["V"])
    single = per_head(form, records)
    fold, step, read = (scheduled[name] for name in ("fold", "recurrent", "read"))
    lines, reference_helpers = reference_lines(spec)
    tensors = tensors_of(form, records, shapes, ratio)
    state = form.state.name
    planes = form.planes
    stored = {s.name for s in records.stored}
    # a correction that a fold recomputes is recorded for decodes alone
    step_tensors = [t for t in tensors if t.name not in stored or f"{t.local}_at" in fold.given]
    matrix_tensors = [t for t in step_tensors if t.name in planes or t.name in stored]
    past_tensors = pasts_of(spec, sizes, ratio)
    decode_tensors = [t for t in tensors if records.exact or t.name not in planes[1:]]
    decode_tensors += past_tensors
    used = [*form.whole, *form.remembered, *(s.node for s in records.stored)]
    like = next((t for t in spec.inputs if "V" in t.axes), None)
    buffer = cost.buffer_length(form, records)
    module_hash = hashlib.sha256(spec.text.encode()).hexdigest()[:16]
    carries = carried_of(form, records, shapes, ratio)
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
        "state_tile": partial(tile_of, planes),
        "exact": records.exact,
        # whether a fold may take all records of a row at once
        "multiplies": multiplies(form),
        # whether a decode's keys have two numbers each
        "parts_keys": parts_keys(form),
        "emptied": form.emptied,
        "matrix_tensors": matrix_tensors,
        "step_tensors": step_tensors,
        "fold_has_groups": of_groups(form, (fold,), step_tensors),
        "read_has_groups": of_groups(form, (read,), matrix_tensors),
        "step_has_groups": of_groups(form, (step,), [*step_tensors, *past_tensors]),
        "token_tensors": [*step_tensors, *past_tensors],
        # where the past of a row's inputs lies, as kernels take it behind what it has recorded
        "order": " order_ptr, ring," if form.remembered else "",
        "decode_tensors": decode_tensors,
        "decode_unit_tensors": [t for t in decode_tensors if single or t.head != "HV"],
        "decode_tile_tensors": [t for t in decode_tensors if not single and t.head == "HV"],
        "decode_arguments": arguments(form, used),
        "step_arguments": arguments(form, form.roots),
        "finish": scheduled.get("finish"),
        "finish_arguments": (
            window_arguments(form, [form.finish], {form.output}) if form.finish else []
        ),
        "signature": ", ".join(t.name for t in (*spec.inputs, *spec.params)),
        "given": given_text([t.name for t in (*spec.inputs, *spec.params)]),
        "argument_docs": argument_docs(form),
        "output_like": like.name if like else spec.inputs[0].name,
        "state_name": state,
        "carries": carries,
        "fresh": {
            name: literal(value)
            for name, value in (*initial_planes(form, planes), *initial_carried(form))
        },
        "buffer": buffer,
        "buffers": buffers_literal({"default": buffer, **tuned.buffers}),
        "most_places": form.factored.most if form.factored else MAX_BUFFER,
        "most_window": MAX_WINDOW,
        "fold_tile": tuned.configs[ANY_GPU]["fold"][64]["TILE"],
        "fold_warps": tuned.configs[ANY_GPU]["fold"][64]["num_warps"],
        "states": spec.states,
        "axes_text": axes_text,
        "tuple_text": tuple_text,
        "literal": literal,
        "literal_text": quoted,
        "tune": command(spec, "tune", "--gpu"),
        "docstring": docstring_of(form),
        "spec_literal": text_literal(spec.text),
        "recorded_inputs": sorted(
            {_leaf(s.node) for s in records.stored if s.as_given and not s.node.reads}
            | {past.tensor.name for past in spec.pasts}
        ),
        "state_shapes": {t.name: extents_text(t.axes, sizes, ratio) for t in spec.states},
        "pasts": spec.pasts,
        "past_shapes": {
            past.name: extents_text(past.tensor.axes, sizes, ratio, f"rows, {past.count}")
            for past in spec.pasts
        },
        "heads_from": heads_from(form, ratio),
    }


def _leaf(node: Node) -> str:
    leaf = node.args[0] if node.op == "index" else node
    return str(leaf.value)


def windows_of(
    form: Form, records: Records, context: dict[str, Any], scheduled: Mapping[str, Scheduled]
) -> dict[str, object]:
    """What `verify` and `extend` add, where several tokens can pass over the state at once."""
    if not form.windows:
        return {"verify": None}
    verify, extend = scheduled["verify"], scheduled["extend"]
    used = [*form.roots, *form.remembered, *(s.node for s in records.stored)]
    return {
        "verify": verify,
        "extend": extend,
        "helpers": context["helpers"].union(verify.functions, extend.functions),
        "window_arguments": window_arguments(form, used),
        "extend_arguments": window_arguments(form, form.roots),
        "extend_has_groups": of_groups(
            form, (extend, scheduled["folded"]), context["token_tensors"]
        ),
        "window_docs": argument_docs(form, ("B", "T")),
    }


def features_of(form: Form, features: tuple[str, ...]) -> dict[str, object]:
    """What the module has, and the calls that say how it would have more."""
    offered = ALL if form.windows else ("decode",)
    offered = tuple(name for name in offered if name != "short" or form.paged)
    chosen = tuple(name for name in ALL if name in features and name in offered)

    def more(name: str) -> str:
        wanted = ",".join(completed([*chosen, name]))
        return f"`{command(form.spec, 'compile', '--with', wanted)}` puts it there"

    left_out = [name for name in ("verify", "extend") if name in offered and name not in chosen]
    without = without_short(form)
    without = without or f"this module has no short contexts: {more('short')}"
    return {
        "features": chosen,
        **{f"has_{name}": name in chosen for name in ALL},
        "left_out": {name: f"{name}: not in this module: {more(name)}" for name in left_out},
        "without_short": None if "short" in chosen else without,
    }


def scheduled_of(
    form: Form, context: dict[str, Any], scheduled: Mapping[str, Scheduled]
) -> dict[str, Any]:
    """Kernels that schedules lay out, as far as the module has them."""
    decode, folded = scheduled["decode"], scheduled["folded"]
    chunk, chain = (
        scheduled.get(each) if context["has_verify"] else None for each in ("chunk", "chain")
    )
    prepare, sweep = (
        scheduled.get(each) if context["has_extend"] else None for each in ("prepare", "sweep")
    )
    there = [each for each in (chain, chunk, prepare, sweep) if each]
    beside = {name for each in (decode, *there) for name in each.helpers}
    # vectors that lie side by side, most of them
    widest = max((n for n in WIDTHS if f"_columns_{n}" in beside), default=0)
    return {
        "decode": decode,
        "chain": chain,
        "chain_tokens": TOKENS,
        "chain_sums": [n for n in range(MOST_SUMS + 1) if f"_sums_{n}" in beside],
        "chunk": chunk,
        "prepare": prepare,
        "sweep": sweep,
        "sweep_has_groups": sweep and of_groups(form, (sweep, folded), context["step_tensors"]),
        "blocks": sweep.prepared.facts if sweep and sweep.prepared else None,
        "rows_helpers": {
            name
            for each in ("verify", "extend")
            if context[f"has_{each}"]
            for name in context[each].helpers
        },
        "scheduled_helpers": {name for each in there for name in each.helpers},
        "helpers": context["helpers"].union(*(each.functions for each in (decode, *there))),
        "has_beside": widest > 0 or "_beside" in beside,
        # of 8 and more there are halves
        "widths": [n for n in WIDTHS if n <= widest],
    }


def paged_of(
    form: Form, records: Records, context: dict[str, Any], scheduled: Mapping[str, Scheduled]
) -> dict[str, Any]:
    """The tensors and scopes of a paged cache's kernels."""
    stored = {s.name for s in records.stored}
    carried = {carry.name for carry in context["carries"]}
    tensors = context["step_tensors"]
    carried_tensors = [t for t in tensors if t.name in carried]
    record_tensors = [t for t in context["tensors"] if t.name in stored]
    read = [t for t in context["decode_tensors"] if t.name not in stored | carried]
    decode, verify, extend = (scheduled[f"short_{name}"] for name in ("decode", "verify", "extend"))
    used = [*form.roots, *(s.node for s in records.stored)]
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
            "extend_has_groups": of_groups(form, (extend, scheduled["folded"]), every),
        },
    }
