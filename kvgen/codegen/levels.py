"""Which values a program computes once and which for each tile of values, and whether a program
has one value head or the heads of a group."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.graph import Node, reachable
from kvgen.algebra.records import Records


def unit_level(nodes: list[Node], per_head: bool) -> set[Node]:
    """The nodes a program computes once, before it goes over value tiles."""
    found: set[Node] = set()
    for node in nodes:
        moves = node.reads or "V" in node.axes.channels
        moves = moves or (not per_head and node.axes.head == "HV")
        if not moves and all(arg in found for arg in node.args):
            found.add(node)
    return found


def boundary(
    columns: tuple[Node, ...], roots: list[Node], unit: set[Node]
) -> tuple[list[Node], list[Node]]:
    """Values to be ready before the tiles, and before the reads within one tile."""
    nodes = reachable(roots)
    before_tiles: dict[Node, None] = {}
    before_reads: dict[Node, None] = {}
    for node in nodes:
        for arg in node.args if node.op != "index" else ():
            if arg in unit and node not in unit and not arg.is_const:
                before_tiles[arg] = None
            if not arg.reads and arg not in unit and node.reads:
                before_reads[arg] = None
    for node in (*roots, *columns):
        if node.is_const or node.reads:
            continue
        (before_tiles if node in unit else before_reads)[node] = None
    return list(before_tiles), list(before_reads)


def per_head(form: Form, records: Records) -> bool:
    """Whether a decode program serves one value head, because scores differ between heads."""
    sizes = dict(form.spec.sizes)
    if sizes["HV"] == sizes["H"] or any(d.channel == "K" for d in form.decays):
        return True
    grouped = [*form.columns, *(write.w for write in form.writes)]
    if any(c.axes.channels == "V" for c in form.columns):
        return True
    return any(node.axes.head == "HV" for node in grouped)


def newest_first(form: Form) -> bool:
    """Whether a program's places begin with the last: sums of channels' decays are to run that way,
    and in the other direction take two shuffles an element more."""
    return any(decay.channel for decay in form.summed_decays)
