"""Draw docs/figures from the kept figures of family.py, drafts.py and peers.py: the same data give
the same bytes.

    python benchmarks/figures.py [--png DIR]

time.svg: a layer's time against batch for the recurrences that are served most. gain.svg: the gain
over the plain kernel for all recurrences. Both are of docs/data/h100-tuned.json. drafts.svg: the
time of verify over that of decode against batch, of docs/data/h100-drafts.json. peers.svg,
peers-h200.svg: a layer's time beside other libraries' kernels, of docs/data/h100-peers.json and
h200-peers.json. Colours are those of `kvgen bench --html`. matplotlib is in the extra dev.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drafts_page
import family
import pages
import peers_page
from family import Tuned

from kvgen.benching.page.figures import series
from kvgen.data import data_dir
from kvgen.formats.registry import STATE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kvgen.bench import Report

DOCS = Path(__file__).resolve().parent.parent / "docs"
# the panels of time.svg, and what they show a state in
SERVED = ("gated_deltanet", "kimi_delta_attention", "mamba2", "lightning_attention")
DRAFTS = DOCS / "data" / "h100-drafts.json"
PEERS = [DOCS / "data" / f"{gpu}-peers.json" for gpu in ("h100", "h200")]


def palette() -> dict[str, str]:
    """The page's colours on white, by what they stand for."""
    css = (data_dir("templates") / "figure.css").read_text(encoding="utf-8")
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]+)", css.partition("@media")[0]))


COLOURS = palette()
BUFFERED, PLAIN, FLOOR = COLOURS["decode"], COLOURS["recurrent"], COLOURS["floor"]
# what the page has no colour for
SPLIT, GOAL = "#c2255c", "#c2620a"
DASHES = {"other-1": "--", "other-2": ":"}
STYLE: dict[str, Any] = {
    # text stays text: small files, and no outlines that differ between versions of a font
    "svg.fonttype": "none",
    "svg.hashsalt": "kvgen",
    # the second is for a viewer without the first
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
}


def times(every: list[Tuned]) -> Figure:
    """A panel for each recurrence: buffered with a float32 and a split state, plain, floor."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    found = {(tuned.spec, tuned.storage): tuned for tuned in every if not tuned.heads}
    figure = Figure(figsize=(8.6, 6.2), layout="constrained")
    panels = figure.subplots(2, -(-len(SERVED) // 2), sharex=True, sharey=True).flat
    for panel, name in zip(panels, SERVED, strict=False):
        lines = [
            ("plain kernel, float32 state", "float32", "plain_us", PLAIN, "o-"),
            ("buffered, float32 state", "float32", "us", BUFFERED, "o-"),
            ("buffered, split state", "split", "us", SPLIT, "o-"),
            ("floor of buffered, float32 state", "float32", "floor_us", FLOOR, "--"),
        ]
        batches: list[int] = []
        for label, storage, value, colour, line in lines:
            if (name, storage) not in found:
                continue
            rows = found[name, storage].rows
            batches = [row.batch for row in rows]
            values = [getattr(row, value) for row in rows]
            panel.plot(batches, values, line, color=colour, label=label, lw=1.5, ms=3.5)
            panel.set(xscale="log", yscale="log", title=name)
        panel.xaxis.set_major_locator(FixedLocator(batches))
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for panel in figure.axes:
        panel.label_outer()
        if panel.get_subplotspec().is_last_row():
            panel.set_xlabel("batch")
        if panel.get_subplotspec().is_first_col():
            panel.set_ylabel("µs a layer")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def gains(every: list[Tuned], batches: tuple[int, int] = (64, 256)) -> Figure:
    """A line for each recurrence: plain over buffered, float32 state, at two batches."""
    from matplotlib.figure import Figure

    found: dict[str, list[float]] = {}
    for tuned in every:
        gain = {row.batch: row.plain_us / row.us for row in tuned.rows}
        whole = tuned.storage == STATE.name and not tuned.heads
        if whole and set(batches) <= set(gain):
            found[tuned.spec] = [gain[batch] for batch in batches]
    names = sorted(found, key=lambda name: (found[name][1], name))
    figure = Figure(figsize=(7.4, 0.21 * len(names) + 1.1), layout="constrained")
    panel = figure.subplots()
    panel.axvline(1, color=PLAIN, lw=1.2)
    panel.text(1.005, len(names) - 0.35, "as fast as the plain kernel", color=PLAIN, fontsize=8)
    for place, name in enumerate(names):
        panel.plot(found[name], [place, place], "-", color="#bbbbbb", lw=1.2, zorder=1)
    few, many = zip(*(found[name] for name in names), strict=True)
    places = range(len(names))
    panel.plot(few, places, "o", mfc="white", mec=BUFFERED, ms=5, label=f"batch {batches[0]}")
    panel.plot(many, places, "o", color=BUFFERED, ms=5, label=f"batch {batches[1]}")
    panel.set_yticks(places, names)
    panel.set_ylim(-0.7, len(names) + 0.4)
    panel.set_xlabel("times as fast as the plain kernel, float32 state")
    panel.tick_params(axis="y", length=0)
    panel.legend(loc="lower right")
    return figure


def ratios(reports: list[Report]) -> Figure:
    """A panel for each number of tokens: verify over decode, alone, for every state; the goal."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    served = [report for report in reports if report.spec == drafts_page.SERVED]
    found = [(report, drafts_page.pairs(report, end=False)) for report in served]
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    panels = figure.subplots(1, len(drafts_page.WINDOWS), sharey=True)
    for panel, tokens in zip(panels, drafts_page.WINDOWS, strict=True):
        batches: list[int] = []
        for (report, rows), colour in zip(found, (BUFFERED, SPLIT), strict=True):
            chosen = {b: v.us / d.us for (count, b), (d, v) in rows.items() if count == tokens}
            batches = list(chosen)
            label = f"{report.storage} state"
            panel.plot(
                batches, list(chosen.values()), "o-", color=colour, label=label, lw=1.5, ms=4
            )
        goals = drafts_page.GOALS[tokens]
        panel.plot(list(goals), list(goals.values()), "_--", color=GOAL, label="goal", lw=1, ms=9)
        panel.axhline(1, color=FLOOR, lw=1)
        panel.set(xscale="log", title=f"{tokens} tokens", xlabel="batch")
        panel.xaxis.set_major_locator(FixedLocator(batches))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("verify over decode of one token")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def peers(report: Report) -> Figure:
    """A line for each kernel, ours and others', and the floor; names in the order of the lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    panel = figure.subplots()
    for each in series(report):
        library, *more = each.css.split()
        ours = library not in COLOURS
        colour = COLOURS[more[0] if ours else library]
        line = "-" if ours else DASHES.get(more[0] if more else "", "-")
        batches, times = [row.batch for row in each.rows], [row.us for row in each.rows]
        style: dict[str, Any] = {"lw": 2.4 if colour == BUFFERED else 1.5, "ms": 3.5, "marker": "o"}
        panel.plot(batches, times, line, color=colour, label=each.name, **style)
        if colour == BUFFERED:
            floors = [row.floor_us for row in each.rows]
            panel.plot(batches, floors, "--", color=FLOOR, label="floor of buffered", lw=1.2)
    panel.set(xscale="log", yscale="log", xlabel="batch", ylabel="µs a layer")
    panel.set_title(f"{report.spec}, {report.storage} state")
    panel.xaxis.set_major_locator(FixedLocator(sorted({row.batch for row in report.rows})))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    lines = sorted(panel.get_lines(), key=lambda line: -list(line.get_ydata())[-1])
    figure.legend(lines, [str(line.get_label()) for line in lines], loc="outside right center")
    return figure


def drawn() -> dict[str, Figure]:
    """Every figure, by its file's name, in the style that is in force."""
    every = family.level(family.read(family.PAGES["h100"].kept))
    figures = {"time": times(every), "gain": gains(every)}
    if DRAFTS.is_file():
        figures["drafts"] = ratios(drafts_page.read(DRAFTS).reports)
    for kept in filter(Path.is_file, PEERS):
        report = pages.level(peers_page.read(kept)[0])[0]
        figures[peers_page.page_of(report).figure] = peers(report)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=DOCS / "figures")
    parser.add_argument("--png", type=Path, metavar="DIR", help="draw PNGs there too, to look at")
    options = parser.parse_args()
    import matplotlib

    with matplotlib.rc_context(STYLE):
        for name, figure in drawn().items():
            options.out.mkdir(parents=True, exist_ok=True)
            figure.savefig(options.out / f"{name}.svg", metadata={"Date": None, "Creator": None})
            if options.png:
                options.png.mkdir(parents=True, exist_ok=True)
                figure.savefig(options.png / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
