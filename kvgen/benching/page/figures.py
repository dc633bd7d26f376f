"""The figures of a report, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvgen.benching.page.svg import Figure, Point, Scale, room, span, ticks
from kvgen.benching.page.trials import Funnel
from kvgen.benching.report import OURS, Report, Row
from kvgen.kernels.registry import named

TITLES = {"fla": "FLA", "sglang": "SGLang", "flashinfer": "FlashInfer"}
# where error stands against time
MIDDLE = 64
# pixels of a plot and what is left of it
PLOT = 610.0


@dataclass(frozen=True)
class Series:
    """One kernel's rows. css: its colour and dashes."""

    name: str
    css: str
    rows: tuple[Row, ...]

    def hint(self, row: Row) -> str:
        return (
            f"{self.name}, batch {row.batch}: {row.us:.2f} µs, {row.share:.0%} of its floor, "
            f"error {row.error:.1e}"
        )


def series(report: Report) -> list[Series]:
    """A series for every kernel, ours first."""
    kernels = list(dict.fromkeys((row.library, row.kernel) for row in report.rows))
    libraries = [library for library, _ in kernels]
    found: list[Series] = []
    for library, kernel in kernels:
        rows = [row for row in report.rows if (row.library, row.kernel) == (library, kernel)]
        number = sum(other.css.startswith(library) for other in found)
        css = f"{library}" + (f" other-{number}" if number else "")
        if library == OURS:
            name, css = f"{OURS}, {named(kernel).words}", f"{OURS} {kernel}"
        elif libraries.count(library) == 1:
            name = TITLES[library]
        else:
            name = f"{TITLES[library]} {kernel.removeprefix(library).strip()}"
        found.append(Series(name, css, tuple(sorted(rows, key=lambda row: row.batch))))
    return found


def batches(report: Report) -> list[int]:
    return sorted({row.batch for row in report.rows})


def against_batch(report: Report, height: float) -> tuple[Figure, Scale, list[int]]:
    right, xs = room(each.name for each in series(report)), batches(report)
    figure = Figure(width=PLOT + right, height=height, right=right)
    return figure, figure.x(min(xs), max(xs) if len(xs) > 1 else 2 * xs[0]), xs


def drawn(figure: Figure, found: Sequence[tuple[Series, list[Point]]]) -> None:
    """Lines and dots, ours on top, names at their ends."""
    for each, points in reversed(found):
        figure.line(points, each.css)
        for point, row in zip(points, each.rows, strict=True):
            figure.dot(point, each.css, each.hint(row))


def times(report: Report) -> str:
    """Time against batch, with the floor of the buffered kernel."""
    found = series(report)
    figure, x, xs = against_batch(report, 440)
    floor = [row for each in found if each.css == f"{OURS} decode" for row in each.rows]
    values = [row.us for row in report.rows] + [row.floor_us for row in floor]
    low, high = span(values)
    y = figure.y(low, high)
    figure.axes(x, y, xs, ticks(low, high, 8), ("batch", "µs for a layer"))
    ends: list[tuple[Point, str, str]] = []
    if floor:
        points = [(x(row.batch), y(row.floor_us)) for row in floor]
        figure.line(points, "floor")
        ends.append((points[-1], "floor of buffered", "floor"))
    lines = [(each, [(x(row.batch), y(row.us)) for row in each.rows]) for each in found]
    drawn(figure, lines)
    figure.labels([*((points[-1], each.name, each.css) for each, points in lines), *ends])
    return figure.svg(f"{report.spec}: time of a layer against batch")


def shares(report: Report) -> str:
    """How much of each kernel's time its own floor is."""
    found = series(report)
    figure, x, xs = against_batch(report, 300)
    y = figure.y(0, 1, log=False)
    parts = [0, 0.25, 0.5, 0.75, 1]
    figure.axes(x, y, xs, parts, ("batch", "share of the floor"), lambda value: f"{value:.0%}")
    lines = [(each, [(x(row.batch), y(min(row.share, 1))) for row in each.rows]) for each in found]
    drawn(figure, lines)
    figure.labels([(points[-1], each.name, each.css) for each, points in lines])
    return figure.svg(f"{report.spec}: share of the floor against batch")


def chosen_batch(report: Report) -> int:
    """The batch at which errors stand against times."""
    return min(batches(report), key=lambda batch: abs(math.log2(batch / MIDDLE)))


def errors(report: Report) -> str:
    """Error against time at one batch."""
    batch = chosen_batch(report)
    points = [
        (each, row)
        for each in series(report)
        for row in each.rows
        if row.batch == batch and math.isfinite(row.error) and row.error > 0
    ]
    if not points:
        return ""
    right = room(each.name for each, _ in points)
    figure = Figure(width=PLOT + right, height=280, right=right)
    x_low, x_high = span((row.us for _, row in points), 1.25)
    low, high = span((row.error for _, row in points), 2.0)
    x, y = figure.x(x_low, x_high), figure.y(low, high)
    titles = (f"µs for a layer at batch {batch}", "error against float64")
    figure.axes(x, y, ticks(x_low, x_high), ticks(low, high), titles, lambda value: f"{value:.0e}")
    placed = [((x(row.us), y(row.error)), each, row) for each, row in points]
    # names stand in a column: dots of kernels that round alike lie on one height
    for (px, py), _, _ in placed:
        figure.parts.append(
            f'<line class="lead dotted" x1="{px:.1f}" x2="{x.end:.1f}" '
            f'y1="{py:.1f}" y2="{py:.1f}"/>'
        )
    for point, each, row in reversed(placed):
        figure.dot(point, each.css, each.hint(row), 6)
    figure.labels([((x.end, py), each.name, each.css) for (_, py), each, _ in placed])
    return figure.svg(f"{report.spec}: error against time at batch {batch}")


def funnel(found: Funnel) -> str:
    """What was left of the legal configurations after each step of the tuner's pruning."""
    row, figure = 34.0, Figure(left=10, right=10, top=4, bottom=4)
    figure.height = figure.top + figure.bottom + row * len(found.stages)
    most = found.stages[0].left
    for number, stage in enumerate(found.stages):
        top = figure.top + row * number
        width = max(2.0, stage.left / most * 430)
        last = " last" if number == len(found.stages) - 1 else ""
        figure.parts.append(
            f'<rect class="bar{last}" x="{figure.left}" y="{top:.1f}" '
            f'width="{width:.1f}" height="{row - 9:.1f}" rx="3"/>'
        )
        beside, count = figure.left + width + 10, f"{stage.left}"
        figure.text(beside, top + 17, count, "count")
        figure.text(beside + 8 + 8 * len(count), top + 17, stage.text, "tick")
    return figure.svg(f"configurations of {found.kernel} left after each step of the search")
