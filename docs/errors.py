"""docs/errors.md: every diagnostic as it is printed for a bad spec of the test suite."""

from __future__ import annotations

import re
from pathlib import Path

BAD = Path(__file__).resolve().parent.parent / "tests" / "bad"

HEAD = """\
# Errors

A spec with errors is refused with all of them at once; nothing is written and the exit status
is 1. Each has a code, a place, and what to write instead. Below, every code as it is printed for
a bad spec of the test suite (`tests/bad`); `python docs/build.py` writes this page anew.
"""


def page() -> str:
    """The text of the page: the first example of every code, by code."""
    examples: dict[str, str] = {}
    for path in sorted(BAD.glob("*.txt"), key=lambda path: (len(path.stem), path.stem)):
        text = path.read_text(encoding="utf-8").rstrip()
        for block in re.split(r"\n\n(?=error\[)", text):
            found = re.match(r"error\[([a-z-]+)\]", block)
            if found and (path.stem.startswith(found[1]) or found[1] not in examples):
                examples.setdefault(found[1], block.split("\n\n")[0])
    sections = [f"## {code}\n\n```\n{examples[code]}\n```\n" for code in sorted(examples)]
    return "\n".join([HEAD, *sections])
