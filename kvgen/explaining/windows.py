"""The section of `kvgen explain` on several tokens at once: what verify and extend compute."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from kvgen.algebra.solving import Solve, obstacles, solve
from kvgen.codegen import features
from kvgen.explaining import pace
from kvgen.explaining.derivation import WINDOW, Derivation
from kvgen.explaining.layout import equations, indented, wrapped
from kvgen.explaining.notation import Line
from kvgen.explaining.window_cost import Work
from kvgen.kernels.chain import CHAIN
from kvgen.kernels.extend import EXTEND
from kvgen.kernels.load import load_of
from kvgen.kernels.verify import VERIFY
from kvgen.language.spec import MAX_WINDOW


@dataclass(frozen=True)
class Window:
    """T tokens that pass over the stored state together, as far as the form decides it.

    most: tokens a verify can take. block: tokens of a prompt that are taken at a time. solved: how
    the writes are found. unknown: the writes' names. lines, feedback: where a triangle is solved,
    the coefficients Nⱼ and what they need. chain: tokens of a chain that are written out one by
    one, 0 where none are.
    """

    most: int
    block: int
    chain: int
    solved: Solve
    unknown: list[str]
    lines: list[Line]
    feedback: str | None


def window(d: Derivation) -> Window | None:
    """None where there is neither verify nor extend."""
    form = d.form
    if not form.windows:
        return None
    most = min(MAX_WINDOW, form.factored.most) if form.factored else MAX_WINDOW
    chosen = EXTEND.untuned(load_of(form, d.records))
    block = next(iter(chosen.values()))["TOKENS"]
    solved = solve(form)
    keys = dict(zip(form.keys, (write.w for write in form.writes), strict=True))
    unknown = list(dict.fromkeys(d.name(keys.get(node, node)) for node in solved.unknown))
    lines: list[Line] = []
    feedback = None
    if solved.factors is not None:
        place = [write.d for write in form.writes].index(solved.unknown[0])
        lines, feedback = d.feedback_text(place, solved.factors)
    chain = CHAIN.wanted(form) if CHAIN.exists(form) else 0
    return Window(most, block, chain, solved, unknown, lines, feedback)


def reason(d: Derivation) -> str | None:
    """Why tokens cannot share a pass: what would have to be known before it."""
    found = obstacles(d.form)
    if not found:
        return None
    carried = dict.fromkeys(c.tensor.name for carries in found.values() for c in carries)
    names = listed(d.name(node) for node in found)
    verb = "depends" if len(found) == 1 else "depend"
    return f"{names} {verb} on {_carried_states(carried)}, updated from what a token reads"


def summary(d: Derivation, asked: Collection[str] = features.USUAL) -> str:
    """What `kvgen compile` says of it. asked: the features that the module has."""
    found = window(d)
    if found is None:
        return f"1, decode; no verify and no extend, as {reason(d)}"
    slow = f"{pace.said(pace.prompt(d))} the plain recurrence's operations"
    calls = {
        features.VERIFY: f"verify, 1 to {found.most}, chains and trees",
        features.EXTEND: f"extend, a prompt of any length, at {slow}",
    }
    return "; ".join(text for name, text in calls.items() if name in asked) or "1, decode"


def section(d: Derivation) -> list[str]:
    found = window(d)
    if found is None:
        return wrapped(
            f"There is no verify and no extend. Tokens can share a pass over {d.state}₀ only if "
            "what reads it, and how it decays, is known before the pass. Here "
            f"{reason(d)}: a token must have read before the next one can."
        )
    lines = wrapped(
        f"verify takes T tokens of a row, T ≤ {found.most}, in one pass over {d.state}₀; extend "
        f"takes a prompt, {found.block} tokens at a time, while a tile of the state stays on the "
        "chip. A token t follows those above it: all before it in a chain, its ancestors in a "
        f"tree. They have made {d.state}ₜ of {d.state}ₙ; token j is one of them:"
    )
    reads = [d.read_text(side, WINDOW) for side in d.sides_read]
    lines += ["", *indented([*d.window_sums(), *reads]), ""]
    if reads:
        count = len(d.form.columns)
        lines += wrapped(
            f"So {'' if count == 1 else f'{count}·'}T columns go through {d.state}₀"
            f"{'' if d.form.emptied else ', and meet the records,'} together; what the window "
            "itself has written enters by dots of vectors."
        )
        lines += ["", *_solved(d, found)]
    if d.form.carries:
        lines += ["", *_carried(d, found)]
    return [
        *lines,
        "",
        *wrapped(
            "A verify writes and copies no state: each token leaves its record behind the others, "
            "and accept keeps the first so many, or a path of the tree, whose gaps count for "
            "nothing. An extend folds what the buffer holds, and then every block, into "
            f"{d.state}₀."
        ),
        "",
        *wrapped(pace.sentence(d, found.most)),
    ]


def _solved(d: Derivation, found: Window) -> list[str]:
    """How writes that depend on reads are found."""
    if found.solved.method == "none":
        return wrapped("No write depends on a read: there is nothing to solve for.")
    carried = [carry.tensor.name for carry in found.solved.carries]
    names = listed([*found.unknown, *carried])
    if found.feedback is None:
        several = len(found.unknown) + len(carried) > 1
        return wrapped(
            f"{names} {'depend' if several else 'depends'} on what is read, and "
            f"{'are' if several else 'is'} found by substitution: in T turns of dots of vectors, "
            "without another pass, each token gets its own once those above it have theirs."
            + _written_out(found)
        )
    lines = wrapped(
        f"{names} depends on what is read: it is a sum of reads, each times a number for a head. "
        f"{names}⁰ is what it would be if no {names}ⱼ were there:"
    )
    system = [f"Nⱼ = {found.feedback}", f"{names} = {names}⁰ + Σⱼ Nⱼ * {names}ⱼ"]
    lines += ["", *indented([*equations(found.lines, axes=False), *system]), ""]
    lines += wrapped("Of all tokens the Nⱼ make a strict triangle N, T × T for a head:")
    powers = "".join(f"(1 + N{power})" for power in _powers(found.most))
    lines += ["", *indented([f"{names} = (1 - N)⁻¹ {names}⁰, (1 - N)⁻¹ = {powers}"])]
    shorter = _written_out(found).strip()
    return [*lines, "", *wrapped(shorter)] if shorter else lines


def _written_out(found: Window) -> str:
    if not found.chain:
        return ""
    return f" In a chain of at most {found.chain} they are written out instead, token after token."


def _carried(d: Derivation, found: Window) -> list[str]:
    names = [carry.tensor.name for carry in d.form.carries]
    late = [carry.tensor.name for carry in found.solved.carries]
    early = [name for name in names if name not in late]
    text = f"A token finds {_carried_states(names)} as its parent in the window leaves them"
    if len(names) == 1:
        text = text.removesuffix("them") + "it"
    if early and late:
        text += f": {listed(early)} before the pass, {listed(late)} by the substitution"
    elif early:
        text += ", handed on before the pass"
    return wrapped(text + ".")


def data(d: Derivation) -> dict[str, Any]:
    """The same as `section`, for programs."""
    found = window(d)
    if found is None:
        return {"available": False, "reason": reason(d)}
    late = {carry.tensor.name for carry in found.solved.carries}
    carried = [carry.tensor.name for carry in d.form.carries]
    return {
        "available": True,
        "most": found.most,
        "block": found.block,
        CHAIN.name: found.chain,
        "columns": len(d.form.columns),
        "sums": d.window_sums(),
        "reads": [d.read_text(side, WINDOW) for side in d.sides_read],
        "solve": found.solved.method,
        "unknown": found.unknown,
        "definitions": [{"name": line.name, "text": line.text} for line in found.lines],
        "feedback": found.feedback,
        "carried": [{"name": name, "solved": name in late} for name in carried],
        "operations": {
            EXTEND.name: _work(pace.prompt(d)),
            VERIFY.name: [_work(work) for work in pace.drafts(d, found.most)],
        },
    }


def _work(work: Work) -> dict[str, Any]:
    """Of one token; ratio: to the plain recurrence's operations."""
    return {"tokens": work.tokens, "operations": round(work.total), "ratio": work.ratio}


def _powers(most: int) -> list[str]:
    """Those of N, up to the last that is not zero for so many tokens."""
    signs = ("", "²", "⁴", "⁸")
    return [sign for place, sign in enumerate(signs) if place == 0 or 1 << place < most]


def _carried_states(names: Iterable[str]) -> str:
    names = list(names)
    return f"the carried state{'s' if len(names) > 1 else ''} {listed(names)}"


def listed(names: Iterable[str]) -> str:
    *most, last = names
    return " and ".join(filter(None, (", ".join(most), last)))
