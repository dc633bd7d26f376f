"""A report as a page."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from kvgen import __version__
from kvgen.benching.page import figures
from kvgen.benching.page.trials import Study, funnels
from kvgen.benching.report import OURS, Report, Row
from kvgen.data import data_dir
from kvgen.kernels import registry
from kvgen.kernels.decode import DECODE
from kvgen.kernels.recurrent import RECURRENT


def html(report: Report, command: str, studies: Sequence[Study] = ()) -> str:
    """The page. command: how it was made. studies: the tuner's, of this spec on
    this GPU."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    drawn = {"times": figures.times, "shares": figures.shares, "errors": figures.errors}
    found = funnels(studies)
    return environment.get_template("bench.html.jinja").render(
        report=report,
        command=command,
        version=__version__,
        figures={name: Markup(draw(report)) for name, draw in drawn.items()},
        funnels=[(each, Markup(figures.funnel(each))) for each in found],
        error_batch=figures.chosen_batch(report),
        series=figures.series(report),
        tiles=tiles(report),
        headline=headline(report),
        fewer=min(row.layers for row in report.rows),
    )


def best_of(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row.us)


def duel(report: Report, batch: int) -> tuple[Row, Row] | None:
    """Our faster kernel and the fastest of all others at a batch; of ours without peers: the
    buffered and the plain one."""
    rows = [row for row in report.rows if row.batch == batch]
    own = [row for row in rows if row.library == OURS]
    others = [row for row in rows if row.library != OURS]
    if others and own:
        return best_of(own), best_of(others)
    by_kernel = {row.kernel: row for row in own}
    if {DECODE.name, RECURRENT.name} <= set(by_kernel):
        return by_kernel[DECODE.name], by_kernel[RECURRENT.name]
    return None


def headline(report: Report) -> str:
    """What the largest batch says, in a sentence."""
    batch = max(figures.batches(report))
    if (found := duel(report, batch)) is None:
        return ""
    mine, other = found
    whom = "the plain kernel" if other.library == OURS else named(report, other)
    if mine.us <= other.us:
        return f"At batch {batch}, {other.us / mine.us:.2f} times as fast as {whom}."
    return f"At batch {batch}, {whom} is {mine.us / other.us:.2f} times as fast."


def named(report: Report, row: Row) -> str:
    return next(each.name for each in figures.series(report) if each.rows[0].kernel == row.kernel)


def tiles(report: Report) -> list[tuple[str, str, str]]:
    """For each batch: which of our kernels is faster, its time, and how it compares."""
    found: list[tuple[str, str, str]] = []
    for batch in figures.batches(report):
        if (pair := duel(report, batch)) is not None:
            mine, other = pair
            kind = registry.named(mine.kernel).words
            ratio = f"{other.us / mine.us:.2f} × as fast as {named(report, other)}"
            found.append((f"batch {batch}, {kind}", f"{mine.us:.2f}", ratio))
    return found
