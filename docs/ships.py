"""docs/tuned.md: what ships tuned for which GPU, and what does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from kvgen.compiler import analyse
from kvgen.shipped import shipped
from kvgen.wisdom import account
from kvgen.wisdom.account import Held
from kvgen.wisdom.record import Shape
from kvgen.wisdom.storages import words
from kvgen.wisdom.store import Store

HEAD = """\
# What ships tuned

The configurations in `tuned/`, by GPU and recurrence; `python docs/build.py` writes this page anew,
`kvgen wisdom show` lists every record with its times. What is not here runs on
[rules of thumb](tuning.md#what-an-untuned-module-takes) until `kvgen tune` has been on the GPU:
other recurrences, sizes and storages, and inputs of 32 bits. Of a kernel that is missing in a row
these rules choose the configuration, too.

**storage**: of the state, and what else is not as specs have it that say nothing. **heads**: query
and key heads, value heads. **batches**: rows that single tokens were timed with; others take the
configuration of the nearest. **effort**: of the search. **kernels**: `recurrent` is the plain one,
`chain`, `chunk` and `verify` are drafts', `extend` and `sweep` prompts', `short` is that of short
contexts; `buffer` says that its length was chosen by times, too.
"""
COLUMNS = ("recurrence", "storage", "heads", "K, V", "batches", "effort", "kernels")


def page() -> str:
    """The text of the page."""
    found = account.described(account.held(Store.shipped()), analyse)
    names = [spec.name for spec in shipped()]
    parts = [HEAD]
    for gpu in sorted({each.record.key.gpu for each in found}):
        here = [each for each in found if each.record.key.gpu == gpu]
        there = {each.record.spec for each in here}
        parts += [f"## {gpu}", "", *lines(here), ""]
        missing = [name for name in names if name not in there]
        parts += [f"Not tuned: {', '.join(missing)}." if missing else "All are tuned.", ""]
    return "\n".join(parts)


def lines(found: Iterable[Held]) -> Iterator[str]:
    groups: dict[tuple[str, str, str, str], list[Held]] = defaultdict(list)
    for each in found:
        shape: Shape = each.record.key.shape
        heads, channels = f"{shape.H}, {shape.HV}", f"{shape.K}, {shape.V}"
        groups[each.record.spec, words(each.storage), heads, channels].append(each)
    yield f"| {' | '.join(COLUMNS)} |"
    yield f"| {' | '.join('---' for _ in COLUMNS)} |"
    for group, records in sorted(groups.items()):
        yield f"| {' | '.join((*group, *of(records)))} |"


def of(records: list[Held]) -> tuple[str, str, str]:
    """Batches of single tokens, efforts, kernels."""
    single = {each.record.key.shape.B for each in records if each.record.key.kernel == "decode"}
    efforts = sorted({each.record.effort for each in records})
    kernels = dict.fromkeys(each.record.key.kernel for each in records)
    batches = ", ".join(map(str, sorted(single)))
    return batches, ", ".join(efforts), ", ".join(kernels)
