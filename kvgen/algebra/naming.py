"""Names for values that a spec has none for, from those that it has."""

from __future__ import annotations

from collections.abc import Mapping

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of
from kvgen.algebra.records import Records
from kvgen.functions.norm import root_below, vector_in
from kvgen.functions.registry import reduces

Names = Mapping[Node, str]
GIVEN = ("input", "param", "carried", "index")


def value_names(form: Form, records: Records) -> dict[Node, str]:
    """Names of what is recorded whole, of what is written, and of what reads the state."""
    names: dict[Node, str] = {}
    whole = {decay.log for decay in form.decays}
    whole |= {node for write in form.writes for node in (write.w, write.d)}
    for stored in records.stored:
        if stored.node in whole or stored.node in form.graph.names:
            names[stored.node] = stored.name
    for write in form.writes:
        for node, role in ((write.w, "write_key"), (write.d, "write_value")):
            _name(form, names, node, role)
    queries = 0
    for node in form.columns:
        wanted = f"query_{queries + 1}" if queries else "query"
        queries += _name(form, names, node, wanted) == wanted
    return names


def _name(form: Form, names: dict[Node, str], node: Node, wanted: str) -> str | None:
    """What the value is called: `wanted` where it has no name yet; an input keeps its own."""
    if node.is_const or node.op in GIVEN:
        return None
    return names.setdefault(node, form.graph.names.get(node, wanted))


def described(node: Node, names: Names) -> str | None:
    """The value's name, or one by what is done in it: sigmoid_b, q_squares, q_inverse_norm,
    q_scaled."""
    if node in names:
        return names[node]
    args = node.args
    if node.op == "index":
        return f"{leaf_of(node).value}{node.value}"
    if node.op == "past":
        return f"{args[0].value}_{node.value}_ago"
    if (root := root_below(node)) is not None:
        vector = vector_in(root)
        return f"{vector_of(vector, names)}_inverse_norm" if vector else None
    if reduces(node) and args[0].op == "mul":
        first, second = (vector_of(arg, names) for arg in args[0].args)
        if first is None or second is None:
            return None
        same = args[0].args[0] is args[0].args[1]
        return f"{first}_squares" if same else f"{first}_dot_{second}"
    if len(args) == 1 and args[0] in names:
        return f"{node.op}_{names[args[0]]}"
    if node.op in ("mul", "div") and sum(bool(arg.axes.channels) for arg in args) == 1:
        vector = vector_of(node, names)
        return vector and f"{vector}_scaled"
    return None


def vector_of(node: Node, names: Names) -> str | None:
    """The name of the vector that a product is made of, the last of several."""
    while node not in names:
        if node.op == "index":
            return f"{leaf_of(node).value}{node.value}"
        if node.op not in ("mul", "div", "neg"):
            return None
        vectors = [arg for arg in node.args if arg.axes.channels]
        if not vectors:
            return None
        node = vectors[-1] if node.op == "mul" else vectors[0]
    return names[node]
