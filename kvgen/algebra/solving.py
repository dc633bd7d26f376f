"""What a window of tokens must solve for, and what keeps tokens from sharing a pass."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Carry, Form
from kvgen.algebra.graph import Node, reachable


@dataclass(frozen=True)
class Solve:
    """What follows from a read of the same window and feeds another: nothing, or

    unknown: the sides of writes. carries: carried states. factors: of the reads in the only such
    side, where it is a sum of them times a number for each head: then a triangle of T × T numbers
    a head is solved; else the unknown are substituted, turn after turn.
    """

    unknown: tuple[Node, ...]
    carries: tuple[Carry, ...]
    factors: dict[Node, Node] | None

    @property
    def method(self) -> str:
        if not (self.unknown or self.carries):
            return "none"
        return "substitution" if self.factors is None else "triangle"


def solve(form: Form) -> Solve:
    """How the writes of a window are found, if `form.windows`."""
    late = form.late
    sides = [
        side for pair in zip(form.keys, form.writes, strict=True) for side in (pair[0], pair[1].d)
    ]
    unknown = tuple(dict.fromkeys(side for side in sides if side in late))
    carries = tuple(carry for carry in form.carries if carry.after in late)
    values = [write.d for write in form.writes]
    # a sum over a decaying V has no one number for all channels
    summed = any(decay.channel == "V" for decay in form.summed_decays)
    alone = len(unknown) == 1 and values.count(unknown[0]) == 1 and not carries and not summed
    return Solve(unknown, carries, factors(form, unknown[0]) if alone else None)


def obstacles(form: Form) -> dict[Node, tuple[Carry, ...]]:
    """The decays and the vectors that read which follow from what was read in an earlier token,
    with the carried states that bring it."""
    late = form.late
    brought = [carry for carry in form.carries if carry.after in late]
    found: dict[Node, tuple[Carry, ...]] = {}
    for node in (*(decay.log for decay in form.decays), *form.columns):
        if node in late:
            below = set(reachable([node]))
            found[node] = tuple(carry for carry in brought if carry.before in below)
    return found


def factors(form: Form, node: Node) -> dict[Node, Node] | None:
    """The factor of every read in a value that is a sum of reads, each times a number for its head,
    and of what needs no read; None where it is not such a sum."""
    late, graph = form.late, form.graph
    # for every late node the factors of the reads in it
    found: dict[Node, dict[Node, Node]] = {}
    for each in reachable([node], below=lambda x: x.args if x in late and x.op != "read" else ()):
        if each not in late:
            continue
        args = each.args
        if each.op == "read":
            found[each] = {each: graph.const(1.0)}
        elif each.op in ("add", "sub"):
            found[each] = dict(found.get(args[0], {}))
            for read, factor in found.get(args[1], {}).items():
                factor = factor if each.op == "add" else graph.neg(factor)
                known = found[each].get(read)
                found[each][read] = factor if known is None else graph.add(known, factor)
        elif each.op == "neg":
            found[each] = {read: graph.neg(factor) for read, factor in found[args[0]].items()}
        elif each.op == "mul" and (args[0] not in late or args[1] not in late):
            times, inner = args if args[1] in late else args[::-1]
            found[each] = {read: graph.mul(times, f) for read, f in found[inner].items()}
        elif each.op == "div" and args[1] not in late:
            found[each] = {read: graph.div(f, args[1]) for read, f in found[args[0]].items()}
        else:
            return None
    # a factor for every channel would need a system of its own for each
    if any(factor.axes.channels for factor in found[node].values()):
        return None
    return found[node]
