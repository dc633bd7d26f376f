"""What several tokens at once cost beside the plain recurrence, and why, where that is much."""

from __future__ import annotations

from kvgen.algebra.form import Form
from kvgen.algebra.solving import solve
from kvgen.explaining import window_cost
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.layout import count
from kvgen.explaining.window_cost import Work

# drafts that are verified together: as many as speculative decoding has most often, and the most
DRAFTS = (4, 16)


def prompt(d: Derivation) -> Work:
    """What a token of a prompt takes."""
    return window_cost.extend_work(d.form, d.records)


def drafts(d: Derivation, most: int) -> list[Work]:
    """What a draft takes among those that are verified together. most: that a verify can take."""
    return [
        window_cost.verify_work(d.form, d.records, tokens)
        for tokens in dict.fromkeys(min(tokens, most) for tokens in DRAFTS)
    ]


def together(form: Form, work: Work) -> str:
    """Drafts that are verified, of which a chain may take less than a tree."""
    return f"{work.tokens} verified together{as_tree(form)}"


def as_tree(form: Form) -> str:
    return " as a tree" if form.scaled_decays else ""


def said(work: Work) -> str:
    """As in `3.8 times`."""
    return f"{work.ratio:.1f} times"


def sentence(d: Derivation, most: int) -> str:
    """For `kvgen explain`."""
    of_prompt, of_drafts = prompt(d), drafts(d, most)
    way = f"verified together{as_tree(d.form)}"
    several = (f"{said(work)} where {work.tokens} are {way}" for work in of_drafts)
    text = (
        f"A token of a prompt takes {count(round(of_prompt.total))} operations in a layer, "
        f"{said(of_prompt)} the plain recurrence's {count(of_prompt.plain)}; a draft "
        f"{' and '.join(several)}."
    )
    slow = max([of_prompt, *of_drafts], key=lambda work: work.ratio)
    return f"{text} That is a slow path: {why(d.form, slow)}." if slow.steep else text


def why(form: Form, work: Work) -> str:
    """What most of a window's operations are spent on."""
    solved = solve(form)
    decayed = [decay.channel for decay in form.summed_decays if decay.channel]
    pairs = (
        f"every pair of tokens sums the logs of their decay, and raises e to them, for each "
        f"channel of {' and of '.join(decayed)}"
    )
    turns = (
        "what is written depends on what is read, and is found by substitution, in "
        f"{work.tokens} turns"
    )
    vectors = [carry.tensor.name for carry in form.carries if carry.axes.channels]
    if solved.method == "substitution" and work.solving > work.pairs:
        return f"{turns}; in each of them {pairs}" if decayed else turns
    if work.carried > work.pairs:
        names = ", ".join(vectors)
        return f"what is carried in {names} goes from token to token, in {work.tokens} turns"
    if not decayed and work.programs > 1:
        return f"{work.programs} programs have the values of a head, each multiplies all its keys"
    if not decayed:
        return "every token's vectors are multiplied with those of all tokens beside it"
    return f"{pairs}; {turns}" if solved.method == "substitution" else pairs
