"""What will disappoint in a module, before it is written: slow paths, kernels that no GPU holds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from kvgen.analysis import Analysis
from kvgen.codegen.cost import cost, held
from kvgen.codegen.features import EXTEND, SHORT, USUAL, VERIFY, without_short
from kvgen.diagnostics import Diagnostic, tidy, warning
from kvgen.explaining import pace, windows
from kvgen.explaining.derivation import Derivation
from kvgen.explaining.layout import count
from kvgen.kernels.capacity import needs, unheld
from kvgen.runtime.numbers import power_of_two


def warnings(analysis: Analysis, asked: Collection[str] = USUAL) -> tuple[Diagnostic, ...]:
    """In the style of errors, with numbers; without a place, for the whole recurrence is meant.
    asked: the features that the module should have."""
    d = Derivation(analysis)
    return tidy((*_windows(d, asked), *refused(analysis, asked), *_kernels(analysis, asked)))


def refused(analysis: Analysis, asked: Iterable[str]) -> Iterator[Diagnostic]:
    """A feature that is asked for, and that no module of the recurrence has."""
    why = without_short(analysis.form) if SHORT in asked else None
    if why:
        message = f"'{SHORT}' is asked for, and there are no short contexts: {why}"
        yield warning("no-short", message, None, "leave it out")


def _windows(d: Derivation, asked: Collection[str]) -> Iterator[Diagnostic]:
    """Prompts and drafts whose tokens cost much more than they do one by one, of a module that is
    to take them."""
    if VERIFY not in asked and EXTEND not in asked:
        return
    found = windows.window(d)
    if found is None:
        total = cost(d.form, d.records)
        yield warning(
            "no-window",
            f"there is no verify and no extend: {windows.reason(d)}; a prompt is taken token by "
            f"token, each of which moves {count(total.recurrent())} bytes in a layer",
            None,
            "decode is not affected",
        )
        return
    prompt, drafts = pace.prompt(d), pace.drafts(d, found.most)
    slow = [work for work in drafts if work.steep and VERIFY in asked]
    each = [("of a prompt", prompt)] if prompt.steep and EXTEND in asked else []
    if not each and not slow:
        return
    each += [(f"of {pace.together(d.form, work)}", work) for work in slow]
    (which, first), *others = each
    more = "".join(f", {name} {pace.said(work)}" for name, work in others)
    worst = max((work for _, work in each), key=lambda work: work.ratio)
    yield warning(
        "slow-window",
        f"each token {which} takes {pace.said(first)} the plain recurrence's operations{more}: "
        f"{pace.why(d.form, worst)}",
        None,
        _instead(d),
    )


def _instead(d: Derivation) -> str:
    """What the author of a recurrence can do about it."""
    decay = d.form.decay("K")
    if decay is not None and decay in d.form.summed_decays and decay.lower is None:
        return (
            "a decay over K that has a proved lower bound, as in kimi_delta_attention_bounded, "
            "is multiplied in one product; decode is not affected"
        )
    return "decode is not affected"


def _kernels(analysis: Analysis, asked: Collection[str]) -> Iterator[Diagnostic]:
    """Kernels of such a module that no GPU holds at the spec's sizes."""
    form = analysis.form
    found = unheld(form, analysis.records, asked)
    if not found:
        return
    keys, padded = form.spec.size("K"), power_of_two(form.spec.size("K"))
    help = "fewer keys or values fit" if form.whole_v else "fewer keys fit"
    help = help if keys == padded else f"K = {keys:,} is padded to {padded:,}"
    if form.spec.buffer is not None and form.spec.buffer > held(form):
        help += f"; the keys of {held(form)} places fit, those of buffer: {form.spec.buffer} do not"
    every = needs(form, analysis.records, asked)
    others = [need.called for need in every if need not in found]
    if others:
        help += f"; {windows.listed(others)} {'is' if len(others) == 1 else 'are'} not affected"
    for need in found:
        yield warning(
            "too-large", f"{need.called} is more than a GPU can hold: {need.reason}", None, help
        )
