"""Diagnostics: what a report looks like, and that no text of a spec disturbs it."""

from __future__ import annotations

import pickle

from kvgen.diagnostics import Diagnostic, Span, SpecError, closest, quote, render, tidy, warning

TEXT = "kvgen: 1\nshape: scaler\nexpr: exp(A_lgo)\n"
BAD_VALUE = Diagnostic(
    "bad-value",
    "'scaler' is not one of 'none' or 'scalar'",
    Span(2, 8, 14),
    "did you mean 'scalar'?",
    (("the key stands", Span(2, 1, 6)),),
)
BAD_NAME = Diagnostic("unknown-name", "unknown name 'A_lgo'", Span(3, 11, 16))


def test_a_report() -> None:
    assert render([BAD_NAME, BAD_VALUE], "bad.yaml", TEXT) == (
        "error[bad-value]: 'scaler' is not one of 'none' or 'scalar'\n"
        " --> bad.yaml:2:8\n"
        "  |\n"
        "2 | shape: scaler\n"
        "  |        ^^^^^^\n"
        "  = help: did you mean 'scalar'?\n"
        "  = note: the key stands at bad.yaml:2:1\n"
        "\n"
        "error[unknown-name]: unknown name 'A_lgo'\n"
        " --> bad.yaml:3:11\n"
        "  |\n"
        "3 | expr: exp(A_lgo)\n"
        "  |           ^^^^^\n"
        "\n"
        "bad.yaml: 2 errors"
    )


def test_a_report_without_a_place_comes_first() -> None:
    found = Diagnostic("bad-override", "no such key, in --set a=b", None, "did you mean 'c'?")
    assert render([BAD_NAME, found], "bad.yaml", TEXT).startswith(
        "error[bad-override]: no such key, in --set a=b\n = help: did you mean 'c'?\n\n"
    )
    assert render([found], "bad.yaml", "").endswith("bad.yaml: 1 error")


def test_an_error_is_its_report() -> None:
    error = SpecError([BAD_NAME, BAD_VALUE], "bad.yaml", TEXT)
    assert error.diagnostics == (BAD_VALUE, BAD_NAME)
    assert str(error) == render(error.diagnostics, "bad.yaml", TEXT)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_same_error_at_one_place_is_told_once() -> None:
    again = Diagnostic(BAD_NAME.code, BAD_NAME.message, BAD_NAME.span, "with help")
    assert tidy([BAD_NAME, again, BAD_VALUE]) == (BAD_VALUE, BAD_NAME)


def test_control_characters_never_reach_the_terminal() -> None:
    text = "a: \x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}\tb\n"
    found = Diagnostic("bad-value", "'\x1b[2J'", Span(1, 4, 5), "\x07", (("\r", Span(1, 1, 2)),))
    report = render([found], "\x1b.yaml", text)
    assert all(each.isprintable() for each in report.replace("\n", ""))
    assert quote("\x1b" + "x" * 100) == "'\N{REPLACEMENT CHARACTER}" + "x" * 56 + "...'"


def test_long_lines_are_cut_around_the_caret() -> None:
    for column in (1, 40, 700, 1990):
        text = "x" * (column - 1) + "HERE" + "x" * (2000 - column)
        report = render([Diagnostic("bad", "bad", Span(1, column, column + 4))], "a", text)
        source, carets = report.split("\n")[3:5]
        assert len(source) < 120
        at = carets.index("^")
        assert source[at : at + 4] == "HERE" and carets.count("^") == 4


def test_carets_stand_under_wide_and_combining_letters() -> None:
    text = "a: 状態 e\N{COMBINING ACUTE ACCENT} bad"
    column = text.index("bad") + 1
    report = render([Diagnostic("bad", "bad", Span(1, column, column + 3))], "a", text)
    # two wide letters take two more columns, the accent takes none
    assert report.split("\n")[4] == "  | " + " " * (column - 1 + 2 - 1) + "^^^"


def test_a_tab_is_seen_and_carets_stand_right_of_it() -> None:
    text = "a:\tb \t bad"
    column = text.index("bad") + 1
    report = render([Diagnostic("bad", "bad", Span(1, column, column + 3))], "a", text)
    source, carets = report.split("\n")[3:5]
    assert "\N{REPLACEMENT CHARACTER}" not in report and source.count("\N{RIGHTWARDS ARROW}") == 2
    assert carets.index("^^^") == source.index("bad")
    found = Diagnostic("tab", "no number, in --set x=1\t2", None)
    assert "x=1\N{RIGHTWARDS ARROW}2" in render([found], "a", text)
    report = render([Diagnostic("tab", "a tab", Span(1, 3, 4))], "a", text)
    assert report.split("\n")[4] == "  |   ^^^^"


def test_errors_and_warnings_are_counted_apart() -> None:
    late = warning("slow", "slow", Span(3, 1, 2))
    report = render([late, BAD_NAME, BAD_VALUE], "bad.yaml", TEXT)
    assert "\n\nwarning[slow]: slow\n" in report
    assert report.endswith("bad.yaml: 2 errors, 1 warning")
    assert render([late], "bad.yaml", TEXT).endswith("bad.yaml: 1 warning")


def test_a_span_beyond_the_text_is_no_error() -> None:
    for span in (Span(9, 9, 10), Span(1, 50, 60), Span(0, 1, 1)):
        assert "^" in render([Diagnostic("bad", "bad", span)], "a", TEXT)


def test_many_errors_are_counted_but_not_all_shown() -> None:
    found = [Diagnostic("bad", "bad", Span(line, 1, 2)) for line in range(1, 1001)]
    report = render(found, "a", "x\n" * 1000)
    assert report.endswith("... and 950 more\n\na: 1000 errors")


def test_slips() -> None:
    assert closest("HW", ["H", "HV", "K"]) in ("H", "HV")
    assert closest("hv", ["H", "HV"]) == "HV"
    assert closest("sigmod", ["sigmoid", "silu"]) == "sigmoid"
    assert closest("nothing", ["H"]) is None and closest("x" * 10000, ["x"]) is None
