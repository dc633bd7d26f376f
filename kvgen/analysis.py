"""What is known of a spec once it is read and derived: what every later stage starts from."""

from __future__ import annotations

from dataclasses import dataclass

from kvgen.algebra.form import Form
from kvgen.algebra.records import Records
from kvgen.language.spec import Spec


@dataclass(frozen=True)
class Analysis:
    """A spec, its derived form, and what its tokens leave in the buffer."""

    spec: Spec
    form: Form
    records: Records
