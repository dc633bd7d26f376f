"""Jinja as templates of modules want it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from functools import cache

import jinja2

from kvgen.data import data_dir
from kvgen.functions.registry import torch_helpers, triton_helpers
from kvgen.rendering.wrapping import WIDTH


@cache
def environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_dir("templates")),
        undefined=jinja2.StrictUndefined,
        line_statement_prefix="#:",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    env.globals |= {"triton_helpers": triton_helpers, "torch_helpers": torch_helpers}
    env.globals["filled"] = _filled
    return env


def _filled(names: Iterable[str]) -> str:
    """Arguments of a kernel, as many a line as there is room for."""
    text = " ".join(f"{name}," for name in names)
    lines = textwrap.wrap(text, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return "".join(f"    {line}\n" for line in lines)
