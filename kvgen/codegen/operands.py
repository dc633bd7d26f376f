"""What tensor cores multiply: inputs as they were given, and vectors side by side.

A vector that is an input times a number goes in as it came, for 16 bits multiply without rounding,
and the number comes after.
"""

from __future__ import annotations

from kvgen.algebra.chunk import forgives
from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, leaf_of, reachable

# what a tensor core contracts at a time
LEAST = 16
# keys that eight threads load together of a row in 32 bits
ALONG = 32


def offered(form: Form) -> bool:
    """Whether a decode may read the stored state on tensor cores: what it reads is bfloat16."""
    state = form.spec.storage.state
    read = state.dots and not (state.partial and form.carries_read)
    return read and bool(form.reads) and form.spec.size("K") > LEAST // 2


def parts_keys(form: Form) -> bool:
    """Whether a decode may have some of a row's keys along its threads, and the others in their
    registers: sums over keys that tensor cores do not take are then of fewer threads. Where these
    may take some, keys must lie in rows of the state and reads add up all of them, and a
    convolution leaves no column as its input came: such columns take tensor cores twice as long.
    """
    over_keys = all(read.axes.channels != "K" for read in form.reads)
    rows = form.spec.storage.layout == "vk" and over_keys and bool(form.remembered)
    return bool(form.reads) and (rows or not offered(form)) and form.spec.size("K") > ALONG


def choices(form: Form) -> dict[str, bool]:
    """The constants that not every recurrence's decode has, and whether this one's does."""
    return {"DOT": offered(form), "KEYS": parts_keys(form)}


def multiplies(form: Form) -> bool:
    """Whether a fold may add all of a row's records to the state as one product, on tensor cores:
    the state is rounded to 16 bits behind it. One that keeps more gains nothing by that, and what
    is computed again follows what was before it."""
    return form.spec.storage.state.rounds and not form.emptied


def times_input(form: Form, node: Node) -> tuple[Node, Node] | None:
    """An input's vector and the number for each head, whose product a vector is."""
    raw = input_of(node)
    if raw is None:
        return None
    graph = form.graph
    scale = graph.const(1.0)
    while node is not raw:
        inner, number = _apart(node)
        assert inner is not None
        if number is None:
            scale = graph.neg(scale)
        else:
            scale = graph.mul(number, scale) if node.op == "mul" else graph.div(scale, number)
        node = inner
    return raw, scale


def input_of(node: Node) -> Node | None:
    """The input's vector alone: of a long chain the number takes a while to be made."""
    inner: Node | None = node
    while inner is not None and leaf_of(inner).op != "input":
        inner, _ = _apart(inner)
    return inner


def _apart(node: Node) -> tuple[Node | None, Node | None]:
    """The vector that a product, a quotient or a negative is of, and the number that it is with."""
    match node.op, node.args:
        case "mul", (x, y) if not y.axes.channels:
            return x, y
        case "mul", (number, x) if not number.axes.channels:
            return x, number
        case "div", (x, number) if not number.axes.channels:
            return x, number
        case "neg", (x,):
            return x, None
        case _:
            return None, None


def few_bits(form: Form) -> bool:
    """Whether a prompt's products with the state take 16 bits of each number: the state keeps no
    more of it, its tokens forgive that, and inputs are multiplied as they came, or scaled by what
    decays."""
    few = all_given(form) or form.decay("K") is not None
    few = few and (not form.writes_read or all(_of_one_input(form, x) for x in form.columns))
    return form.spec.storage.state.coarse and few and forgives(form)


def _of_one_input(form: Form, vector: Node) -> bool:
    """Whether a vector is one input's, whatever it is times beside what decays: another input's
    would turn it away from the key that it erases."""
    found = {leaf_of(node) for node in reachable([vector]) if node.axes.channels == "K"}
    of_decays = {leaf_of(node) for node in reachable([decay.log for decay in form.decays])}
    return len({node for node in found - of_decays if node.op == "input"}) == 1


def all_given(form: Form) -> bool:
    """Whether all that is multiplied with the state, or added to it, is an input times a number."""
    vectors = (*form.columns, *form.keys)
    return all(input_of(vector) is not None for vector in vectors)


def component(raw: Node) -> str:
    """An input's name, with the number of the component if it is one."""
    return f"{raw.args[0].value}{raw.value}" if raw.op == "index" else str(raw.value)
