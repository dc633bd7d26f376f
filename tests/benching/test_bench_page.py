"""The page that `kvgen bench --html` writes."""

from __future__ import annotations

import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from reports import BATCHES, REPLAY, report, rows

import cli
from kvgen import bench as benches
from kvgen.benching.page import figures, page, svg, trials
from kvgen.benching.report import Report, Row
from kvgen.terminal import legal_json
from kvgen.tuning.trials import Outcome, Trials

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tags that are open, and everything that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html(given: Report | None = None, found: list[trials.Study] | None = None) -> str:
    return page.html(given or report(), "kvgen bench a_spec --against fla", found or [])


def test_page_stands_alone() -> None:
    text = html()
    parsed = Page(text)
    assert parsed.open == [] and parsed.fetched == []
    assert "<script" not in text and "@import" not in text and "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_page_says_what_was_measured() -> None:
    text = html()
    assert "Gated DeltaNet &lt;of made-up figures&gt;" in text
    for wanted in (
        "some GPU", "torch 1, triton 2", "0.5.23: packed decode; a note", "2026-01-02",
        "<code>kvgen bench a_spec --against fla</code>", "H 16, HV 32, K 128, V 128",
        "not here: flashinfer: cannot be imported: No module named &#39;flashinfer&#39;",
        "At batch 256, 1.17 times as fast as SGLang ReplaySSM, L 16, nk 2.",
        "tuned on this GPU",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert text.count("<tr") == 1 + len(rows())


def test_who_is_faster_is_said_as_it_is() -> None:
    found = page.tiles(report())
    assert found[0] == ("batch 1, plain", "3.50", "1.20 × as fast as FLA")
    # a peer is ahead here
    assert found[2] == ("batch 16, buffered", "15.00", "0.93 × as fast as SGLang " + REPLAY[7:])
    behind = replace(report(), rows=rows(batches=(16,)))
    assert page.headline(behind) == f"At batch 16, SGLang {REPLAY[7:]} is 1.07 times as fast."
    own = tuple(row for row in rows() if row.library == "kvgen")
    alone = replace(report(), rows=own)
    assert page.headline(alone) == "At batch 256, 1.96 times as fast as the plain kernel."


@pytest.mark.parametrize("draw", [figures.times, figures.shares, figures.errors])
@pytest.mark.parametrize("batches", [BATCHES, (8, 64), (1,)])
def test_figures_are_whole(draw, batches: tuple[int, ...]) -> None:
    """Legal XML, everything in the frame, a dot with its numbers for every row."""
    given = replace(report(), rows=rows(batches=tuple(b for b in batches if b in BATCHES)))
    root = ElementTree.fromstring(draw(given))
    width, height = (float(x) for x in root.attrib["viewBox"].split()[2:])
    dots = list(root.iter(f"{SVG}circle"))
    shown = [r for r in given.rows if draw is not figures.errors or r.batch == min(64, r.batch)]
    if draw is figures.errors:
        shown = [row for row in given.rows if row.batch == figures.chosen_batch(given)]
    assert len(dots) == len(shown)
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= width and 0 <= float(dot.attrib["cy"]) <= height
    hints = {dot[0].text for dot in dots}
    for row in shown:
        assert any(f"batch {row.batch}: {row.us:.2f} µs" in str(hint) for hint in hints)
    names = [label.text for label in root.iter(f"{SVG}text") if "label" in label.attrib["class"]]
    assert {"FLA", "SGLang packed decode", "kvgen, buffered"} <= set(names)


@pytest.mark.parametrize("draw", [figures.times, figures.shares, figures.errors])
def test_names_beside_lines_stay_in_the_picture(draw) -> None:
    long = "gated_delta_rule_decode_of_many_words_in_one_name"
    named = [replace(row, kernel=long) if row.kernel == REPLAY else row for row in report().rows]
    root = ElementTree.fromstring(draw(replace(report(), rows=tuple(named))))
    width = float(root.attrib["viewBox"].split()[2])
    labels = [each for each in root.iter(f"{SVG}text") if "label" in each.attrib["class"]]
    assert any(long in str(label.text) for label in labels)
    for label in labels:
        assert float(label.attrib["x"]) + 8 * len(str(label.text)) <= width, label.text


def test_slower_is_higher() -> None:
    root = ElementTree.fromstring(figures.times(report()))
    lines = {line.attrib["class"]: line.attrib["points"] for line in root.iter(f"{SVG}polyline")}
    ends = {name: float(points.split()[-1].split(",")[1]) for name, points in lines.items()}
    order = sorted(ends, key=lambda name: ends[name])
    assert [name.removeprefix("line ") for name in order] == [
        "fla", "kvgen recurrent", "sglang", "sglang other-1", "kvgen decode", "floor",
    ]  # fmt: skip


def test_labels_never_overlap() -> None:
    found = svg.apart([100, 101, 99, 350, 352, 20], 16, 10, 360)
    ordered = sorted(found)
    assert all(b - a >= 15.99 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= 10 and ordered[-1] <= 360
    # labels keep the order of their lines
    assert found[2] < found[0] < found[1] and found[3] < found[4]


@pytest.mark.parametrize(("low", "high"), [(0.5, 435.0), (1.5e-3, 1.9e-3), (9.0, 11.0)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert len(found) <= 6
    assert all(low <= tick * 1.001 and tick <= high * 1.001 for tick in found)


def test_an_error_that_is_unknown_has_no_dot() -> None:
    unknown = tuple(replace(row, error=math.nan) for row in rows())
    assert figures.errors(replace(report(), rows=unknown)) == ""
    assert "Error against time" not in html(replace(report(), rows=unknown))


# the tuner's trials ------------------------------------------------------------------------------


def study(kernel: str = "decode", batch: int = 16, **verdicts: int) -> trials.Study:
    found = [verdict for verdict, count in verdicts.items() for _ in range(count)]
    return trials.Study(kernel, batch, {str(at): verdict for at, verdict in enumerate(found)})


def stages(found: trials.Funnel) -> list[tuple[int, str]]:
    return [(stage.left, stage.text) for stage in found.stages]


def test_funnel() -> None:
    smaller, larger = study(timed=2, spills=1), study(timed=5, odd=2, spills=4)
    [found] = trials.funnels([smaller, larger, study("fold", timed=2, spills=9)])
    assert stages(found) == [(11, "configurations"), (7, "spill no registers"), (5, "timed")]
    [found] = trials.funnels([study(slow=3, timed=2, twin=1)])
    assert stages(found)[1:] == [
        (5, "are programs of their own"),
        (2, "could win, and were timed at length"),
    ]
    assert trials.funnels([study(timed=7)]) == []
    text = html(found=[larger])
    assert "The search, decode at batch 16" in text and text.count('class="bar') == 3
    assert "The search" not in html()


def test_studies_are_those_of_the_spec_and_gpu(tmp_path: Path) -> None:
    """Files as the tuner writes them."""
    for number, gpu in enumerate(("some GPU", "another GPU")):
        about = {"spec": "a", "gpu": gpu, "kernel": "decode", "batch": 4}
        file = Trials(tmp_path / gpu / f"{number}.jsonl", about)
        file.add(Outcome({"TILE": 1}, "hang"))
        file.add(Outcome({"TILE": 2}, "spills"))
        file.add(Outcome({"TILE": 1}, "timed", (1.0, 2.0, 3.0)))
        with file.path.open("a") as torn:
            torn.write('{"config": {"TI')
    [found] = trials.read(tmp_path, "a", "some GPU")
    assert (found.kernel, found.batch) == ("decode", 4)
    assert found.verdicts == {'{"TILE": 1}': "timed", '{"TILE": 2}': "spills"}
    assert trials.read(tmp_path, "b", "some GPU") == []
    assert trials.read(tmp_path / "none", "a", "some GPU") == []


@pytest.mark.parametrize(
    "about",
    [3, None, [], {"kernel": 1}, {"kernel": "decode"}, {"kernel": "decode", "batch": "many"}],
)
def test_an_odd_study_is_none(about: Any, tmp_path: Path) -> None:
    if isinstance(about, dict):
        about = {"spec": "a", "gpu": "some GPU", **about}
    lines = [{"study": about}, {"config": {"TILE": 1}, "verdict": "spills"}]
    (tmp_path / "odd.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert trials.read(tmp_path, "a", "some GPU") == []


# reports -----------------------------------------------------------------------------------------


def test_a_report_is_read_as_it_was_written() -> None:
    given = replace(report(), rows=(*rows(), Row("decode", 2, 1, 1.0, 0.0, 1.0, 1.0, 1.0)))
    kept = json.dumps(legal_json(given.data()))
    again = Report.of(json.loads(kept))
    assert json.dumps(legal_json(again.data())) == kept
    assert math.isnan(again.rows[-1].error) and again.absent == given.absent


# the command line --------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []

    def bench(analysis: object, batches: object, **given: object) -> Report:
        found.append(given)
        return report()

    monkeypatch.setattr(benches, "bench", bench)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return found


def test_the_command_writes_the_page(asked: list[dict[str, object]], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    arguments = ["bench", "gated_deltanet", "--against", "fla,sglang,fla", "--html", str(path)]
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 0, result.output
    assert asked[0]["against"] == ["fla", "sglang"]
    assert "not timed: flashinfer: cannot be imported" in result.stderr
    assert result.stdout.splitlines()[0].split()[0] == "kernel"
    assert re.search(r"fla fused_recurrent_gated_delta_rule +256", result.stdout)
    assert "Time against batch" in path.read_text(encoding="utf-8")


def test_json_has_the_peers(asked: list[dict[str, object]]) -> None:
    result = CliRunner().invoke(cli.cli, ["bench", "gated_deltanet", "--json"])
    assert asked[0]["against"] == ()
    data = json.loads(result.stdout)
    assert Report.of(data) == report()


@pytest.mark.parametrize("given", ["vllm", "fla,", ""])
def test_libraries_that_are_none(given: str) -> None:
    result = CliRunner().invoke(cli.cli, ["bench", "gated_deltanet", "--against", given])
    assert result.exit_code == 2 and "fla, sglang, flashinfer" in result.stderr


def test_a_page_that_cannot_be_written(asked: list[dict[str, object]], tmp_path: Path) -> None:
    arguments = ["bench", "gated_deltanet", "--html"]
    result = CliRunner().invoke(cli.cli, [*arguments, str(tmp_path / "none" / "page.html")])
    assert result.exit_code == 2 and asked == []
    # a disk may be full when the times are there: they are not lost with the page
    path = tmp_path / ("long" * 100)
    result = CliRunner().invoke(cli.cli, [*arguments, str(path)])
    assert result.exit_code == 1 and "cannot write the page" in result.stderr
    assert "recurrent" in result.stdout
