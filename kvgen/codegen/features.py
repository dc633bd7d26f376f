"""What a module can have: single tokens always, and what else its caller asks for."""

from __future__ import annotations

from collections.abc import Iterable

from kvgen.algebra.form import Form

DECODE, VERIFY, EXTEND, SHORT = ALL = ("decode", "verify", "extend", "short")
# without pages of records, which take as many lines as all the rest
USUAL = ALL[:-1]
# single tokens are always there
NEEDED = {SHORT: ALL}


def without_short(form: Form) -> str | None:
    """Why no module of a recurrence has short contexts; None where they can be asked for."""
    if not form.windows:
        return "this recurrence has no windows"
    if form.remembered:
        return "pages of records have no room for the past of inputs"
    if form.emptied:
        return f"records: {form.spec.storage.records.name} keeps none beyond a step"
    return None


def completed(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """All of them where None; what is asked for, "A,B" or one by one, and what that needs.
    ValueError for others."""
    if names is None:
        return ALL
    asked = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    strange = [name for name in asked if name not in ALL]
    if strange:
        raise ValueError(f"features: {strange[0]!r}, expected some of {', '.join(ALL)}")
    found = {DECODE}.union(asked, *(NEEDED.get(name, ()) for name in asked))
    return tuple(name for name in ALL if name in found)
