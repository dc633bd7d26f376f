"""A spec may call its values as kernels call theirs: its own step aside for what templates use."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import kvgen
from kvgen import compiler
from kvgen.codegen.names import KERNEL_NAMES
from kvgen.diagnostics import SpecError
from kvgen.language.names import STRIDES, refusal
from kvgen.shipped import resolve

TEMPLATES = Path(kvgen.__file__).parents[1] / "templates"
# what kernels with values of a spec are made of
FILES = (
    "arguments.jinja", "chain.py.jinja", "chunk.py.jinja", "decode.py.jinja", "decoding.jinja",
    "finish.py.jinja", "folding.jinja", "macros.jinja", "programs.jinja", "short.py.jinja",
    "short_decode.py.jinja", "short_window.py.jinja", "step.py.jinja", "window.py.jinja",
    "windows.jinja",
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


@pytest.mark.parametrize("name", [*sorted(STRIDES), "x_real", "first"])
def test_no_argument_is_called_as_a_value_of_a_kernel(name: str) -> None:
    """Strides of tokens are named after inputs, and would hide what kernels have of tokens."""
    stems = {each.removesuffix("_token") for each in KERNEL_NAMES if "_token" in each}
    assert not [stem for stem in stems - STRIDES if refusal(stem) is None]
    spec = f"""\
kvgen: 1
name: named
sizes: {{H: 1, HV: 1, K: 4, V: 4}}
inputs: {{q: [H, K], k: [H, K], v: [HV, V], {name}: [HV, V]}}
state: {{S: [HV, K, V]}}
step: |
  S = S + outer(k, v)
  o = rmsnorm(q @ S) * {name}
"""
    if name in STRIDES:
        with pytest.raises(SpecError, match=f"'{name}' is reserved for generated modules"):
            compiler.analyse(spec)
        # a value of the step may have the name
        spec = spec.replace(f"{name}: [HV, V]", "z: [HV, V]").replace(
            "S = S", f"{name} = z\n  S = S"
        )
    compile(compiler.emit(compiler.analyse(spec), {}, untimed=True), "module", "exec")


def test_what_reference_calls_is_no_name_of_a_spec() -> None:
    text = compiler.emit(compiler.analyse(resolve("qwen3_next_layer")), {})
    (found,) = [x for x in ast.parse(text).body if getattr(x, "name", "") == "reference"]
    assert isinstance(found, ast.FunctionDef)
    names = [x for x in ast.walk(found) if isinstance(x, ast.Name)]
    own = {x.id for x in names if isinstance(x.ctx, ast.Store)}
    own |= {each.arg for each in (*found.args.args, *found.args.kwonlyargs)}
    assert not [x.id for x in names if x.id not in own and refusal(x.id) is None]
