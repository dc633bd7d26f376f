"""The derived form in words."""

from __future__ import annotations


def form_text(analysis) -> str:
    return "\n".join(step.source for step in analysis.spec.steps)
