"""What is known of a spec once it is read and derived: what every later stage starts from."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.diagnostics import Diagnostic, render
from kvgen.language.spec import Spec


@dataclass(frozen=True)
class Analysis:
    """A spec, its derived form, what its tokens leave in the buffer, and what will disappoint."""

    spec: Spec
    form: Form
    records: Records
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def report(self) -> str:
        """The warnings, each with its source line."""
        return render(self.warnings, self.spec.path, self.spec.original)
