"""docs/figures: in one style, of the kept numbers, and no label runs out of a picture."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from places import ROOT

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("drafts", "gain", "peers", "peers-h200", "time")


@pytest.fixture(scope="module")
def drawn() -> Iterator[dict[str, Any]]:
    import matplotlib

    with pytest.MonkeyPatch.context() as patch:
        # as a script finds what lies beside it
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        figures = importlib.import_module("figures")
        with matplotlib.rc_context(figures.STYLE):
            yield figures.drawn()


@pytest.mark.parametrize("name", NAMES)
def test_no_label_runs_out(drawn: dict[str, Any], name: str) -> None:
    figure = drawn[name]
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.x1 <= width
    assert box.y0 >= 0 and box.y1 <= height


def test_a_label_that_runs_out_is_seen(drawn: dict[str, Any]) -> None:
    figure = drawn["peers"]
    label = figure.text(0.9, 0.5, "a label that is too long to stand here, and then some")
    figure.draw_without_rendering()
    assert figure.get_tightbbox().x1 > figure.get_size_inches()[0]
    label.remove()


def test_the_files_show_what_is_drawn(drawn: dict[str, Any]) -> None:
    folder = ROOT / "docs" / "figures"
    assert {path.stem for path in folder.iterdir()} == set(drawn) == set(NAMES)
    for name, figure in drawn.items():
        root = ElementTree.parse(folder / f"{name}.svg").getroot()
        written = {each.text for each in root.iter(f"{SVG}text")}
        for axes in figure.axes:
            labels = set(axes.get_legend_handles_labels()[1]) | {axes.get_title()} - {""}
            assert labels and labels <= written, name


def test_colours_are_those_of_the_page(drawn: dict[str, Any]) -> None:
    from matplotlib.colors import to_hex

    css = (ROOT / "templates" / "figure.css").read_text(encoding="utf-8")
    [panel] = drawn["peers"].axes
    assert len(panel.get_lines()) > 5
    for line in panel.get_lines():
        assert to_hex(line.get_color()) in css, line.get_label()
