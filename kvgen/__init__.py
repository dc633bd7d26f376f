"""kvgen: a compiler from linear-attention recurrences in YAML to importable Triton modules."""

from __future__ import annotations

# as type checkers know it: until `typing` is imported nobody could answer an interrupt
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvgen.compiler import compile, load
    from kvgen.diagnostics import SpecError, SpecWarning

__version__ = "0.1.0"
__all__ = ["SpecError", "SpecWarning", "__version__", "compile", "load"]


def __getattr__(name: str) -> Any:
    # on first use: `kvgen list` must not wait for the compiler
    if name in ("compile", "load"):
        from kvgen import compiler

        return getattr(compiler, name)
    if name in ("SpecError", "SpecWarning"):
        from kvgen import diagnostics

        return getattr(diagnostics, name)
    raise AttributeError(f"module 'kvgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
