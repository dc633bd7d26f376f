"""A spec may call its values as kernels call theirs: its own step aside for what templates use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kvgen
from kvgen.codegen.names import KERNEL_NAMES
from kvgen.language.names import refusal

TEMPLATES = Path(kvgen.__file__).parents[1] / "templates"
# what kernels with values of a spec are made of
FILES = (
    "arguments.jinja", "chain.py.jinja", "decode.py.jinja", "decoding.jinja", "folding.jinja",
    "macros.jinja", "programs.jinja", "short.py.jinja", "short_decode.py.jinja",
    "short_window.py.jinja", "step.py.jinja", "window.py.jinja", "windows.jinja",
)  # fmt: skip
# those have none
APART = re.compile(
    r"@triton\.jit\ndef (?!_\w+_kernel)\w+"
    r"|@triton\.jit\ndef _short_(advance|fill|copy|carried)_kernel|#: macro (kept|listed_rows)\("
)


def words(text: str) -> set[str]:
    """Names in a template's lines of Triton, but for attributes and names of arguments in calls."""
    functions = re.split(r"(?=^@triton\.jit$)|(?=^\{#)|(?=^#: macro)", text, flags=re.M)
    text = "\n".join(each for each in functions if not APART.match(each))
    text = re.sub(r'"""(.|\n)*?"""|\{\{-?(.|\n)*?-?\}\}|\{%(.|\n)*?%\}|\{#(.|\n)*?#\}', "§", text)
    text = re.sub(r"#.*|\"[^\"]*\"", "", text)
    text = re.sub(r"\b\w+=(?!=)", "", text)
    return set(re.findall(r"(?<![\w.§])[A-Za-z]\w*\b(?!§)", text))


@pytest.mark.parametrize("name", FILES)
def test_what_kernels_use_is_taken(name: str) -> None:
    found = words((TEMPLATES / name).read_text(encoding="utf-8"))
    free = [each for each in found - KERNEL_NAMES if refusal(each) is None]
    assert not sorted(free)
