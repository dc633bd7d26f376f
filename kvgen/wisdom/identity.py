"""What makes two recurrences the same to a kernel: a hash of the derived form, and keys of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from kvgen.algebra.graph import Node, reachable
from kvgen.analysis import Analysis
from kvgen.formats.dtypes import BFLOAT16
from kvgen.functions.registry import function_of
from kvgen.kernels.fold import FOLD
from kvgen.language.spec import Spec
from kvgen.values.axes import Axes
from kvgen.wisdom.record import Key, Shape, bucket

NAMED = ("input", "param", "carried", "previous")
DTYPE = BFLOAT16.name


def form_hash(analysis: Analysis) -> str:
    """Twelve hexadecimal digits for the derived graph, its records, storage, K, V and HV/H.

    Names, titles, comments, head counts, the buffer's length and what takes no time play no part:
    whoever writes the same recurrence finds what was tuned for it.
    """
    spec, form, records = analysis.spec, analysis.form, analysis.records
    factored = form.factored
    kept = [*form.keys, *([factored.before, factored.after] if factored else [])]
    roots = [*form.whole, *kept, *(stored.node for stored in records.stored)]
    roots += [carry.before for carry in form.carries]
    known = _digests(roots, dict(spec.sizes))

    def all_of(nodes: Iterable[Node]) -> list[str]:
        return [known[node] for node in nodes]

    parts = {
        "decays": [(decay.channel, known[decay.log]) for decay in form.decays],
        "writes": [(known[write.w], known[write.d]) for write in form.writes],
        "carries": [(known[carry.before], known[carry.after]) for carry in form.carries],
        "output": known[form.result],
        "factored": [factored.most, *all_of(kept)] if factored else None,
        "records": [(known[stored.node], stored.dtype.name) for stored in records.stored],
        FOLD.name: (records.replay, records.exact),
        "storage": tuple(spec.storage.said.values()),
        "sizes": (spec.size("K"), spec.size("V"), spec.ratio),
    }
    return _digest(parts)[:12]


def key_of(
    analysis: Analysis, kernel: str, gpu: str, batch: int, tokens: int = 1, dtype: str = DTYPE
) -> Key:
    """The key of a kernel at a batch; batch 0 for all of them, as a buffer's length is chosen."""
    rows = bucket(batch) if batch else 0
    return Key(kernel, form_hash(analysis), gpu, dtype, shape_of(analysis.spec, rows, tokens))


def shape_of(spec: Spec, batch: int = 0, tokens: int = 1) -> Shape:
    heads = (spec.size("H"), spec.size("HV"), spec.size("K"), spec.size("V"))
    return Shape(bucket(batch) if batch else 0, bucket(tokens), *heads)


def _digests(roots: Iterable[Node], sizes: dict[str, int]) -> dict[Node, str]:
    """A digest of everything below each node, where a leaf is its place among the leaves."""
    places: dict[Node, int] = {}
    known: dict[Node, str] = {}
    for node in reachable(roots):
        value: Any = node.value
        if node.op in NAMED:
            value = places.setdefault(node, len(places))
        elif node.op == "read":
            value = None
        elif node.is_const:
            value = node.const.hex()
        function = function_of(node)
        if function is not None and function.free:
            known[node] = known[node.args[0]]
            continue
        args = [known[arg] for arg in node.args]
        known[node] = _digest([node.op, value, args, _axes(node.axes, sizes)])
    return known


def _axes(axes: Axes, sizes: dict[str, int]) -> list[Any]:
    return [axes.extra and sizes[axes.extra], axes.head, axes.channels]


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
