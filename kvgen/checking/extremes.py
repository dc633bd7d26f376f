"""Values of inputs at which a decay vanishes, stands still, or forgets within a few tokens, and at
which a token erases as much as it can of what its key reads.

They are found by trying: constants are put in place of one input or parameter that the decay's
result depends on, and it is evaluated, so no recurrence is known by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.solving import factors
from kvgen.functions.registry import function_of

TRIED = tuple(
    sign * size for size in (0, 1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 1e5) for sign in (1, -1)
)
# the dimensions of values, as `evaluate` has them
CHANNELS = {"K": 3, "V": 4}
# the log of one token's decay: (lowest, highest)
WANTED = {"zero": (-1e7, -120.0), "one": (-1e-10, 1e-10), "strong": (-1e7, -400.0)}
# an erasure of twice what is read, but for rounding
TWICE = 2 + 1e-5

OPERATORS = {
    "neg": torch.neg, "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "pow": torch.pow,
}  # fmt: skip


@dataclass(frozen=True)
class Extreme:
    """Setting `driver` to `value` brings a decay, or what a write erases, where `kind` says."""

    kind: str
    driver: str
    is_input: bool
    value: float


def find(form: Form, drawn: Mapping[str, torch.Tensor], kind: str) -> Extreme | None:
    """The smallest value of an input, or else of a parameter, that reaches an extreme.

    drawn: the inputs with rows in front and the parameters, in float32. None where no single one
    of them can bring every element of the decay there: it is bounded, constant, or out of range.
    """
    logs = [decay.log for decay in form.decays]
    leaves = [node for node in reachable(logs) if node.op in ("input", "param")]
    tensors = {tensor.name: tensor for tensor in (*form.spec.inputs, *form.spec.params)}
    low, high = WANTED[kind]
    for leaf in sorted(leaves, key=lambda node: (node.op != "input", node.order)):
        name = str(leaf.value)
        least, most = tensors[name].range or (-float("inf"), float("inf"))
        for value in TRIED:
            if not least <= value <= most:
                continue
            changed = {**drawn, name: torch.full_like(drawn[name], value)}
            total = _total(form, logs, changed)
            if total is not None and low <= total.min().item() and total.max().item() <= high:
                return Extreme(kind, name, leaf.op == "input", value)
    return None


def strongest(form: Form, drawn: Mapping[str, torch.Tensor]) -> Extreme | None:
    """The value of an input at which every token erases most of what its own key reads, up to
    twice that: beyond it a state that one key reads again and again grows without bound.

    drawn: as for `find`. None where nothing is erased, or no single input decides how much. What
    decides on a decay is left as it is.
    """
    erasures = list(_erasures(form))
    roots = [node for erasure in erasures for node in erasure]
    tensors = {tensor.name: tensor for tensor in form.spec.inputs}
    names = _inputs(roots)
    for name in _inputs([decay.log for decay in form.decays]):
        names.pop(name, None)
    found: Extreme | None = None
    most = 0.0
    for name in names:
        low, high = tensors[name].range or (-math.inf, math.inf)
        for value in TRIED:
            if not low <= value <= high:
                continue
            changed = {**drawn, name: torch.full_like(drawn[name], value)}
            shares = _shares(form, erasures, changed)
            least, greatest = shares.min().item(), shares.max().item()
            # what only turns a vector gains nothing
            if greatest <= TWICE and least > 1.01 * most:
                found, most = Extreme("write", name, True, value), least
    return found


def _inputs(roots: list[Node]) -> dict[str, None]:
    return dict.fromkeys(str(node.value) for node in reachable(roots) if node.op == "input")


def _erasures(form: Form) -> Iterator[tuple[Node, Node, Node]]:
    """For every read that a write follows from by a number: the number, the vector that reads and
    the one that is written along."""
    for write in form.writes:
        for near, far in ((write.w, write.d), (write.d, write.w)):
            if near in form.late or far not in form.late:
                continue
            found = {read.args[0]: factor for read, factor in (factors(form, far) or {}).items()}
            # beside its own read it may follow from those of the token's other writes
            if near in found:
                found = {near: found[near]}
            for column, factor in found.items():
                if column.axes.channels == near.axes.channels and column not in form.late:
                    yield factor, column, near


def _shares(
    form: Form, erasures: list[tuple[Node, Node, Node]], drawn: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """How much of what its key reads each token takes away: 1 is all of it."""
    values = evaluate(form, [node for erasure in erasures for node in erasure], drawn)
    shares: list[torch.Tensor] = []
    for erasure in erasures:
        factor, column, near = (_of_value_heads(values[node], node, form) for node in erasure)
        dim = CHANNELS[erasure[1].axes.channels]
        shares.append(-(factor * (column * near).sum(dim, keepdim=True)).flatten())
    return torch.cat(shares)


def _total(form: Form, logs: list[Node], drawn: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The log of the whole decay, or None where something on the way to it is not finite."""
    values = evaluate(form, logs, drawn)
    if not all(bool(value.isfinite().all()) for value in values.values()):
        return None
    total = torch.zeros(())
    for log in logs:
        total = total + _of_value_heads(values[log], log, form)
    return total


def _of_value_heads(x: torch.Tensor, node: Node, form: Form) -> torch.Tensor:
    """What a key head has, for each of its value heads."""
    return x.repeat_interleave(form.spec.ratio, 2) if node.axes.head == "H" else x


def evaluate(
    form: Form, roots: list[Node], drawn: Mapping[str, torch.Tensor]
) -> dict[Node, torch.Tensor]:
    """Every node the roots depend on, as [rows, extra, heads, K, V] with ones for missing axes.

    The roots depend on no read of the state; carried states have their initial values, finite
    ones in place of infinite ones.
    """
    sizes = dict(form.spec.sizes)
    initial = {carry.tensor.name: carry.tensor.init for carry in form.carries}
    values: dict[Node, torch.Tensor] = {}
    like = next(iter(drawn.values()))
    for node in reachable(roots):
        function = function_of(node)
        if node.op == "const":
            values[node] = like.new_full((1, 1, 1, 1, 1), node.const)
        elif node.op == "carried":
            start = torch.tensor(initial[str(node.value)]).nan_to_num(neginf=-10.0, posinf=10.0)
            values[node] = like.new_full((1, 1, 1, 1, 1), start.item())
        elif node.op in ("input", "param"):
            values[node] = _spread(drawn[str(node.value)], node, sizes)
        elif node.op == "index":
            assert isinstance(node.value, int)
            values[node] = values[node.args[0]][:, node.value : node.value + 1]
        elif node.op == "past":
            # another row's is as good as an earlier token's
            values[node] = values[node.args[0]].roll(int(node.value or 0), 0)
        elif function is not None and function.reduces:
            assert isinstance(node.value, str)
            values[node] = values[node.args[0]].sum(CHANNELS[node.value], keepdim=True)
        else:
            args = [values[arg] for arg in node.args]
            if node.axes.head == "HV":
                pairs = zip(args, node.args, strict=True)
                args = [_of_value_heads(x, arg, form) for x, arg in pairs]
            compute = OPERATORS[node.op] if function is None else function.of_tensors
            values[node] = compute(*args)
    return values


def _spread(x: torch.Tensor, node: Node, sizes: dict[str, int]) -> torch.Tensor:
    axes = node.axes
    shape = [x.shape[0] if node.op == "input" else 1]
    shape += [sizes[axis] if axis else 1 for axis in (axes.extra, axes.head)]
    shape += [sizes[channel] if channel in axes.channels else 1 for channel in "KV"]
    return x.reshape(shape)
