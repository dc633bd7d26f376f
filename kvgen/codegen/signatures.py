"""What the host knows of a module: what its kernels take, and what else it is told."""

from __future__ import annotations

from typing import Any

from kvgen.algebra.chunk import chunks_channels, chunks_trees
from kvgen.algebra.form import Form
from kvgen.codegen.literals import quoted, tuple_text
from kvgen.codegen.operands import choices
from kvgen.codegen.table import Signature
from kvgen.codegen.tensors import names_of
from kvgen.language.spec import MAX_BUFFER, MAX_WINDOW


def signatures_of(context: dict[str, Any]) -> dict[str, Signature]:
    """What the host passes to each kernel of a cache without short contexts."""
    kinds = ("step_tensors", "token_tensors", "matrix_tensors")
    step, token, read = (names_of(context[each]) for each in kinds)
    tokens = names_of(context["decode_tensors"])
    found = {
        "decode": Signature(context["decode_arguments"], tokens, not context["single"]),
        "recurrent": Signature(context["step_arguments"], token),
        "fold": Signature((), step),
        "read": Signature((), read),
        **_finish(context),
    }
    for name in ("verify", "chain"):
        if context[name] and "verify" in context["features"]:
            grouped = not context[name].per_head
            found[name] = Signature(context["window_arguments"], tokens, grouped)
    if context["chunk"]:
        found["chunk"] = Signature(context["window_arguments"], tokens)
    if "extend" in context["features"]:
        found["extend"] = Signature(context["extend_arguments"], token)
    if context["sweep"]:
        found["prepare"] = Signature(context["extend_arguments"], ())
        found["sweep"] = Signature(context["extend_arguments"], step)
    return found


def short_signatures(context: dict[str, Any]) -> dict[str, Signature]:
    """The same of a cache of short contexts."""
    short = context["short"]
    tokens, every = names_of(short["decode_tensors"]), names_of(short["extend_tensors"])
    decode, verify = (not short[name].per_head for name in ("decode", "verify"))
    return {
        "short_decode": Signature(short["decode_arguments"], tokens, decode),
        "short_verify": Signature(short["arguments"], tokens, verify),
        "short_extend": Signature(short["arguments"], every),
        "short_fold": Signature((), names_of(context["step_tensors"])),
        "short_read": Signature((), names_of(context["matrix_tensors"])),
        **_finish(context),
    }


def _finish(context: dict[str, Any]) -> dict[str, Signature]:
    return {"finish": Signature(context["finish_arguments"], ())} if context["finish"] else {}


def facts_of(form: Form, context: dict[str, Any]) -> dict[str, object]:
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
        "choices": tuple_text(name for name, has in choices(form).items() if has),
        "several": several,
    }
    if context["without_short"]:
        found["without_short"] = quoted(context["without_short"])
    return found


def choices_of(form: Form, context: dict[str, Any]) -> dict[str, object]:
    """What it chooses kernels by that a cache of short contexts has no twins of."""
    found: dict[str, object] = {}
    if context["multiplies"]:
        found["multiplies"] = True
    if context["chain"]:
        found["chain"] = context["chain_tokens"]
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
