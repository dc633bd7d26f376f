"""What kernels of drafts share: several tokens of a row, of which any may be rejected."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from kvgen.algebra.form import Form
from kvgen.codegen.cost import Cost
from kvgen.kernels.kernel import Kernel, Rows
from kvgen.language.spec import MAX_WINDOW


class Drafts(Kernel):
    function: ClassVar[str] = "verify"
    several = drafts = True
    most_tokens = MAX_WINDOW
    # even the fastest programs of several tokens spill
    spills = 1024

    @abstractmethod
    def wanted(self, form: Form) -> int:
        """Tokens that it is tuned with where there is room for them."""

    def tokens(self, form: Form) -> int:
        tokens = self.wanted(form)
        if form.factored:
            # factored keys have room for so many
            tokens = min(tokens, 1 << (form.factored.most.bit_length() - 1))
        return tokens

    def moved(self, total: Cost, form: Form, buffer: int) -> float:
        return total.verify_only(self.places(form, buffer), self.tokens(form))

    def cursors(self, rows: Rows, form: Form) -> Any:
        return rows.spread(rows.cache.buffer - self.tokens(form) + 1)
