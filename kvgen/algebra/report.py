"""What is wrong with a step: diagnostics, and expressions as the spec has them, for their help."""

from __future__ import annotations

from kvgen.algebra.graph import Node
from kvgen.diagnostics import Diagnostic, Span
from kvgen.language.spec import Spec
from kvgen.language.syntax import Bin, Expr


class Reported(Exception):
    """The expression holds an error that is already reported."""


class Report:
    """What was wrong with the step of one spec, in the order in which it was found."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.diagnostics: list[Diagnostic] = []

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        help: str | None = None,
        notes: tuple[tuple[str, Span], ...] = (),
    ) -> Reported:
        """Report an error; to be raised where there is no value to go on with."""
        # the turns of a loop repeat their errors in other words
        if all((known.code, known.span) != (code, span) for known in self.diagnostics):
            self.diagnostics.append(Diagnostic(code, message, span, help, notes))
        return Reported()

    def needs_index(self, span: Span, value: Node) -> Reported:
        """The error of a value whose extra axis has no place where it stands."""
        return self.error(
            "axis-extra",
            f"axis {value.axes.extra} is left over: this has axes {value.axes}",
            span,
            f"index it, for example inside `for i in range({value.axes.extra}):`",
        )

    def text(self, expr: Expr, otherwise: str) -> str:
        """The expression as the spec has it, where it is short enough for a line of help."""
        span = expr.span
        found = self.spec.original.split("\n")[span.line - 1][span.column - 1 : span.end - 1]
        whole = 0 < len(found) <= 40 and found.count("(") == found.count(")")
        return found if whole else otherwise

    def within(self, expr: Expr, otherwise: str) -> str:
        """The same as a part of a product or of a difference."""
        shown = self.text(expr, otherwise)
        return f"({shown})" if isinstance(expr, Bin) and shown != otherwise else shown
